package channel_test

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"kata-runtime/virtcontainers/channel"
)

func pair(t *testing.T) (*channel.Conn, *channel.Conn) {
	t.Helper()
	a, file, err := channel.Pair()
	if err != nil {
		t.Fatal(err)
	}
	b, err := channel.FromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestMessagesKeepTheirFiles(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := a.Send(map[string]string{"k": "v"}, r); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if err := a.Send("second"); err != nil {
		t.Fatal(err)
	}
	var first map[string]string
	files, err := b.Receive(&first)
	if err != nil || len(files) != 1 || first["k"] != "v" {
		t.Fatalf("first message: %v, %d files, %v", first, len(files), err)
	}
	defer files[0].Close()
	if _, err := w.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1)
	if _, err := io.ReadFull(files[0], got); err != nil || got[0] != 'x' {
		t.Fatalf("read through the received descriptor: %q, %v", got, err)
	}
	var second string
	if files, err := b.Receive(&second); err != nil || len(files) != 0 || second != "second" {
		t.Fatalf("second message: %q, %d files, %v", second, len(files), err)
	}
}

func TestReceiveReportsTheEnd(t *testing.T) {
	a, b := pair(t)
	a.Close()
	var v any
	if _, err := b.Receive(&v); !errors.Is(err, io.EOF) {
		t.Fatalf("after the peer's close: %v, want io.EOF", err)
	}
}

func TestSendRefusesWhatIsTooLong(t *testing.T) {
	a, _ := pair(t)
	if err := a.Send(strings.Repeat("x", channel.MaxMessage)); err == nil {
		t.Fatal("a message over the limit was sent")
	}
}

func TestALargeMessageArrivesWhole(t *testing.T) {
	a, b := pair(t)
	want := strings.Repeat("x", channel.MaxMessage-2)
	if err := a.Send(want); err != nil {
		t.Fatal(err)
	}
	var got string
	if _, err := b.Receive(&got); err != nil || got != want {
		t.Fatalf("received %d bytes of %d, %v", len(got), len(want), err)
	}
}
