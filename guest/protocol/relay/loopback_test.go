package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestServiceHeader(t *testing.T) {
	for _, want := range []ServiceHeader{
		{Network: TCP, Address: netip.MustParseAddrPort("127.0.0.11:53")},
		{Network: UDP, Address: netip.MustParseAddrPort("[::1]:65535")},
	} {
		want.Token = strings.Repeat("t", TokenLength)
		var buf bytes.Buffer
		if err := WriteServiceHeader(&buf, want); err != nil {
			t.Fatal(err)
		}
		buf.WriteString("data")
		got, err := ReadServiceHeader(&buf)
		if err != nil || got != want {
			t.Errorf("read %+v, %v, want %+v", got, err, want)
		}
		if rest := buf.String(); rest != "data" {
			t.Errorf("reading the header left %q", rest)
		}
	}
}

func TestForwardHeader(t *testing.T) {
	for _, want := range []ForwardHeader{{Port: 80}, {IPv6: true, Port: 65535}} {
		var buf bytes.Buffer
		if err := WriteForwardHeader(&buf, want); err != nil {
			t.Fatal(err)
		}
		buf.WriteString("data")
		got, err := ReadForwardHeader(&buf)
		if err != nil || got != want {
			t.Errorf("read %+v, %v, want %+v", got, err, want)
		}
		if rest := buf.String(); rest != "data" {
			t.Errorf("reading the header left %q", rest)
		}
	}
}

func TestBadLoopbackHeaders(t *testing.T) {
	token := strings.Repeat("t", TokenLength)
	if err := WriteServiceHeader(io.Discard, ServiceHeader{Token: "t"}); !errors.Is(err, ErrMalformed) {
		t.Errorf("short token: %v", err)
	}
	rest := strings.Repeat("\x00", addressLength+2)
	for name, text := range map[string]string{
		"magic":   headerMagic + token + "\x01" + rest,
		"network": serviceMagic + token + "\x03" + rest,
	} {
		if _, err := ReadServiceHeader(strings.NewReader(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"magic":  serviceMagic + "\x04\x00\x50",
		"family": forwardMagic + "\x05\x00\x50",
		"port":   forwardMagic + "\x04\x00\x00",
	} {
		if _, err := ReadForwardHeader(strings.NewReader(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadForwardHeader(strings.NewReader(forwardMagic)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off: %v", err)
	}
}

func TestAnswers(t *testing.T) {
	for text, want := range map[string]error{
		string(Accepted): nil,
		string(Refused):  ErrRefused,
		"":               ErrRefused,
		"x":              ErrMalformed,
	} {
		if err := ReadAnswer(strings.NewReader(text)); !errors.Is(err, want) {
			t.Errorf("answer %q: %v, want %v", text, err, want)
		}
	}
}

func TestDatagrams(t *testing.T) {
	var buf bytes.Buffer
	texts := []string{"", "short", strings.Repeat("x", MaxDatagram), "again"}
	for _, text := range texts {
		if err := WriteDatagram(&buf, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteDatagram(&buf, make([]byte, MaxDatagram+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("too large: %v", err)
	}
	buf.WriteString("\x00\x05cut")
	var buffer []byte
	for _, text := range texts {
		data, err := ReadDatagram(&buf, buffer)
		if err != nil || string(data) != text {
			t.Errorf("read %.20q, %v, want %.20q", data, err, text)
		}
		buffer = data
	}
	if _, err := ReadDatagram(&buf, buffer); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off: %v", err)
	}
	if _, err := ReadDatagram(&buf, buffer); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

// tcpPair returns both ends of a TCP connection.
func tcpPair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dialled.Close()
		accepted.Close()
	})
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// A TCP connection whose relay breaks is reset, one that has ended is not.
func TestTCPSocketEndsOrBreaks(t *testing.T) {
	for name, test := range map[string]struct {
		frames string
		want   error
	}{
		"end":       {"\x00\x00\x00\x02hi\x00\x00\x00\x00", nil},
		"hang up":   {"\x00\x00\x00\x02hi", syscall.ECONNRESET},
		"malformed": {"\x7f\x00\x00\x00", syscall.ECONNRESET},
		"unwanted":  {"\xff\xff\xff\xff", syscall.ECONNRESET},
	} {
		program, local := tcpPair(t)
		near, far := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- Copy(context.Background(), TCPSocket{local}, near) }()
		go func() { _, _ = io.Copy(io.Discard, far) }()
		if _, err := io.WriteString(far, test.frames); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if test.want == nil {
			if err := program.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		} else if name == "hang up" {
			far.Close()
		}
		if _, err := io.ReadAll(program); !errors.Is(err, test.want) {
			t.Errorf("%s: the program sees %v, want %v", name, err, test.want)
		}
		if err := <-done; (err == nil) != (test.want == nil) {
			t.Errorf("%s: Copy returns %v", name, err)
		}
		far.Close()
	}
}

func TestIdle(t *testing.T) {
	ended := make(chan struct{})
	idle := NewIdle(time.Millisecond, func() { close(ended) })
	idle.Touch()
	<-ended
	idle.Stop()
	NewIdle(time.Hour, func() { t.Error("ended an idle that was stopped") }).Stop()
}

func FuzzReadServiceHeader(f *testing.F) {
	var buf bytes.Buffer
	err := WriteServiceHeader(&buf, ServiceHeader{
		Token: strings.Repeat("t", TokenLength), Network: UDP, Address: netip.MustParseAddrPort("127.0.0.11:53"),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Add([]byte(serviceMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ReadServiceHeader(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := WriteServiceHeader(&again, h); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadServiceHeader(&again); err != nil || got != h {
			t.Errorf("read %+v, %v, want %+v", got, err, h)
		}
	})
}

func FuzzReadForwardHeader(f *testing.F) {
	f.Add([]byte(forwardMagic + "\x06\x00\x50"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ReadForwardHeader(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := WriteForwardHeader(&again, h); err != nil || !bytes.HasPrefix(data, again.Bytes()) {
			t.Errorf("wrote %x, %v, after reading %x", again.Bytes(), err, data)
		}
	})
}
