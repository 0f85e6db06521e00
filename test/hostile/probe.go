package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// secret is a file that the test has made on the host, and no guest has.
const secret = "/run/secret-of-the-host"

// probe prints one line for each thing that it should not have reached, and
// "done" at the end.
func probe() {
	probePorts()
	probeShare()
	fmt.Println("done")
}

// probePorts looks for a port of the host that answers, and for an agent that
// serves a container.
func probePorts() {
	for port := range uint32(3000) {
		conn, err := vsock.Dial(protocol.HostCID, port, nil)
		if err != nil {
			continue
		}
		// The relays of unix sockets and of loopback take connections, and serve
		// those alone that know the agent's token.
		if port != protocol.SocketPort && port != protocol.LoopbackPort || answers(conn) {
			fmt.Println("the host answers on vsock port", port)
		}
		conn.Close()
	}
	for _, cid := range ownCIDs() {
		for _, port := range []uint32{protocol.AgentPort, protocol.StreamPort, protocol.ForwardPort} {
			conn, err := vsock.Dial(cid, port, nil)
			if err != nil {
				continue
			}
			// The agent may accept and hang up; it must not serve.
			if answers(conn) {
				fmt.Println("the agent serves a container on CID", cid, "port", port)
			}
			conn.Close()
		}
	}
}

// answers tells whether the peer says anything to a stranger.
func answers(conn *vsock.Conn) bool {
	_ = conn.SetDeadline(time.Now().Add(patience))
	_ = protocol.WriteStreamHeader(conn, protocol.StreamHeader{Container: "x", Process: strings.Repeat("y", 500)})
	n, _ := conn.Read(make([]byte, 1))
	return n > 0
}

// patience bounds the wait for an answer that must not come.
const patience = 3 * time.Second

// ownCIDs are the addresses by which a program may reach its own guest.
func ownCIDs() []uint32 {
	const loopback = 1
	var major, minor uint32
	if data, err := os.ReadFile("/sys/class/misc/vsock/dev"); err == nil {
		if _, err := fmt.Sscanf(string(data), "%d:%d", &major, &minor); err == nil {
			_ = unix.Mknod("/dev/vsock", unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor)))
		}
	}
	own, err := vsock.ContextID()
	if err != nil {
		fmt.Println("no vsock:", err)
	}
	return []uint32{loopback, own}
}

// probeShare mounts the pod's share once more, as root of the guest can, and
// tries to get out of it.
func probeShare() {
	const at = "/tmp/share"
	if err := os.MkdirAll(at, 0o755); err != nil {
		fmt.Println(err)
		return
	}
	if err := mountShare(at); err != nil {
		fmt.Println("cannot mount the share:", err)
		return
	}
	defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	// The share's root is the host's directory of this pod alone. The paths are
	// not cleaned: each step of them is for the file server to look up.
	for up := ".."; len(up) < 40; up += "/.." {
		if _, err := os.Stat(at + "/" + up + secret); err == nil {
			fmt.Println("the host's files are at", up)
		}
	}
	probeReadOnly(at)
	probeChange(at)
	// A link that leads out must lead nowhere but into this guest. The root
	// file system is a directory of the share.
	const link = "/out"
	if err := os.Symlink("../../../../../../../../../../../.."+secret, link); err != nil {
		fmt.Println("link:", err)
	}
	if _, err := os.ReadFile(link); !errors.Is(err, fs.ErrNotExist) {
		fmt.Println("the link leads to the host:", err)
	}
}

// probeReadOnly tries to write to the read-only bind, past the container's own
// mount of it. The kernel shows either the share's root or, since each mount in
// it has a file system of its own, one of those.
func probeReadOnly(at string) {
	found := false
	below, err := filepath.Glob(filepath.Join(at, "*", "mounts", "*"))
	if err != nil {
		fmt.Println(err)
	}
	for _, dir := range append(below, at, "/volume") {
		if _, err := os.Stat(filepath.Join(dir, "marker")); err != nil {
			continue
		}
		found = found || dir != "/volume"
		if dir == "/volume" {
			// Root of the guest lifts what the guest has set.
			_ = unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND, "")
		}
		if err := os.WriteFile(filepath.Join(dir, "written"), []byte("x"), 0o644); err == nil {
			fmt.Println("wrote through a read-only bind", dir)
		} else if !errors.Is(err, unix.EROFS) {
			fmt.Println("write to a read-only bind", dir, "failed otherwise:", err)
		}
	}
	if !found {
		fmt.Println("the bind was not found in the share")
	}
}

// probeChange tries to change the share above its mounts, where the host looks
// for what it has made, if the kernel shows that.
func probeChange(at string) {
	mounts, err := filepath.Glob(filepath.Join(at, "*", "mounts"))
	if err != nil || len(mounts) == 0 {
		return
	}
	container := filepath.Dir(mounts[0])
	for what, err := range map[string]error{
		"a directory": os.Mkdir(filepath.Join(at, "new"), 0o755), "a link": os.Symlink("/", filepath.Join(mounts[0], "9")),
		"a rename": os.Rename(container, container+"-moved"), "a removal": os.RemoveAll(mounts[0] + "/9"),
	} {
		if err != nil && !errors.Is(err, unix.EROFS) {
			fmt.Println(what, "in the share failed otherwise:", err)
		} else if err == nil && what != "a removal" {
			fmt.Println("the share takes", what)
		}
	}
}

// mountShare mounts what the agent mounts.
func mountShare(at string) error {
	return unix.Mount("kata", at, "virtiofs", 0, "")
}
