package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"testing"
)

// FuzzMessages feeds lines to the reader and the decoder: every message that
// they accept has exactly one kind, and its parts are JSON.
func FuzzMessages(f *testing.F) {
	for _, seed := range []string{
		`{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}`,
		`{"return": {}, "id": 1}` + "\r\n" + `{"return": [], "id": 2}`,
		`{"id": 3, "error": {"class": "CommandNotFound", "desc": "no"}}`,
		`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}`,
		`{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "RESUME"}`,
		`{"event": "DEVICE_DELETED", "data": {"path": "/machine/peripheral/d0"}}`,
		`{}`, `null`, `[]`, "\n\n\n", `{"return": null, "id": 1}`, `{"return": {}, "id": -1}`,
		`{"return": {}, "error": {}}`, "{\"event\": \"\xff\"}",
	} {
		f.Add([]byte(seed + "\n"))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		reader := bufio.NewReaderSize(bytes.NewReader(input), 16)
		var scratch []byte
		for {
			line, err := readLine(reader, &scratch)
			if err != nil {
				return
			}
			m, err := decode(line)
			if err != nil {
				continue
			}
			if m.Event != "" {
				var fields map[string]any
				_ = m.event().Decode(&fields)
			}
			if m.Return != nil && !json.Valid(m.Return) {
				t.Fatalf("%q has no valid answer", line)
			}
		}
	})
}

func TestReadLine(t *testing.T) {
	reader := bufio.NewReaderSize(bytes.NewBufferString("\r\n\n a long line\r\nnext\ncut"), 16)
	var scratch []byte
	for _, want := range []string{"a long line", "next"} {
		if line, err := readLine(reader, &scratch); err != nil || string(line) != want {
			t.Errorf("got %q, %v", line, err)
		}
	}
	if line, err := readLine(reader, &scratch); err == nil {
		t.Errorf("a cut line was taken: %q", line)
	}
}
