#!/usr/bin/env bash
# Builds the tools that test/tools/go.mod pins, or test/tools/$2/go.mod when a
# second argument is there, into a directory below $1, unless they are there,
# and prints that directory. It is named after the tools' versions, how they are
# built, and Go's version, so that a stale tool is never used.
set -euo pipefail
cd "$(dirname "$0")/tools/${2-}"

flags=()
case ${2-} in
  # Without what needs libraries of file systems, and what no test uses.
  containerd) flags=(-tags seccomp,no_btrfs,no_devmapper,no_zfs,no_tracing,urfave_cli_no_docs) ;;
esac
key=$({ go env GOVERSION GOOS GOARCH; cat go.mod go.sum; printf %s "${flags[*]}"; } | sha256sum | cut -c1-16)
dir=$1/$key
if [[ ! -d $dir ]]; then
  echo "Building $(sed -n '/^tool (/,/^)/s|.*/||p' go.mod | xargs) into $dir (a few minutes, once)" >&2
  mkdir -p "$1"
  new=$(mktemp -d "$1/new.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  go build -trimpath -ldflags '-s -w' "${flags[@]}" -o "$new/" tool >&2
  chmod 0755 "$new"
  # Another build of the same may have been faster: keep whichever is there.
  mv -T "$new" "$dir" 2>/dev/null || [[ -d $dir ]]
fi
echo "$dir"
