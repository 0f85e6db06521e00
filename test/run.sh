#!/usr/bin/env bash
# Runs every test and prints one summary: first what needs neither root nor a
# VM, with the race detector, and two minutes of fuzzing, then what does, two
# packages at a time because an emulated VM takes a whole core, and at last the short
# part of the lab.
# With --lab it runs all of the lab, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ${1-} == --json ]]; then
  code=0
  go test -json -race ./... || code=1
  # Their seeds were tests above; here is new input.
  test/fuzz.sh --in-all 120 -json || code=1
  # Packages that have a test file behind the tag, and no others again.
  tagged=$(comm -13 <(go list -f '{{$p := .ImportPath}}{{range .TestGoFiles}}{{$p}} {{.}}
{{end}}{{range .XTestGoFiles}}{{$p}} {{.}}
{{end}}' ./... | sort -u) <(go list -tags vm -f '{{$p := .ImportPath}}{{range .TestGoFiles}}{{$p}} {{.}}
{{end}}{{range .XTestGoFiles}}{{$p}} {{.}}
{{end}}' ./... | sort -u) | cut -d' ' -f1 | sort -u)
  # The longest first, so that it is not alone at the end. Each package has namespaces,
  # control groups and a /run of its own.
  longest=kata-runtime/test/vm
  others=$(grep -vx "$longest" <<<"$tagged" || true)
  # shellcheck disable=SC2086 # one argument per package
  [[ -z $tagged ]] || go test -json -tags vm -p 2 -count=1 -timeout 60m $longest $others || code=1
  go run ./test/lab -short || code=1
  exit $code
fi

command=(test/run.sh --json)
[[ ${1-} != --lab ]] || command=(go run ./test/lab "${@:2}")
tools=$(test/tools.sh "${XDG_CACHE_HOME:-$HOME/.cache}/kata-runtime/tools")
"$tools/gotestsum" --format pkgname-and-test-fails --format-hide-empty-pkg \
  --raw-command -- "${command[@]}"
