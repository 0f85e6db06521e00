package channel

import (
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzReceive sends any packet with any number of files: each is received and
// closed, or closed by Receive.
func FuzzReceive(f *testing.F) {
	f.Add([]byte(`{"Kind":"exit","Code":3}`), uint8(0))
	f.Add([]byte(`{"A":[1,2,{"B":null}]}`), uint8(3))
	f.Add([]byte("["), uint8(2))
	f.Add([]byte{}, uint8(1))
	f.Add([]byte(`"\ud800"`), uint8(80))
	f.Fuzz(func(t *testing.T, packet []byte, count uint8) {
		ours, theirs, err := Pair()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		defer theirs.Close()
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pipe[0])
		fds := make([]int, count%100)
		for i := range fds {
			fds[i] = pipe[1]
		}
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		err = unix.Sendmsg(int(theirs.Fd()), packet, rights, nil, unix.MSG_DONTWAIT)
		unix.Close(pipe[1])
		if err != nil {
			return // it is too long
		}
		var message struct {
			Kind, Text string
			Code       int
			List       []string
		}
		files, err := ours.Receive(&message)
		if err != nil && len(files) > 0 || len(files) > MaxFiles {
			t.Errorf("%d files, %v", len(files), err)
		}
		closeAll(files)
		// All writing ends are closed: the pipe is at its end.
		if n, err := unix.Read(pipe[0], make([]byte, 1)); n != 0 || err != nil {
			t.Errorf("a file was left open: %d, %v", n, err)
		}
	})
}
