#!/bin/bash
# A unix packet socket tells of its peer's end before the peer's last words.
#
# Kernel:  Linux (seen with 6.18), golang.org/x/sys v0.36.0
# Seen:    Who closes a unix socket with unread input resets its peer. Of a stream socket
#          the peer first reads what was sent before, then the reset. Of a socket of type
#          SOCK_SEQPACKET the next read fails with ECONNRESET although messages wait, once:
#          the read after it returns the message, and the one after that the end. So a
#          last answer is lost on a reader that takes the error for the end, if it had
#          sent something that the peer has not read. unix(7) does not tell the types apart.
#
#          as described: stream: answer, ECONNRESET, end
#          as described: packets: ECONNRESET, answer, end
#          as described: packets, all read before the end: answer, end
. "$(dirname "$0")/lib/common.sh"

cat >main.go <<'END'
package main

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	fmt.Println(talk(unix.SOCK_STREAM, true))
	fmt.Println(talk(unix.SOCK_SEQPACKET, true))
	fmt.Println(talk(unix.SOCK_SEQPACKET, false))
}

// talk sends a request, has it answered and the other end closed, and tells what the
// reads of the first end give then.
func talk(kind int, unread bool) string {
	pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_NONBLOCK, 0)
	check(err)
	check(unix.Send(pair[0], []byte("request"), 0))
	buffer := make([]byte, 64)
	if !unread {
		_, err = unix.Read(pair[1], buffer)
		check(err)
	}
	check(unix.Send(pair[1], []byte("answer"), 0))
	check(unix.Close(pair[1]))
	var seen []string
	for range 3 {
		n, err := unix.Read(pair[0], buffer)
		switch {
		case err != nil:
			seen = append(seen, unix.ErrnoName(err.(unix.Errno)))
		case n == 0:
			seen = append(seen, "end")
		default:
			seen = append(seen, string(buffer[:n]))
		}
		if n == 0 && err == nil {
			break
		}
	}
	return strings.Join(seen, ", ")
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build golang.org/x/sys@v0.36.0
timeout --foreground 60 ./program >seen 2>log || { tail -n 5 log >&2; untried "the program failed"; }
expect "stream" "answer, ECONNRESET, end" "$(sed -n 1p seen)"
expect "packets" "ECONNRESET, answer, end" "$(sed -n 2p seen)"
expect "packets, all read before the end" "answer, end" "$(sed -n 3p seen)"
