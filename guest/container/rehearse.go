package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// rehearsal is the container of Rehearse.
const rehearsal = "rehearsal"

// Rehearse makes a container of nothing, whose program never begins, and removes it.
// The guest's first container takes twice the time of those that follow it: program
// and kernel are read, translated by an emulator, and mapped as they are first used.
// A machine that waits for a pod has the time for that.
func (r *Runtime) Rehearse(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("rehearse: %w", err)
		}
	}()
	root := filepath.Join(r.stateDir, rehearsal+".root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	spec, err := json.Marshal(rehearsalSpec(root))
	if err == nil {
		err = r.Create(ctx, &protocol.CreateContainerRequest{ContainerId: rehearsal, SpecJson: spec})
	}
	if err == nil {
		err = r.Remove(ctx, rehearsal)
	}
	return errors.Join(err, os.RemoveAll(root))
}

// rehearsalSpec is what most containers have, with a filter of system calls. What a
// kernel may lack that runs containers all the same is left out.
func rehearsalSpec(root string) *specs.Spec {
	spec := specconv.Example()
	spec.Root = &specs.Root{Path: root}
	// The only program that there is: libcontainer looks for one.
	spec.Process.Args, spec.Process.Terminal = []string{"/proc/self/exe"}, false
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool { return m.Type == "mqueue" })
	if _, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0); err == nil {
		code := uint(unix.EPERM)
		spec.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Syscalls:      []specs.LinuxSyscall{{Names: []string{"add_key"}, Action: specs.ActErrno, ErrnoRet: &code}},
		}
	}
	return spec
}
