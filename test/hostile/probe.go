package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

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
		if conn, err := vsock.Dial(protocol.HostCID, port, nil); err == nil {
			fmt.Println("the host answers on vsock port", port)
			conn.Close()
		}
	}
	own, err := vsock.ContextID()
	if err != nil {
		fmt.Println("no vsock:", err)
		return
	}
	for _, cid := range []uint32{1, own} {
		for _, port := range []uint32{protocol.AgentPort, protocol.StreamPort} {
			conn, err := vsock.Dial(cid, port, nil)
			if err != nil {
				continue
			}
			// The agent may accept and hang up; it must not serve.
			_ = protocol.WriteStreamHeader(conn, protocol.StreamHeader{Container: "x"})
			if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
				fmt.Println("the agent serves a container on CID", cid, "port", port)
			}
			conn.Close()
		}
	}
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
	// The share's root is the host's directory of this pod alone.
	for _, up := range []string{"..", "../..", "../../../../../../etc"} {
		if _, err := os.Stat(filepath.Join(at, up, "hostname-of-the-host")); err == nil {
			fmt.Println("the host's files are at", up)
		}
	}
	entries, err := os.ReadDir(at)
	if err != nil {
		fmt.Println("cannot list the share:", err)
	}
	for _, entry := range entries {
		name := filepath.Join(at, entry.Name())
		readOnly := filepath.Join(name, "mounts", "0")
		if err := os.WriteFile(filepath.Join(readOnly, "written"), []byte("x"), 0o644); err == nil {
			fmt.Println("wrote through a read-only bind", readOnly)
		}
		if err := unix.Mount("", readOnly, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err == nil {
			fmt.Println("remounted", readOnly)
		}
		// A link that leads out must lead nowhere but into this guest.
		link := filepath.Join(name, "rootfs", "out")
		_ = os.Remove(link)
		if err := os.Symlink("../../../../../../../../etc/secret-of-the-host", link); err != nil {
			fmt.Println("link:", err)
		}
		if _, err := os.ReadFile(link); !errors.Is(err, fs.ErrNotExist) {
			fmt.Println("the link leads to the host:", err)
		}
	}
}

// mountShare mounts what the agent mounts.
func mountShare(at string) error {
	return unix.Mount("kata", at, "virtiofs", 0, "")
}
