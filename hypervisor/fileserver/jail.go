package fileserver

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/jail"
)

// self is this program, also in the jail and after its file was replaced.
const self = "/proc/self/exe"

// confine makes cmd one of a jailed server: it finds the shared directory and its
// own list of descriptors, by which it opens files. It is root, since it makes files
// for all users, and never has a capability that would let it mount or open a
// device.
func confine(ctx context.Context, cmd *exec.Cmd, o Options) error {
	if o.Jail == nil {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	// None, for a program that is linked statically.
	libraries, err := jail.Remember(o.Jail.Dir, program, func() ([]string, error) {
		return jail.Libraries(ctx, program)
	})
	if err != nil {
		return err
	}
	return jail.Confine(cmd, jail.Spec{
		Namespaces: jail.Empty,
		Root:       &jail.Root{Files: libraries, Shares: []string{o.SharedDir}, Self: true},
		Capabilities: []uintptr{
			unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID,
			unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_MKNOD, unix.CAP_SETFCAP,
		},
		SystemCalls: &jail.SystemCalls{Allowed: systemCalls(), Log: o.Jail.LogCalls},
		MaxFiles:    wantedDescriptors,
	})
}
