package protocol_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"kata-runtime/guest/protocol"
)

func TestStreamHeaderRoundTrip(t *testing.T) {
	for _, header := range []protocol.StreamHeader{
		{},
		{Container: "c", Stream: protocol.Stdout},
		{Container: strings.Repeat("x", 1024), Process: strings.Repeat("y", 1024), Stream: protocol.Stderr},
	} {
		var wire bytes.Buffer
		if err := protocol.WriteStreamHeader(&wire, header); err != nil {
			t.Fatal(err)
		}
		wire.WriteString("data that follows")
		got, err := protocol.ReadStreamHeader(&wire)
		if err != nil || got != header {
			t.Errorf("read %+v, %v; want %+v", got, err, header)
		}
		if wire.String() != "data that follows" {
			t.Errorf("reading the header took data: %q is left", wire.String())
		}
	}
}

func TestStreamHeaderRefusals(t *testing.T) {
	long := strings.Repeat("x", 1025)
	for _, header := range []protocol.StreamHeader{{Container: long}, {Process: long}} {
		if err := protocol.WriteStreamHeader(io.Discard, header); !errors.Is(err, protocol.ErrBadHeader) {
			t.Errorf("writing a long name: %v", err)
		}
	}
	for name, wire := range map[string]string{
		"magic":  "KST2\x00\x00\x00\x00\x00",
		"stream": "KST1\x03\x00\x00\x00\x00",
		"length": "KST1\x00\x04\x01" + long,
	} {
		if _, err := protocol.ReadStreamHeader(strings.NewReader(wire)); !errors.Is(err, protocol.ErrBadHeader) {
			t.Errorf("%s: %v, want ErrBadHeader", name, err)
		}
	}
	for cut := range 11 {
		if _, err := protocol.ReadStreamHeader(strings.NewReader("KST1\x00\x00\x01a\x00\x01b"[:cut])); err == nil || errors.Is(err, protocol.ErrBadHeader) {
			t.Errorf("header cut after %d bytes: %v, want the reader's error", cut, err)
		}
	}
}

func TestStreamNames(t *testing.T) {
	for stream, want := range map[protocol.Stream]string{
		protocol.Stdin: "stdin", protocol.Stdout: "stdout", protocol.Stderr: "stderr", 9: "stream 9",
	} {
		if got := stream.String(); got != want {
			t.Errorf("stream %d is called %q", uint8(stream), got)
		}
	}
}

func FuzzReadStreamHeader(f *testing.F) {
	f.Add([]byte("KST1\x01\x00\x01a\x00\x01b"))
	f.Add([]byte("KST1\x00\xff\xff"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		header, err := protocol.ReadStreamHeader(bytes.NewReader(wire))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := protocol.WriteStreamHeader(&again, header); err != nil || !bytes.HasPrefix(wire, again.Bytes()) {
			t.Fatalf("%x was read as %+v, which is written as %x, %v", wire, header, again.Bytes(), err)
		}
	})
}
