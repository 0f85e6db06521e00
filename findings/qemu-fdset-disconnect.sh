#!/bin/bash
# QEMU closes descriptors of add-fd when the last client of its monitors has gone, if the
# machine runs.
#
# Tool:  qemu-system-x86_64 1:7.2+dfsg-7+deb12u18+b3 of Debian 12, QMP
# Seen:  add-fd gives QEMU a descriptor, which it is to use as /dev/fdset/7 in a later
#        command. As long as nothing uses it, it is gone once no client is connected to any
#        monitor, but only while the machine runs: what is handed over before the start
#        stays. So a manager that connects for each command loses the descriptor between
#        two of them, and does not where the machine is paused, or where somebody else
#        watches. A descriptor of getfd stays in any case, and the monitor's next client
#        has it.
#
#        as described: paused, the last client gone: the fd set is there
#        as described: running, another monitor's client there: the fd set is there
#        as described: running, the last client gone: the fd set is gone
#        as described: running, the last client gone: the fd of getfd is there
. "$(dirname "$0")/lib/common.sh"
debian qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 qemu-system-common=1:7.2+dfsg-7+deb12u18+b3 \
	qemu-system-data=1:7.2+dfsg-7+deb12u18

cat >main.go <<'END'
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

type client struct {
	conn    *net.UnixConn
	answers *bufio.Scanner
}

func connect(socket string) *client {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	check(err)
	c := &client{conn, bufio.NewScanner(conn)}
	c.answers.Scan() // the greeting
	c.run(`{"execute": "qmp_capabilities"}`)
	return c
}

// run returns a command's answer.
func (c *client) run(command string, files ...int) string {
	_, _, err := c.conn.WriteMsgUnix([]byte(command+"\n"), unix.UnixRights(files...), nil)
	check(err)
	for c.answers.Scan() {
		if !strings.Contains(c.answers.Text(), `"event"`) {
			return c.answers.Text()
		}
	}
	panic("the monitor has gone")
}

func main() {
	file, err := os.Open("/dev/null")
	check(err)
	for _, state := range []struct {
		command string
		watched bool
	}{{"stop", false}, {"cont", true}, {"cont", false}} {
		var watcher *client
		if state.watched {
			watcher = connect("two")
		}
		c := connect("one")
		c.run(`{"execute": "` + state.command + `"}`)
		set := c.run(`{"execute": "add-fd", "arguments": {"fdset-id": 7}}`, int(file.Fd()))
		named := c.run(`{"execute": "getfd", "arguments": {"fdname": "named"}}`, int(file.Fd()))
		if strings.Contains(set+named, "error") {
			panic(set + named)
		}
		check(c.conn.Close())

		c = connect("one")
		fmt.Println("the fd set is", there(strings.Contains(c.run(`{"execute": "query-fdsets"}`), `"fdset-id": 7`)))
		fmt.Println("the fd of getfd is",
			there(!strings.Contains(c.run(`{"execute": "closefd", "arguments": {"fdname": "named"}}`), "error")))
		c.run(`{"execute": "remove-fd", "arguments": {"fdset-id": 7}}`)
		check(c.conn.Close())
		if watcher != nil {
			check(watcher.conn.Close())
		}
	}
}

func there(so bool) string {
	if so {
		return "there"
	}
	return "gone"
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build golang.org/x/sys@v0.36.0
background qemu-system-x86_64 -machine none -nodefaults -no-user-config -display none -S \
	-qmp unix:one,server=on,wait=off -qmp unix:two,server=on,wait=off
until_true 20 test -S two || untried "QEMU does not listen"
timeout --foreground 60 ./program >seen 2>log || { tail -n 5 log >&2; untried "the program failed"; }
expect "paused, the last client gone" "the fd set is there" "$(sed -n 1p seen)"
expect "running, another monitor's client there" "the fd set is there" "$(sed -n 3p seen)"
expect "running, the last client gone" "the fd set is gone" "$(sed -n 5p seen)"
expect "running, the last client gone" "the fd of getfd is there" "$(sed -n 6p seen)"
