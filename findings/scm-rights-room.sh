#!/bin/bash
# Room for one descriptor in a control message takes two.
#
# Library: golang.org/x/sys v0.36.0 (unix.CmsgSpace), Linux (seen with 6.18)
# Seen:    A receiver who wants one descriptor, and gives recvmsg a control buffer of
#          CmsgSpace(4) bytes, as manuals show it, gets two where the sender passes two or
#          more: the buffer is a header of 16 bytes and room that is rounded up to 8, and
#          the kernel fills the rounding too. MSG_CTRUNC is set only with the third. So
#          whoever takes the first and forgets the rest leaks what a stranger chose to
#          send; the length to pass is CmsgLen(4), which is not rounded.
#
#          as described: buffer CmsgSpace(4), 1 sent: 1 received, truncated false
#          as described: buffer CmsgSpace(4), 2 sent: 2 received, truncated false
#          as described: buffer CmsgSpace(4), 3 sent: 2 received, truncated true
#          as described: buffer CmsgLen(4), 2 sent: 1 received, truncated true
. "$(dirname "$0")/lib/common.sh"

cat >main.go <<'END'
package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func main() {
	for _, c := range []struct{ buffer, sent int }{
		{unix.CmsgSpace(4), 1},
		{unix.CmsgSpace(4), 2},
		{unix.CmsgSpace(4), 3},
		{unix.CmsgLen(4), 2},
	} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		check(err)
		var files []int
		for range c.sent {
			files = append(files, pair[0])
		}
		check(unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(files...), nil, 0))
		control := make([]byte, c.buffer)
		_, n, flags, _, err := unix.Recvmsg(pair[1], make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
		check(err)
		received := 0
		// The length in the header, which says how many came.
		if n >= unix.CmsgLen(0) {
			header, rest, _, err := unix.ParseOneSocketControlMessage(pad(control[:n]))
			check(err)
			received = (int(header.Len) - unix.CmsgLen(0)) / 4
			_ = rest
		}
		fmt.Printf("%d received, truncated %t\n", received, flags&unix.MSG_CTRUNC != 0)
	}
}

// pad rounds up, which the parser wants.
func pad(b []byte) []byte {
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build golang.org/x/sys@v0.36.0
./program >seen
expect "buffer CmsgSpace(4), 1 sent" "1 received, truncated false" "$(sed -n 1p seen)"
expect "buffer CmsgSpace(4), 2 sent" "2 received, truncated false" "$(sed -n 2p seen)"
expect "buffer CmsgSpace(4), 3 sent" "2 received, truncated true" "$(sed -n 3p seen)"
expect "buffer CmsgLen(4), 2 sent" "1 received, truncated true" "$(sed -n 4p seen)"
