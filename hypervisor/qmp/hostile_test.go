package qmp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kata-runtime/hypervisor/qmp"
)

// A QEMU that takes commands and never answers is given up, also by a caller without
// a deadline.
func TestSilenceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go func() {
			in := bufio.NewReader(theirs)
			_, _ = io.WriteString(theirs, greeting+"\n")
			_, _ = in.ReadString('\n')
			_, _ = io.WriteString(theirs, `{"return": {}, "id": 1}`+"\n")
			_, _ = io.Copy(io.Discard, in)
		}()
		client, err := qmp.New(context.Background(), ours, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		begin := time.Now()
		err = client.Execute(context.Background(), "stop", nil, nil)
		if took := time.Since(begin); !errors.Is(err, qmp.ErrSilent) || took != 2*time.Minute {
			t.Errorf("%v after %s", err, took)
		}
	})
}

// Events in a flood are taken at a bounded rate, and answers still come.
func TestFloodOfEventsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const flood = 20_000
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go func() {
			in := bufio.NewReader(theirs)
			_, _ = io.WriteString(theirs, greeting+"\n")
			_, _ = in.ReadString('\n')
			_, _ = io.WriteString(theirs, `{"return": {}, "id": 1}`+"\n")
			_, _ = in.ReadString('\n')
			line := `{"event": "RTC_CHANGE", "data": {"offset": 1}}` + "\n"
			for range flood / 1000 {
				_, _ = io.WriteString(theirs, strings.Repeat(line, 1000))
			}
			_, _ = io.WriteString(theirs, `{"return": {}, "id": 2}`+"\n")
		}()
		var events []time.Time
		client, err := qmp.New(context.Background(), ours, func(qmp.Event) { events = append(events, time.Now()) })
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := client.Execute(context.Background(), "x", nil, nil); err != nil {
			t.Fatal(err)
		}
		took := time.Since(begin)
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		if most := 4096 + int(took/time.Millisecond) + 1; len(events) != flood || len(events) > most {
			t.Errorf("%d events in %s", len(events), took)
		}
	})
}

// So are answers that nobody has asked for.
func TestFloodOfAnswersIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const flood, least = 8000, 3900 * time.Millisecond
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go func() {
			in := bufio.NewReader(theirs)
			_, _ = io.WriteString(theirs, greeting+"\n")
			_, _ = in.ReadString('\n')
			_, _ = io.WriteString(theirs, `{"return": {}, "id": 1}`+"\n")
			_, _ = in.ReadString('\n')
			_, _ = io.WriteString(theirs, strings.Repeat(`{"return": {}, "id": 1}`+"\n", flood))
			_, _ = io.WriteString(theirs, `{"return": {}, "id": 2}`+"\n")
		}()
		client, err := qmp.New(context.Background(), ours, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		begin := time.Now()
		if err := client.Execute(context.Background(), "x", nil, nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < least {
			t.Errorf("all were read in %s", took)
		}
	})
}

// What is too deep, too long or too much ends the connection or is cut, and takes no
// more memory than its message.
func TestExcess(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		ends   bool
	}{
		"deep":            {`{"return": ` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `, "id": %d}`, true},
		"deep argument":   {`{"event": "X", "data": ` + strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000) + `, "id": %d}`, true},
		"long error":      {`{"error": {"class": "GenericError", "desc": "` + strings.Repeat("\\u202e", 500_000) + `"}, "id": %d}`, false},
		"no end of lines": {strings.Repeat("\n", 1000) + `{"return": {}, "id": %d}`, true},
		"long line":       {`{"return": "` + strings.Repeat("x", 5<<20) + `", "id": %d}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			client, p := connect(t, nil)
			go func() {
				id := p.hear().ID
				_, _ = fmt.Fprintf(p.conn, c.answer+"\n", id) // the client may have hung up
			}()
			err := client.Execute(t.Context(), "x", nil, &struct{}{})
			if err == nil || errors.Is(err, qmp.ErrClosed) != c.ends {
				t.Fatalf("got %.200v", err)
			}
			if text := err.Error(); len(text) > 64<<10 {
				t.Errorf("an error of %d bytes", len(text))
			}
		})
	}
}

// FuzzPeer lets QEMU say anything after its greeting: every call ends, and what it gets
// is JSON.
func FuzzPeer(f *testing.F) {
	for _, seed := range []string{
		`{"return": {}, "id": 2}`, `{"return": [], "id": 2}{"return": {}, "id": 2}`, `{"id": 2, "error": {}}`,
		`{"event": "STOP"}` + "\n" + `{"return": {"a": [1, {"b": null}]}, "id": 2}`, `{"return": {}, "id": 18446744073709551615}`,
		`{"return": {}, "id": 2.0}`, "\x00\xff", `{"QMP": {}}`, `{"event": "SHUTDOWN", "timestamp": {"seconds": 9223372036854775807}}`,
	} {
		f.Add([]byte(seed + "\n"))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			in := bufio.NewReader(theirs)
			_, _ = io.WriteString(theirs, greeting+"\n")
			_, _ = in.ReadString('\n')
			_, _ = io.WriteString(theirs, `{"return": {}, "id": 1}`+"\n")
			_, _ = in.ReadString('\n')
			_, _ = theirs.Write(said)
		}()
		client, err := qmp.New(t.Context(), ours, func(e qmp.Event) {
			var fields map[string]any
			_ = e.Decode(&fields)
		})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		var got json.RawMessage
		if err := client.Execute(t.Context(), "x", nil, &got); err == nil && !json.Valid(got) {
			t.Errorf("got %q", got)
		}
	})
}
