// Package pid1 is the guest's way from the kernel to the agent.
//
// A program that imports it and is started by the kernel as /init becomes PID 1,
// written in C (init.c): it tells the console that the kernel has booted, seals
// a copy of itself in memory, starts that as the agent, and then does nothing
// but reap orphans until the agent ends, and power the guest off. libcontainer
// runs each container's first steps from the program that started it: directly
// when that is sealed, from another copy for each container when it is not.
//
// PID 1 is a process of its own, because waiting for any child in a process
// that also starts programs takes exit codes away from them.
//
// The agent calls Boot first, which prepares what the kernel leaves to user
// space: mounts, modules, and a root file system that containers can pivot
// away from.
//
// An image on a disk is such a root file system. The agent then runs from it,
// unsealed: nobody can write it, and libcontainer hides it from containers behind
// an overlay, which takes no memory. A kernel that has what such an image takes as modules
// boots from an initrd with them, whose agent mounts the image.
package pid1

import (
	"fmt"
	"os"
	"path/filepath"

	"kata-runtime/guest/bootparam"
	"kata-runtime/guest/modules"
)

// Booting says whether this process is the agent that PID 1 started, so that
// the guest is to be prepared. A kernel with modules starts this program too, with
// arguments that root of a privileged container can choose (core_pattern).
func Booting() bool {
	return len(os.Args) == 2 && os.Args[1] == bootArgument && os.Getppid() == 1
}

// Boot prepares the guest. On an error the guest cannot run anything, and the
// caller should end, upon which PID 1 powers the guest off. Modules and
// interfaces that fail are reported on the console alone: whether they were
// needed shows later, with a better error.
func Boot() error {
	began := bootparam.Uptime()
	con := openConsole()
	disk, err := onDisk()
	if err != nil {
		return err
	}
	root := newRoot
	if disk {
		root = "/"
		err = mountAll(root, mountsOnDisk())
	} else {
		err = mountAll(root, mounts())
	}
	if err != nil {
		return err
	}
	params, err := bootparam.ReadFrom(filepath.Join(root, "proc/cmdline"))
	if err != nil {
		return err
	}
	con.debug = params.Debug
	con.step(fmt.Sprintf("file systems mounted; agent's program began at %v", began))
	loadModules(con)
	if err := con.reopen(filepath.Join(root, "dev/console")); err != nil {
		return err
	}
	con.step("modules loaded")
	if !disk {
		image, err := findImage(params)
		if err == nil && image != nil {
			err = mountImage(image, root)
			root = imageRoot
		}
		if err != nil {
			return err
		}
	}
	if err := keepDigest(modules.ImageDigest, filepath.Join(root, modules.KeptDigest)); err != nil {
		return err
	}
	if !disk {
		if err := leaveInitramfs(root); err != nil {
			return err
		}
	}
	if err := shareMounts(); err != nil {
		return err
	}
	con.step("root settled")
	if err := enableControllers(cgroupRoot); err != nil {
		return err
	}
	con.step("cgroup controllers enabled")
	if err := loopbackUp(); err != nil {
		con.println("kata-init: " + err.Error())
	}
	con.step("booted")
	if err := con.standardStreams(); err != nil {
		return fmt.Errorf("set standard streams: %w", err)
	}
	return nil
}

// leaveInitramfs makes root, on a tmpfs or a disk image, the root file system.
func leaveInitramfs(root string) error {
	if root != imageRoot {
		if err := copyPrograms(programs, root+programs); err != nil {
			return err
		}
	}
	return switchRoot(root)
}
