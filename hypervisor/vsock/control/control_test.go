package control_test

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/vsock/control"
)

func pair(t testing.TB) (ours, theirs *net.UnixConn) {
	t.Helper()
	ours, file, err := control.Pair()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = control.Conn(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	return ours, theirs
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestMessages(t *testing.T) {
	host, device := pair(t)
	_, end, err := control.StreamPair()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []control.Message{{Kind: control.Dial, ID: 1 << 63, Port: 1<<32 - 1}, {Kind: control.Accept, ID: 7}, {Kind: control.Listen, Port: 9}, {Kind: control.Unlisten}, {Kind: control.Cancel, ID: 3}} {
		file := end
		if m.Kind != control.Dial && m.Kind != control.Accept {
			file = nil
		}
		if err := control.Send(host, m, file); err != nil {
			t.Fatal(err)
		}
		got, received, err := control.ReceiveRequest(device)
		if err != nil || got != m || (received != nil) != (file != nil) {
			t.Errorf("%+v, %v, %v, want %+v", got, received, err, m)
		}
		if received != nil {
			_ = received.Close()
		}
	}
	for _, m := range []control.Message{{Kind: control.Answer, ID: 1, Port: 2, Errno: syscall.ECONNREFUSED}, {Kind: control.Connected}, {Kind: control.Failed, Errno: 4095}} {
		if err := control.Send(device, m, nil); err != nil {
			t.Fatal(err)
		}
		if got, err := control.ReceiveAnswer(host); err != nil || got != m {
			t.Errorf("%+v, %v, want %+v", got, err, m)
		}
	}
	_ = host.Close()
	if _, _, err := control.ReceiveRequest(device); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

// The process may have been taken over: whatever it sends, the host keeps nothing
// of it.
func TestHostileAnswers(t *testing.T) {
	good := control.Message{Kind: control.Answer, ID: 1}.Encode()
	before := openFiles(t)
	for name, c := range map[string]struct {
		data  []byte
		files int
	}{
		"short":            {good[:control.Size-1], 0},
		"one byte":         {good[:1], 0},
		"long":             {append(good[:control.Size:control.Size], 0), 0},
		"huge":             {make([]byte, 64<<10), 0},
		"no kind":          {make([]byte, control.Size), 0},
		"a request":        {control.Message{Kind: control.Dial}.Encode(), 0},
		"unknown kind":     {control.Message{Kind: control.Failed + 1}.Encode(), 0},
		"a huge errno":     {control.Message{Kind: control.Answer, Errno: 1 << 32}.Encode(), 0},
		"a descriptor":     {good, 1},
		"many descriptors": {good, 250},
	} {
		t.Run(name, func(t *testing.T) {
			host, device := pair(t)
			null, err := os.Open("/dev/null")
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			var rights []byte
			if c.files > 0 {
				fds := make([]int, c.files)
				for i := range fds {
					fds[i] = int(null.Fd())
				}
				rights = unix.UnixRights(fds...)
			}
			if _, _, err := device.WriteMsgUnix(c.data, rights, nil); err != nil {
				t.Fatal(err)
			}
			if m, err := control.ReceiveAnswer(host); err == nil {
				t.Errorf("took %+v", m)
			}
		})
	}
	if after := openFiles(t); after > before+1 { // the poller's
		t.Errorf("%d open files, before %d", after, before)
	}
}

func TestBadRequests(t *testing.T) {
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	before := openFiles(t)
	for name, send := range map[string]func(*net.UnixConn) error{
		"a dial without": func(c *net.UnixConn) error { return control.Send(c, control.Message{Kind: control.Dial}, nil) },
		"a listen with":  func(c *net.UnixConn) error { return control.Send(c, control.Message{Kind: control.Listen}, null) },
		"an answer":      func(c *net.UnixConn) error { return control.Send(c, control.Message{Kind: control.Answer}, null) },
		"several descriptors": func(c *net.UnixConn) error {
			_, _, err := c.WriteMsgUnix(control.Message{Kind: control.Dial}.Encode(), unix.UnixRights(0, 1, 2), nil)
			return err
		},
	} {
		host, device := pair(t)
		if err := send(host); err != nil {
			t.Fatal(err)
		}
		if m, file, err := control.ReceiveRequest(device); err == nil {
			t.Errorf("%s: took %+v, %v", name, m, file)
		}
		_, _ = host.Close(), device.Close()
	}
	if after := openFiles(t); after > before+1 {
		t.Errorf("%d open files, before %d", after, before)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(control.Message{Kind: control.Answer, ID: 1, Port: 2, Errno: 3}.Encode(), true)
	f.Add(control.Message{Kind: control.Dial, ID: 1, Port: 2}.Encode(), false)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, data []byte, answers bool) {
		m, err := control.Decode(data, answers)
		if err != nil {
			return
		}
		if string(m.Encode()) != string(data) || (m.Kind >= control.Answer) != answers {
			t.Errorf("%x is %+v", data, m)
		}
	})
}

// What a guest sends in one go fits into the socket, by what the kernel counts for it: the
// default does with a fifth of that.
func TestRoomForWhatAGuestSends(t *testing.T) {
	conn, device, err := control.StreamPair()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer device.Close()
	raw, err := device.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	room, limited := 0, false
	if controlErr := raw.Control(func(fd uintptr) {
		room, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
		limited = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1) != nil
	}); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	want := 1 << 20
	if limited { // as a process without CAP_NET_ADMIN is
		want = 300 << 10
	}
	if room < want {
		t.Errorf("there is room for %d bytes, want %d", room, want)
	}
}
