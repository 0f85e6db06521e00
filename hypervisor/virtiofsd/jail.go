package virtiofsd

import (
	"context"
	"os/exec"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/jail"
)

// confine makes cmd, which starts a daemon, one of a jailed daemon: it finds the
// shared directory, its own program, and the list of its descriptors, which it
// opens files by. It is root, since it makes files for all users, and never has a
// capability that would let it mount or open a device, or a file by its handle:
// one of the share's file system, but not of the share.
//
// Its own sandbox of namespaces would need such capabilities, and the C daemon's
// takes them from some of its threads alone. In the jail it has a chroot.
func confine(ctx context.Context, cmd *exec.Cmd, o Options, limit uint64) error {
	if o.Jail == nil {
		return nil
	}
	spec, err := JailSpec(ctx, cmd.Path, o.SharedDir, *o.Jail, limit)
	if err != nil {
		return err
	}
	return jail.Confine(cmd, spec)
}

// JailSpec says what a jailed daemon that shares a directory keeps.
func JailSpec(ctx context.Context, program, shared string, options jail.Options, limit uint64) (jail.Spec, error) {
	files, err := jail.Remember(options.Dir, program, nil, func() ([]string, error) {
		libraries, err := jail.Libraries(ctx, program)
		// The C daemon ends without the host's limit of files.
		return append(libraries, program, "/proc/sys/fs/file-max"), err
	})
	if err != nil {
		return jail.Spec{}, err
	}
	return jail.Spec{
		Namespaces: jail.Empty,
		Root:       &jail.Root{Files: files, Shares: []string{shared}, Self: true},
		Capabilities: []uintptr{
			unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID,
			unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_MKNOD, unix.CAP_SETFCAP,
			// To give up others, and to enter the shared directory.
			unix.CAP_SETPCAP, unix.CAP_SYS_CHROOT,
		},
		// It has a filter of its own, for the threads that it knows of.
		SystemCalls: &jail.SystemCalls{Log: options.LogCalls},
		MaxFiles:    limit,
		Without:     options.Without,
		Step:        options.Step,
	}, nil
}
