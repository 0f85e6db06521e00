package holder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/mountpoint"
	"kata-runtime/virtcontainers/namespace"
)

// Command is the hidden first argument by which a program becomes a holder.
const Command = "namespace-holder"

// Descriptors of a holder, after its standard streams.
const (
	lifeFD   = 3 + iota // ends with the process that started it
	reportFD            // takes an error's text, or ready
)

// ready is what a holder reports when it is in its place.
const ready = "\x00"

// maxReport bounds the report, in bytes.
const maxReport = 4096

// startTimeout bounds what has nothing to wait for; a loaded host is slow.
const startTimeout = 30 * time.Second

// Options are what Start needs.
type Options struct {
	// ID is the container's, for people who look at processes.
	ID string
	// Namespaces are those of the specification. Mount namespaces are always new,
	// user and time namespaces are the guest's alone.
	Namespaces []specs.LinuxNamespace
	// Hostname is set in a new UTS namespace; empty: it stays the caller's.
	Hostname string
}

// Holder is a running holder.
type Holder struct {
	cmd  *exec.Cmd
	life io.Closer
	done chan struct{}
	stop func()
}

// Needed tells whether a container that joins a pod needs a holder of its own: it
// has a namespace of its own that another container may name. All others report
// the pid of the pod's.
func Needed(namespaces []specs.LinuxNamespace) bool {
	return slices.ContainsFunc(namespaces, func(n specs.LinuxNamespace) bool {
		switch n.Type {
		case specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace:
			return n.Path == ""
		case specs.NetworkNamespace, // the pod's, for all
			specs.MountNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace: // the guest's alone
		}
		return false
	})
}

// firstBeyond is the lowest number that is no process's of the host: PID_MAX_LIMIT
// of include/linux/threads.h.
const firstBeyond = 1 << 22

// GuestPID is what is reported as the pid of a process that has none on the host,
// made from the guest's number for it: one that is not 0, not the pid of a holder,
// and that no process of the host has or will have.
func GuestPID(inGuest uint64) uint32 { return firstBeyond + uint32(inGuest%firstBeyond) }

// Start forks a holder from this program, whose main function calls Run for
// Command. When it returns, the holder is in its place. Stop ends it.
func Start(ctx context.Context, options Options) (_ *Holder, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start a namespace holder: %w", err)
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	theirLife, life, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirLife.Close()
	report, theirReport, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, life.Close())
	}
	defer report.Close()
	defer theirReport.Close()

	cmd := exec.Command("/proc/self/exe") //nolint:noctx // it outlives the call that starts it
	cmd.Args = []string{"kata-holder", Command, options.ID}
	for _, n := range options.Namespaces {
		if n.Type == specs.UTSNamespace && n.Path == "" && options.Hostname != "" {
			cmd.Args = append(cmd.Args, options.Hostname)
		}
	}
	cmd.ExtraFiles = []*os.File{theirLife, theirReport}
	// It is as small as a Go program can be. Without containermaxprocs=0, Go's
	// runtime keeps files of the cgroup open.
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=off", "GODEBUG=containermaxprocs=0"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := namespace.Start(cmd, options.Namespaces); err != nil {
		return nil, errors.Join(err, life.Close())
	}
	h := &Holder{cmd: cmd, life: life, done: make(chan struct{})}
	h.stop = sync.OnceFunc(func() {
		_ = life.Close()
		_ = cmd.Process.Kill() // fails only when it has ended
	})
	go func() {
		defer close(h.done)
		_ = cmd.Wait() // it ends by a signal, or because of its report
	}()
	if err := errors.Join(theirReport.Close(), h.await(ctx, report)); err != nil {
		h.Stop()
		return nil, err
	}
	return h, nil
}

// await waits for the holder's report.
func (*Holder) await(ctx context.Context, report *os.File) error {
	deadline := time.Now().Add(startTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := report.SetReadDeadline(deadline); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = report.SetReadDeadline(time.Now()) })
	defer stop()
	text, err := io.ReadAll(io.LimitReader(report, maxReport))
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case string(text) == ready:
		return nil
	case len(text) == 0:
		return errors.New("it ended without a word")
	default:
		return errors.New(string(text))
	}
}

// PID is the holder's on the host.
func (h *Holder) PID() int { return h.cmd.Process.Pid }

// Done is closed when the holder has ended, whoever has ended it.
func (h *Holder) Done() <-chan struct{} { return h.done }

// Stop ends the holder and waits for it. Namespaces that nobody else is in end
// with it. Idempotent.
func (h *Holder) Stop() {
	h.stop()
	<-h.done
}

// Run is a holder's whole life, in the process that Start forked; arguments are
// those after Command. It returns the exit code.
func Run(arguments []string) int {
	signal.Ignore() // all; as init of a PID namespace it also need not reap
	life, report := os.NewFile(lifeFD, "life"), os.NewFile(reportFD, "report")
	if err := leaveHost(arguments); err != nil {
		_, _ = report.WriteString(err.Error()) // without a reader nobody is left to tell
		return 1
	}
	if _, err := report.WriteString(ready); err != nil {
		return 1
	}
	if err := report.Close(); err != nil {
		return 1
	}
	_, _ = life.Read(make([]byte, 1)) // whatever ends it
	return 0
}

// leaveHost takes the holder away from the host.
func leaveHost(arguments []string) error {
	if len(arguments) > 1 {
		if err := unix.Sethostname([]byte(arguments[1])); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mount namespace private: %w", err)
	}
	// Any directory does; this one every host has.
	const place = "/proc"
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("kata-holder", place, "tmpfs", flags, "size=4k,mode=0755"); err != nil {
		return fmt.Errorf("mount an empty root file system: %w", err)
	}
	root, err := os.OpenFile(place, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open the root file system: %w", err)
	}
	defer root.Close()
	return mountpoint.Pivot(root)
}
