#!/usr/bin/env bash
# Builds the development tools that test/tools/go.mod pins into a directory
# below $1, unless they are there, and prints that directory. The directory is
# named after the tools' versions and Go's, so that a stale tool is never used.
set -euo pipefail
cd "$(dirname "$0")/tools"

key=$({ go env GOVERSION GOOS GOARCH; cat go.mod go.sum; } | sha256sum | cut -c1-16)
dir=$1/$key
if [[ ! -x $dir/golangci-lint || ! -x $dir/gotestsum ]]; then
  echo "Building golangci-lint and gotestsum into $dir (a few minutes, once)" >&2
  mkdir -p "$1"
  new=$(mktemp -d "$1/new.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  go build -trimpath -ldflags '-s -w' -o "$new/" tool >&2
  chmod 0755 "$new"
  # Another build of the same may have been faster: keep whichever is there.
  mv -T "$new" "$dir" 2>/dev/null || [[ -x $dir/golangci-lint ]]
fi
echo "$dir"
