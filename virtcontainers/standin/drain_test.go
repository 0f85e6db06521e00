package standin

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// draining is a stand-in whose process has exited, with one output stream that
// goes to a pipe, as the kernel or as this process copies it.
func draining(t *testing.T, attached, splice bool) (s *standIn, guest, reader *os.File) {
	t.Helper()
	from, guest := pipe(t)
	reader, to := pipe(t)
	s = &standIn{patience: 50 * time.Millisecond, settings: settings{Attached: attached}}
	o := &output{from: from, done: make(chan struct{})}
	s.output = []*output{o}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer to.Close()
		defer close(o.done)
		if splice {
			copyStream(int(to.Fd()), int(from.Fd()), &o.flow)
		} else {
			copyThrough(int(to.Fd()), int(from.Fd()), &o.flow)
		}
	}()
	t.Cleanup(func() {
		guest.Close()
		reader.Close()
		<-ended
	})
	return s, guest, reader
}

// A guest that ends no stream is given up, whoever is attached.
func TestSilentGuest(t *testing.T) {
	for _, attached := range []bool{true, false} {
		for _, splice := range []bool{true, false} {
			s, guest, reader := draining(t, attached, splice)
			if _, err := guest.WriteString("last words"); err != nil {
				t.Fatal(err)
			}
			text := make([]byte, len("last words"))
			if _, err := io.ReadFull(reader, text); err != nil || string(text) != "last words" {
				t.Fatalf("%q, %v", text, err)
			}
			s.takeRest(nil) // returns
		}
	}
}

// A reader that is attached may take its time: what the guest has said waits.
func TestSlowReader(t *testing.T) {
	for _, splice := range []bool{true, false} {
		s, guest, reader := draining(t, true, splice)
		text := strings.Repeat("0123456789", 100000) // more than the pipes hold
		go func() {
			_, _ = guest.WriteString(text)
			guest.Close()
		}()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			s.takeRest(nil)
		}()
		select {
		case <-drained:
			t.Fatal("given up before the reader has read")
		case <-time.After(5 * s.patience):
		}
		if got, err := io.ReadAll(reader); err != nil || string(got) != text {
			t.Errorf("%d bytes of %d came, %v", len(got), len(text), err)
		}
		<-drained
	}
}

// One that nobody waits for is given up.
func TestReaderThatTakesNothing(t *testing.T) {
	s, guest, _ := draining(t, false, true)
	go func() { _, _ = guest.WriteString(strings.Repeat("0123456789", 100000)) }()
	s.takeRest(nil) // returns
}
