#!/usr/bin/env bash
# Fuzzes each fuzz target of the tree for the time given as argument.
set -euo pipefail
cd "$(dirname "$0")/.."

git ls-files '*_test.go' | xargs grep -Ho '^func Fuzz[A-Za-z0-9_]*' |
  while IFS=: read -r file function; do
    go test "./$(dirname "$file")" -run '^$' -fuzz "^${function#func }\$" -fuzztime "$1" </dev/null
  done
