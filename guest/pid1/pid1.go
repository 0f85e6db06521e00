// Package pid1 is the first process of the guest. It prepares what the kernel
// leaves to user space (mounts, modules, a root file system that containers
// can pivot away from), starts the agent as its child from a sealed copy of
// this same program, reaps orphans, and powers the guest off when the agent
// ends.
//
// It stays a process of its own, because waiting for any child in a process
// that also starts programs takes exit codes away from them.
package pid1

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// AgentName is the name of the agent's process.
const AgentName = "kata-agent"

// Run does all the work of PID 1 and never returns: it ends by powering the
// machine off. The caller must be PID 1 of the guest.
func Run() {
	con := openConsole()
	con.println(protocol.InitMarker)
	if err := boot(con); err != nil {
		con.println("kata-init: " + err.Error())
	}
	powerOff(con)
}

// boot brings the guest up and returns when the agent has ended; a nil error
// means that it ended as asked.
func boot(con *console) error {
	if err := mountAll(newRoot); err != nil {
		return err
	}
	loadModules(con)
	con.reopen(newRoot + "/dev/console")
	exe, err := sealedSelf(newRoot + "/proc/self/exe")
	if err != nil {
		return err
	}
	defer exe.Close()
	if err := switchRoot(newRoot); err != nil {
		return err
	}
	if err := enableControllers(cgroupRoot); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		con.println("kata-init: " + err.Error())
	}
	pid, err := startAgent(exe, con)
	if err != nil {
		return err
	}
	return reap(pid)
}

// reap waits for every child, orphans included, until the agent has ended.
func reap(agent int) error {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("wait for children: %w", err)
		case pid != agent:
		case status.Signaled():
			return fmt.Errorf("the agent was ended by signal %d (%s)", status.Signal(), unix.SignalName(status.Signal()))
		case status.ExitStatus() != 0:
			return fmt.Errorf("the agent ended with status %d", status.ExitStatus())
		default:
			return nil
		}
	}
}

// powerOff ends the machine. File systems were flushed by the agent; a sync
// here could hang for ever on a share whose host side is gone.
func powerOff(con *console) {
	for _, how := range []int{unix.LINUX_REBOOT_CMD_POWER_OFF, unix.LINUX_REBOOT_CMD_RESTART} {
		err := unix.Reboot(how)
		con.println(fmt.Sprintf("kata-init: reboot command %#x: %v", how, err))
	}
	os.Exit(1) // The kernel panics: the host sees that too.
}
