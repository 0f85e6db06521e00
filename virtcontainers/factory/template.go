package factory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory/pool"
	"kata-runtime/virtcontainers/machine"
)

// restoreTimeout bounds how long a machine that begins as a copy of a saved one may take
// until its agent answers. Then it boots instead, for which it has more time.
func restoreTimeout(settings *config.Config) time.Duration { return settings.Agent.DialTimeout / 3 }

// self is the program that this process runs: what a machine is made by, and saved for.
const self = "/proc/self/exe"

// restore makes a sandbox whose machine goes on as the saved one of its configuration, and
// waits for its agent. prepare is called before it runs. Without a sandbox it tells why:
// the machine has to boot, and nothing is left of this one.
func restore(ctx context.Context, spec Spec, assemble assembler, prepare func(*assembled) error) (_ *assembled, _ pool.Reason, err error) {
	sizes := sizingOptions(spec)
	switch {
	case spec.HostNetwork:
		return nil, pool.ReasonHostNetwork, nil
	case sizes.Static && firstSize(spec, sizes) != sizes.Policy.Default:
		return nil, pool.ReasonSize, nil
	}
	machines := pool.Open(spec.Config.Factory.Dir)
	fit, err := Describe(spec.Kind, spec.Config, self)
	if err != nil {
		return nil, pool.ReasonFailed, err
	}
	template, reason, err := machines.OpenTemplate(fit)
	if template == nil {
		return nil, reason, err
	}
	defer template.Memory.Close()
	began := time.Now()
	made, err := restoreFrom(ctx, spec, template, assemble, prepare)
	switch {
	case err == nil:
		if err := machines.TemplateAnswered(fit); err != nil {
			spec.Log.Warn("the pool does not note that a saved machine works", "error", err)
		}
		return made, "", nil
	case ctx.Err() != nil:
	case errors.Is(err, virtcontainers.ErrLate):
		err = errors.Join(err, machines.TemplateLate(ctx, fit, began))
	case blamesTemplate(err):
		err = errors.Join(err, machines.DropTemplate(ctx, fit)) // another one may be better
	}
	return nil, pool.ReasonFailed, err
}

// assembler is assemble, but for tests.
type assembler func(ctx context.Context, spec Spec, saved *machine.Saved) (*assembled, error)

// blamesTemplate tells whether another template may be better. That is so when a copy
// does not run, and not when the host lacks what a machine is made of: all machines that
// are made at that moment would boot then, on a host that has the least to spare.
func blamesTemplate(err error) bool {
	var stage *virtcontainers.StageError
	return errors.As(err, &stage) && !errors.Is(err, machine.ErrNoTemplate)
}

func restoreFrom(ctx context.Context, spec Spec, template *pool.Template, assemble assembler, prepare func(*assembled) error) (_ *assembled, err error) {
	// What the pod asks for is plugged in, as into a prepared machine.
	spec.Demand, spec.SandboxDemand = Spec{}.Demand, Spec{}.SandboxDemand
	memory, err := newMemory(sizingOptions(spec).Policy.Default.MemoryMiB)
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	// While the machine's processes start.
	var copying sync.WaitGroup
	var copyErr error
	copying.Go(func() { copyErr = copyMemory(memory, template.Memory) })
	defer copying.Wait()
	copied := func() error {
		copying.Wait()
		return copyErr
	}
	made, err := assemble(ctx, spec, &machine.Saved{Memory: memory, Copied: copied, State: template.State})
	if err != nil {
		return nil, errors.Join(err, removeShare(spec))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, made.stop(context.WithoutCancel(ctx)), removeShare(spec))
		}
	}()
	if err := prepare(made); err != nil {
		return nil, err
	}
	made.sandbox.Boot()
	return made, made.sandbox.Booted(ctx)
}

// removeShare removes the directory of a share that was closed, or was not made.
func removeShare(spec Spec) error {
	if err := os.Remove(spec.ShareDir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the share's directory: %w", err)
	}
	return nil
}

// bootOrRestore makes the sandbox of a machine that begins now, and lets it begin. Only a
// machine that boots may not have answered yet.
func bootOrRestore(ctx context.Context, spec Spec, prepare func(*assembled) error) (*assembled, error) {
	if spec.Config.Factory.Template && spec.Config.Factory.PoolSize > 0 {
		made, reason, err := restore(ctx, spec, assemble, prepare)
		countRestored(ctx, spec, reason, err)
		switch {
		case made != nil:
			return made, nil
		case ctx.Err() != nil: // whether or not that is why
			return nil, errors.Join(err, fmt.Errorf("make a machine: %w", context.Cause(ctx)))
		}
	}
	made, err := assemble(ctx, spec, nil)
	if err != nil {
		return nil, err
	}
	if err := prepare(made); err != nil {
		return nil, errors.Join(err, made.stop(context.WithoutCancel(ctx)))
	}
	made.sandbox.Boot()
	return made, nil
}

