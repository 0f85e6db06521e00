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

code=0
for ((i = 0; i < ${#targets[@]}; i++)); do
  if [[ -n $limit ]] && ((SECONDS >= limit)); then
    break
  fi
  target=${targets[(first + i) % ${#targets[@]}]}
  if ! go test "./${target%.*}" -run '^$' -fuzz "^${target##*.}\$" -fuzztime "$duration" -fuzzminimizetime 2s "$@" </dev/null; then
    code=1
    [[ ${FAIL-} != fast ]] || exit 1
  fi
done
exit "$code"
