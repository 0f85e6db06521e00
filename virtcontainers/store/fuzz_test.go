package store

import (
	"encoding/json"
	"errors"
	"testing"
)

// FuzzRecord: no state file makes reading it panic, and what is read is written and
// read as the same.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"incarnation":"abc","version":1,"id":"c1","status":"running","standInPid":3,"standInStartTime":5,"sandboxId":"p1","created":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"incarnation":"abc","version":7,"new":{}}`))
	f.Add([]byte(`{"version":1,"cgroup":{"path":"/a"},"annotations":{"a":"b"},"exitCode":-1}`))
	f.Add([]byte(`{"version":"1"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) {
				t.Errorf("%v", err)
			}
			if r.StandInPID != 0 || r.SupervisorPID != 0 {
				t.Errorf("of a file that cannot be read: %+v", r)
			}
			return
		}
		first, err := json.Marshal(r)
		if err != nil {
			return // a time that JSON has no text for
		}
		again, err := parseRecord(first)
		if err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		second, err := json.Marshal(again)
		if err != nil || string(first) != string(second) {
			t.Errorf("%s became %s, %v", first, second, err)
		}
	})
}

// FuzzParseStat: a process has the name that it likes.
func FuzzParseStat(f *testing.F) {
	f.Add("a", "S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0")
	f.Add(") R 1 (", "Z 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 99 0 0")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, name, rest string) {
		state, start, err := parseStat("7 (" + name + ") " + rest)
		if err == nil && state == 0 {
			t.Errorf("state %d, start %d", state, start)
		}
		// The name has no say, as long as it is before the last parenthesis.
		other, otherStart, otherErr := parseStat("7 (x) " + rest)
		if (err == nil) != (otherErr == nil) || err == nil && (state != other || start != otherStart) {
			t.Errorf("%c %d %v, with another name %c %d %v", state, start, err, other, otherStart, otherErr)
		}
	})
}