// countRestored tells the log and the pool whether a machine was restored, or why not.
func countRestored(ctx context.Context, spec Spec, reason pool.Reason, cause error) {
	if ctx.Err() != nil {
		return
	}
	machines := pool.Open(spec.Config.Factory.Dir)
	var err error
	switch {
	case reason == "":
		spec.Log.Info("machine from the template")
		err = machines.Restored(ctx, spec.Kind)
	case cause != nil:
		spec.Log.Warn("no machine from the template: it boots", "reason", reason, "error", cause)
		err = errors.Join(machines.Booted(ctx, spec.Kind, reason), machines.TemplateFailed(ctx, spec.Kind, cause))
	default:
		spec.Log.Info("no machine from the template: it boots", "reason", reason)
		err = machines.Booted(ctx, spec.Kind, reason)
	}
	if err != nil {
		spec.Log.Warn("the pool does not count", "error", err)
	}
}

// ensureTemplate saves a machine, if there is none that this one can be restored from. It
// is the only one that is being prepared.
func (p *Prepared) ensureTemplate(ctx context.Context, spec Spec) error {
	fit, err := Describe(p.kind, p.settings, self)
	if err != nil {
		return err
	}
	template, reason, err := p.slot.Pool().OpenTemplate(fit)
	if template != nil {
		return template.Memory.Close()
	}
	if err != nil {
		spec.Log.Warn("the saved machine is replaced", "reason", reason, "error", err)
	}
	return p.saveTemplate(ctx, fit, spec)
}

// saveTemplate saves a machine of this configuration, for others to be restored from.
func (p *Prepared) saveTemplate(ctx context.Context, fit pool.Fit, spec Spec) error {
	over, err := awaitTurn(ctx, spec)
	if err != nil {
		return err
	}
	defer over()
	ctx, cancel := context.WithTimeoutCause(ctx, p.settings.Agent.DialTimeout,
		fmt.Errorf("the guest was not saved within %v (dial_timeout)", p.settings.Agent.DialTimeout))
	defer cancel()
	policy := sizingOptions(spec).Policy
	return p.slot.SaveTemplate(ctx, fit, func(file *os.File) ([]byte, error) {
		// Not in the pool's directory: a guest whose memory finds no room there is killed.
		memory, err := newMemory(policy.Default.MemoryMiB)
		if err != nil {
			return nil, err
		}
		defer memory.Close()
		var state bytes.Buffer
		if err := machine.Save(ctx, machine.Spec{
			ID: spec.ID, Size: policy.Default, MaxSize: policy.Max, Config: spec.Config, Log: spec.Log,
		}, memory, &state); err != nil {
			return nil, err
		}
		return state.Bytes(), copyMemory(file, memory)
	})
}

// newMemory makes the file of a guest's memory, which is gone with whoever has it.
func newMemory(mib int) (*os.File, error) {
	fd, err := unix.MemfdCreate("kata-memory", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make the guest's memory: %w", err)
	}
	file := os.NewFile(uintptr(fd), "kata-memory")
	if err := file.Truncate(int64(mib) << 20); err != nil {
		return nil, errors.Join(fmt.Errorf("make the guest's memory: %w", err), file.Close())
	}
	return file, nil
}

const (
	pageSize = 4096
	// copySize is how much is copied at a time: what stays in a processor's cache.
	copySize = 256 << 10
)

// copyMemory copies a guest's memory, but for holes and pages of zeros.
func copyMemory(to, from *os.File) error {
	if err := copyData(to, from); err != nil {
		return fmt.Errorf("copy a guest's memory: %w", err)
	}
	return nil
}

func copyData(to, from *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if err := to.Truncate(size); err != nil {
		return err
	}
	buffer := make([]byte, copySize)
	for at := int64(0); at < size; {
		data, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole is all that follows
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(from.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for at = data; at < hole; {
			n, err := from.ReadAt(buffer[:min(int64(len(buffer)), hole-at)], at)
			if err != nil {
				return err
			}
			if err := writePages(to, buffer[:n], at); err != nil {
				return err
			}
			at += int64(n)
		}
	}
	return nil
}

// writePages writes what is not zero.
func writePages(to *os.File, data []byte, at int64) error {
	var zeros [pageSize]byte
	begin := 0
	flush := func(end int) error {
		if begin == end {
			return nil
		}
		_, err := to.WriteAt(data[begin:end], at+int64(begin))
		return err
	}
	for page := 0; page < len(data); page += pageSize {
		end := min(page+pageSize, len(data))
		if bytes.Equal(data[page:end], zeros[:end-page]) {
			if err := flush(page); err != nil {
				return err
			}
			begin = end
		}
	}
	return flush(len(data))
}
