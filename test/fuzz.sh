#!/usr/bin/env bash
# Fuzzes the fuzz targets of the tree.
#
#   test/fuzz.sh DURATION [FLAG...]           each of them for that long
#   test/fuzz.sh --in-all SECONDS [FLAG...]   some of them, within that time, building
#                                             included; which ones the commit decides
#
# Flags are go test's, such as -parallel 1. FUZZ=PATTERN chooses among the targets, by
# PACKAGE.NAME. It ends with the first fault only where that is asked for by FAIL=fast.
set -euo pipefail
cd "$(dirname "$0")/.."

limit=
if [[ ${1-} == --in-all ]]; then
  limit=$2
  duration=10s
  shift 2
else
  duration=${1:?usage: test/fuzz.sh DURATION | --in-all SECONDS}
  shift
fi

mapfile -t targets < <(git ls-files --cached --others --exclude-standard '*_test.go' | xargs grep -Ho '^func Fuzz[A-Za-z0-9_]*' |
  sed -E 's|/[^/]*:func |.|' | sort | grep -E "${FUZZ:-.}")
first=0
if [[ -n $limit ]]; then
  # Another part of them with each commit, the same one when it is repeated.
  first=$(($(git rev-list --count HEAD 2>/dev/null || date +%j) * 7 % ${#targets[@]}))
fi

output=$(mktemp)
trap 'rm -f "$output"' EXIT

# fuzz fuzzes a target, and shows its output: as it comes, or with --in-all once it is
# known not to have failed for the reason that only_time_is_up tells.
fuzz() { # TARGET FLAG...
  local target=$1
  shift
  local command=(go test "./${target%.*}" -run '^$' -fuzz "^${target##*.}\$" -fuzztime "$duration" -fuzzminimizetime 2s "$@")
  if [[ -z $limit ]]; then
    "${command[@]}" </dev/null | tee "$output" || only_time_is_up "$target"
  elif "${command[@]}" </dev/null >"$output"; then
    cat "$output"
  else
    only_time_is_up "$target" || { cat "$output" && return 1; }
  fi
}

# only_time_is_up tells whether a failure is one of Go's own before 1.27: of the end of
# its time it makes an error now and then (https://go.dev/issue/75804). An input that
# fails is written to a file.
only_time_is_up() { # TARGET
  grep -q 'context deadline exceeded' "$output" && ! grep -q 'Failing input written' "$output" || return
  echo "$1: no input has failed; that its time was up is no failure" >&2
}

code=0
for ((i = 0; i < ${#targets[@]}; i++)); do
  if [[ -n $limit ]] && ((SECONDS >= limit)); then
    break
  fi
  target=${targets[(first + i) % ${#targets[@]}]}
  if ! fuzz "$target" "$@"; then
    code=1
    [[ ${FAIL-} != fast ]] || exit 1
  fi
done
exit "$code"
