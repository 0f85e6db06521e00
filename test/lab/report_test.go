package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"kata-runtime/test/lab/internal/wire"
)

// outcomes are how each package and test of a report ended, and its output.
func outcomes(t *testing.T, report string) (ended map[string]string, output string) {
	t.Helper()
	ended = map[string]string{}
	for line := range strings.Lines(report) {
		var e struct{ Action, Package, Test, Output string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		switch e.Action {
		case "pass", "fail", "skip":
			ended[strings.TrimSuffix(e.Package+" "+e.Test, " ")] = e.Action
		case "output":
			output += e.Output
		}
	}
	return ended, output
}

func TestReport(t *testing.T) {
	zero, one := 0, 1
	ready := wire.Message{Ready: "Linux"}
	// As a test program writes with -test.v=test2json.
	good := []byte("\x16=== RUN   TestA\n\x16--- PASS: TestA (0.00s)\n\x16PASS\n")
	bad := []byte("\x16=== RUN   TestB\n    b_test.go:1: no luck\n\x16--- FAIL: TestB (0.00s)\n\x16FAIL\n")
	for _, test := range []struct {
		name     string
		messages []wire.Message
		err      error // of the machine
		want     map[string]string
		output   string
	}{
		{
			"all is well",
			[]wire.Message{ready, {Output: good}, {Exit: &zero}, {Run: 1, Output: good[len(good)-6:]}, {Run: 1, Exit: &zero}},
			nil,
			map[string]string{"lab/first": "pass", "lab/first TestA": "pass", "lab/second": "pass", "lab/machine": "pass"},
			"Linux",
		},
		{
			"a test fails",
			[]wire.Message{ready, {Output: good}, {Exit: &zero}, {Run: 1, Output: bad}, {Run: 1, Exit: &one}},
			nil,
			map[string]string{
				"lab/first": "pass", "lab/first TestA": "pass", "lab/second": "fail", "lab/second TestB": "fail", "lab/machine": "pass",
			},
			"no luck",
		},
		{
			// What a test program does after its tests can fail too.
			"a program fails",
			[]wire.Message{ready, {Output: good}, {Exit: &one}, {Run: 1, Output: good[len(good)-6:]}, {Run: 1, Exit: &zero}},
			nil,
			map[string]string{"lab/first": "fail", "lab/first TestA": "pass", "lab/second": "pass", "lab/machine": "pass"},
			"exit status 1",
		},
		{
			"a program ends itself",
			[]wire.Message{ready, {Output: good[:20]}, {Exit: &zero}, {Run: 1, Exit: &one}},
			nil,
			map[string]string{"lab/first": "fail", "lab/second": "fail", "lab/machine": "pass"},
			"without PASS",
		},
		{
			"the machine dies under a test",
			[]wire.Message{ready, {Output: good[:20]}},
			errors.New("the console says why"),
			map[string]string{"lab/first": "fail", "lab/machine": "fail"},
			"the console says why",
		},
		{
			"the machine ends early",
			[]wire.Message{ready, {Output: good}, {Exit: &zero}},
			nil,
			map[string]string{"lab/first": "pass", "lab/first TestA": "pass", "lab/machine": "fail"},
			"ended before second",
		},
		{
			"the machine does not boot", nil, errors.New("the console says why"),
			map[string]string{"lab/machine": "fail"},
			"the console says why",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			r := newReport(&out, []set{{name: "first"}, {name: "second"}})
			for _, message := range test.messages {
				if err := r.receive(t.Context(), message); err != nil {
					t.Fatal(err)
				}
			}
			good := r.finish(test.err)
			ended, output := outcomes(t, out.String())
			if good != (test.want["lab/machine"] == "pass") {
				t.Errorf("the machine did well: %v", good)
			}
			for name, want := range test.want {
				if ended[name] != want {
					t.Errorf("%s: %q, want %s", name, ended[name], want)
				}
			}
			if len(ended) != len(test.want) || !strings.Contains(output, test.output) {
				t.Errorf("%v, %s", ended, output)
			}
		})
	}
}

func TestReportRefuses(t *testing.T) {
	r := newReport(&bytes.Buffer{}, []set{{name: "first"}})
	for _, message := range []wire.Message{{Run: 1}, {Run: -1}, {Failure: "no KVM"}} {
		if err := r.receive(t.Context(), message); err == nil {
			t.Errorf("%+v was taken", message)
		}
	}
}
