#!/usr/bin/env bash
# Builds the tools that test/tools/go.mod pins, or test/tools/$2/go.mod when a
# second argument is there, into a directory below $1, unless they are there,
# and prints that directory. It is named after the tools' versions, how they are
# built, and Go's version, so that a stale tool is never used.
set -euo pipefail
cd "$(dirname "$0")/tools/${2-}"

flags=() stamp=
case ${2-} in
  # Without what needs libraries of file systems, and what no test uses.
  containerd) flags=(-tags seccomp,no_btrfs,no_devmapper,no_zfs,no_tracing,urfave_cli_no_docs) ;;
  crio) flags=(-tags seccomp,containers_image_openpgp,containers_image_ostree_stub,exclude_graphdriver_btrfs,exclude_graphdriver_devicemapper) ;;
  # Its compilations are large: two at a time. Clients are told the version.
  kubernetes)
    export CGO_ENABLED=0
    flags=(-p 2)
    stamp=" -X k8s.io/component-base/version.gitVersion=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)"
    ;;
esac

# pinns is the program in C with which CRI-O makes a pod's namespaces.
pinns() { gcc -std=c99 -Os -s -static -o "$1/pinns" "$(go list -m -f '{{.Dir}}' github.com/cri-o/cri-o)"/pinns/src/*.c; }

# compile builds the tools into a directory; critest is a test program.
compile() {
  if [[ ${2-} == critest ]]; then
    go test -c -trimpath -ldflags '-s -w' -o "$1/critest" sigs.k8s.io/cri-tools/cmd/critest
  else
    go build -trimpath -ldflags "-s -w$stamp" "${flags[@]}" -o "$1/" tool
  fi
}

key=$({ go env GOVERSION GOOS GOARCH; cat go.mod go.sum; printf %s "${flags[*]}$stamp"; [[ ${2-} != crio ]] || declare -f pinns; [[ ${2-} != critest ]] || declare -f compile; } |
  sha256sum | cut -c1-16)
dir=$1/$key
if [[ ! -d $dir ]]; then
  echo "Building ${2:-$(go list -f '{{.Target}}' tool | sed 's|.*/||' | xargs)} into $dir (a few minutes, once)" >&2
  mkdir -p "$1"
  new=$(mktemp -d "$1/new.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  compile "$new" "${2-}" >&2
  [[ ${2-} != crio ]] || pinns "$new"
  [[ ${2-} != kubernetes ]] || mv "$new/server" "$new/etcd" # the last part of its package's path
  chmod 0755 "$new"
  # Another build of the same may have been faster: keep whichever is there.
  mv -T "$new" "$dir" 2>/dev/null || [[ -d $dir ]]
fi
echo "$dir"
