package namespace

import (
	"fmt"
	"os/exec"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/osthread"
)

// ForProcess tells whether a process on the host that stands for a container is
// in such a namespace of the container. User and time namespaces are the guest's
// alone; mounts it always has of its own.
func ForProcess(t specs.LinuxNamespaceType) bool {
	switch t {
	case specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace:
		return true
	case specs.MountNamespace, specs.UserNamespace, specs.TimeNamespace:
	}
	return false
}

// Start starts a program that stands for a container on the host, in a mount
// namespace of its own and in the namespaces that the container's specification
// names: the one at the path, or without a path a new one. The program must not
// ask for a signal at its parent's death: the thread that forks may end.
func Start(cmd *exec.Cmd, namespaces []specs.LinuxNamespace) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNS
	var join []specs.LinuxNamespace
	for _, namespace := range namespaces {
		switch {
		case !ForProcess(namespace.Type):
		case namespace.Path != "":
			join = append(join, namespace)
		default:
			k, err := kindOf(namespace.Type)
			if err != nil {
				return err
			}
			cmd.SysProcAttr.Cloneflags |= uintptr(k.flag)
		}
	}
	if len(join) == 0 {
		return cmd.Start()
	}
	return osthread.Run(func() error {
		for _, namespace := range join {
			if err := enter(namespace); err != nil {
				return err
			}
		}
		return cmd.Start()
	})
}

// enter moves the calling thread.
func enter(namespace specs.LinuxNamespace) error {
	file, err := Open(namespace.Type, namespace.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), 0); err != nil { // Open has looked at the type
		return fmt.Errorf("join the %s namespace %s: %w", namespace.Type, namespace.Path, err)
	}
	return nil
}
