package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/cmdline"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory"
	"kata-runtime/virtcontainers/factory/pool"
	"kata-runtime/virtcontainers/limits"
	"kata-runtime/virtcontainers/oci"
)

// PreparedCommand is the hidden first argument by which the program becomes a server
// whose machine boots before there is a pod. The pool's directory and the machine's name
// follow.
const PreparedCommand = "prepared"

// Descriptors of such a process.
const (
	preparedLockFD = 3 + iota
	preparedWaitFD
	preparedMountsFD
)

// processName is what ps shows.
const processName = "containerd-shim"

// adoptionPatience bounds the wait for a first message, and for the answer: neither has
// anything to wait for.
const adoptionPatience = 10 * time.Second

// adoption is the first message to a prepared process, with the files that a forked server
// has from listenerFD on. The handover follows on the pipe among them.
type adoption struct {
	// Arguments and Environment are a forked server's.
	Arguments, Environment []string
	// Bundle is the current directory, and its identity for who starts the server.
	Bundle        string
	Device, Inode uint64
	// Caller is the pid of start.
	Caller int
}

// adopted is the answer: empty, or why not.
type adopted struct {
	Unfit pool.Reason
	Error string
}

// machinePool is what start has to do with prepared machines. The methods of a nil one do
// nothing. Nothing that goes wrong with it keeps a pod from its start.
type machinePool struct {
	pool     *pool.Pool
	settings *config.Config
	fit      pool.Fit
	// wait ends when the pod runs, and nobody else has running.
	wait, running *os.File
}

// openPool finds the pool for a sandbox with these options; nil: it has none. There is no
// log yet: what is wrong with a configuration, the creation of the pod says.
func (p Program) openPool(ctx context.Context, options RuntimeOptions) *machinePool {
	if p.LoadConfig == nil {
		return nil
	}
	settings, err := p.LoadConfig(ctx, options)
	if err != nil || settings.Factory.PoolSize == 0 {
		return nil
	}
	m := &machinePool{pool: pool.Open(settings.Factory.Dir), settings: settings}
	if m.fit, err = factory.Describe(pool.Shim, settings, "/proc/self/exe"); err != nil {
		return nil
	}
	if m.wait, m.running, err = os.Pipe(); err != nil {
		return nil
	}
	return m
}

// starting is for the server to close when its pod runs; the file is never nil.
func (m *machinePool) starting() (*os.File, error) {
	if m == nil {
		return os.Open(os.DevNull)
	}
	return m.running, nil
}

// take makes a prepared process the server. nil: there is none, and the server is to log
// why.
func (m *machinePool) take(ctx context.Context, inv invocation, files []*os.File) (*server, coldStart) {
	if m == nil {
		return nil, coldStart{}
	}
	reason, err := m.misfit(inv)
	var cause error
	for err == nil && reason == "" {
		var claim *pool.Claim
		if claim, reason, err = m.pool.Take(ctx, m.fit); claim == nil {
			break
		}
		s, refused, adoptErr := adopt(ctx, claim, inv, files)
		switch {
		case adoptErr != nil:
			reason, cause = pool.ReasonDied, adoptErr
		case refused == pool.ReasonTaken: // there may be others
		case refused != "":
			reason = refused
		default:
			return s, coldStart{}
		}
	}
	if err != nil {
		reason, cause = pool.ReasonFailed, err
	}
	cold := coldStart{Reason: reason}
	if err := errors.Join(cause, m.pool.Miss(ctx, pool.Shim, reason)); err != nil {
		cold.Error = err.Error()
	}
	return nil, cold
}

// coldStart is why a pod has no prepared machine although there is a pool.
type coldStart struct {
	Reason pool.Reason `json:",omitempty"`
	Error  string      `json:",omitempty"`
}

// misfit tells by what start knows of a pod whether it is to look for a machine. The
// server looks again, when it knows all.
func (m *machinePool) misfit(inv invocation) (pool.Reason, error) {
	if os.Getenv("SCHED_CORE") != "" {
		return pool.ReasonScheduling, nil
	}
	annotations, err := oci.LoadAnnotations(inv.bundle)
	if err != nil {
		return "", nil //nolint:nilerr // it has no specification, or a wrong one
	}
	own, err := m.settings.ForPod(annotations)
	if err != nil {
		return pool.ReasonConfiguration, nil //nolint:nilerr // its creation says so
	}
	return factory.Misfit(m.settings, factory.Spec{Config: own, Log: slog.New(slog.DiscardHandler)})
}

