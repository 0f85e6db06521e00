#!/usr/bin/env bash
# Builds another commit of this project, with its kernel and images, below the
# cache directory $1, unless it is there, and prints where: for benchmarks that
# compare with it. $2 names the commit as git does.
set -euo pipefail
cd "$(dirname "$0")/.."
commit=$(git rev-parse --verify --quiet "$2^{commit}") || { echo "base.sh: no commit $2" >&2; exit 1; }
dir=$1/$commit
if [[ ! -d $dir ]]; then
  echo "Building $2 into $dir (once; a kernel that is not in the cache takes half an hour)" >&2
  mkdir -p "$1"
  new=$(mktemp -d "$1/new.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  mkdir "$new/source" "$new/built"
  git archive "$commit" | tar -x -C "$new/source"
  # The caller's make has variables of its own.
  env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS make -C "$new/source" --no-print-directory \
    COMMIT="${commit:0:12}" build kernel image >&2
  mv "$new/source/bin" "$new/source/share" "$new/built/"
  chmod 0755 "$new/built"
  # Another build of the same may have been faster: keep whichever is there.
  mv -T "$new/built" "$dir" 2>/dev/null || [[ -d $dir ]]
fi
echo "$dir"