// adopt makes the process of a prepared machine the server.
func adopt(ctx context.Context, claim *pool.Claim, inv invocation, files []*os.File) (_ *server, refused pool.Reason, err error) {
	conn := channel.FromConn(claim.Conn)
	defer conn.Close()
	fd, err := unix.PidfdOpen(claim.PID, 0)
	if err != nil {
		return nil, "", fmt.Errorf("watch the process of a prepared machine: %w", err)
	}
	s := &server{pid: claim.PID, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	defer func() {
		if err != nil { // it has not said no
			conn.Close() // so that it cannot say yes any more, if giving up fails
			taken, giveUpErr := claim.GiveUp(ctx)
			if err = errors.Join(err, giveUpErr); taken {
				refused, err = pool.ReasonTaken, nil
			}
		}
		if err != nil || refused != "" {
			s.release()
		}
	}()
	cmd := serverCommand(inv)
	var stat unix.Stat_t
	if err := unix.Stat(inv.bundle, &stat); err != nil {
		return nil, "", &os.PathError{Op: "stat", Path: inv.bundle, Err: err}
	}
	if err := conn.SetDeadline(time.Now().Add(adoptionPatience)); err != nil {
		return nil, "", err
	}
	err = conn.Send(adoption{
		Arguments: cmd.Args, Environment: cmd.Env, Bundle: inv.bundle, Device: stat.Dev, Inode: stat.Ino, Caller: os.Getpid(),
	}, files...)
	if err != nil {
		return nil, "", err
	}
	var answer adopted
	if _, err := conn.Receive(&answer); err != nil {
		return nil, "", err
	}
	return s, answer.Unfit, nil
}

// refill starts, in the background, as many machines as the pool lacks. They wait for the
// pod to run, and then for an idle host.
func (m *machinePool) refill(ctx context.Context) {
	if m == nil {
		return
	}
	defer m.wait.Close()
	// As for openPool.
	_, _ = m.pool.Fill(ctx, m.fit, pool.Request{Config: m.settings}, m.settings.Factory.PoolSize, func(dir, name string, lock *os.File) (int, error) {
		// While it has this open, no other mount namespace is taken for it.
		mounts, err := os.Open("/proc/self/ns/mnt")
		if err != nil {
			return 0, err
		}
		defer mounts.Close()
		cmd := exec.Command("/proc/self/exe") //nolint:noctx // it outlives this process
		cmd.Args = []string{Name, PreparedCommand, dir, name}
		cmd.Dir, cmd.Env = "/", environment()
		cmd.ExtraFiles = []*os.File{lock, m.wait, mounts}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS}
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		pid := cmd.Process.Pid // Release forgets it
		return pid, cmd.Process.Release()
	})
}

// prepared is the program as a server whose machine boots before there is a pod.
func (p Program) prepared(args []string) error {
	if len(args) != 2 {
		return errors.New(PreparedCommand + " is for this program itself")
	}
	_ = os.WriteFile("/proc/self/comm", []byte(processName), 0) // nothing depends on it
	if _, err := limits.OfCaller(limits.System); err != nil {   // which the server is told, and does not have
		return err
	}
	if err := liftLimits(slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	slot, err := pool.Occupy(args[0], args[1], os.NewFile(preparedLockFD, "lock"))
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	var asked adoption
	var files []*os.File
	var start *channel.Conn
	machine, err := factory.Hold(ctx, slot, os.NewFile(preparedWaitFD, "wait"), func(_ *factory.Prepared, conn *channel.Conn) bool {
		asked = adoption{}
		if files, err = receiveAdoption(conn, &asked); err != nil {
			return false // who has connected is gone
		}
		refusal := asked.consider(ctx, slot)
		if refusal == nil {
			start = conn
			return true
		}
		for _, file := range files {
			file.Close()
		}
		_ = conn.Send(refusal) // or start forks a server all the same
		return false
	})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	if err != nil {
		return err
	}
	inv, err := asked.become(machine)
	if err == nil {
		stop() // the server has its own
		err = start.Send(adopted{})
	} else {
		_ = start.Send(adopted{Unfit: pool.ReasonFailed, Error: err.Error()}) // likewise
	}
	start.Close()
	if err == nil {
		err = p.serve(context.Background(), inv, &inherited{
			socket: files[0], handover: files[1], mounts: files[2], starting: files[3], prepared: machine,
		})
	}
	return errors.Join(err, machine.Stop(context.Background()))
}

func receiveAdoption(conn *channel.Conn, asked *adoption) (files []*os.File, err error) {
	if err := conn.SetDeadline(time.Now().Add(adoptionPatience)); err != nil {
		return nil, err
	}
	if files, err = conn.Receive(asked); err != nil {
		return nil, err
	}
	const wanted = startingFD - listenerFD + 1
	if len(files) != wanted {
		for _, file := range files {
			file.Close()
		}
		return nil, fmt.Errorf("a server takes over %d files, not %d", wanted, len(files))
	}
	return files, nil
}

// consider tells why the machine cannot be had; otherwise it is taken.
func (a *adoption) consider(ctx context.Context, slot *pool.Slot) *adopted {
	var stat unix.Stat_t
	if err := unix.Stat(a.Bundle, &stat); err != nil || stat.Dev != a.Device || stat.Ino != a.Inode {
		return &adopted{Unfit: pool.ReasonDirectory} // none is another one
	}
	err := slot.Leave(ctx, a.Caller)
	switch {
	case errors.Is(err, pool.ErrDiscarded):
		return &adopted{Unfit: pool.ReasonTaken}
	case err != nil:
		return &adopted{Unfit: pool.ReasonFailed, Error: err.Error()}
	default:
		return nil
	}
}

// become makes this process what start would have forked.
func (a *adoption) become(machine *factory.Prepared) (invocation, error) {
	inv, err := parse(a.Arguments[1:], os.Stderr)
	if err != nil {
		return inv, err
	}
	os.Clearenv()
	for _, variable := range a.Environment {
		name, value, _ := strings.Cut(variable, "=")
		if err := os.Setenv(name, value); err != nil {
			return inv, fmt.Errorf("take on the environment: %w", err)
		}
	}
	if err := os.Chdir(a.Bundle); err != nil {
		return inv, err
	}
	_ = cmdline.Set(a.Arguments) // for people alone
	return inv, machine.Adopt(a.Caller)
}
