package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	boot "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/limits"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/store"
)

// Descriptors of a server that start has forked.
const (
	listenerFD = 3 + iota
	handoverFD
	mountsFD
	startingFD
)

// handover is what start tells the server that it forks.
type handover struct {
	TTRPCAddress string
	Debug        bool
	Options      RuntimeOptions
	// Socket is the path of the socket, by which it is removed in the end.
	Socket string
	// Rlimits are the caller's, for a server that start has not forked.
	Rlimits []specs.POSIXRlimit
	// Cold is for the log, which start does not have.
	Cold coldStart
}

// answered follows the handover once start has answered its caller.
type answered struct{ Answered bool }

// start makes the pod's server, or finds it, and tells the caller where it is.
func (p Program) start(ctx context.Context, inv invocation, stdin *os.File, stdout io.Writer) error {
	said := parseParams(readInput(stdin, inputPatience), inv.id, inv.namespace)
	if inv.address == "" {
		inv.address = said.grpcAddress
	}
	if inv.publishBinary == "" {
		inv.publishBinary = said.publishBinary
	}
	bundle, err := inv.directory()
	if err != nil {
		return err
	}
	inv.bundle = bundle
	membership, err := podOf(bundle, inv.id)
	if err != nil {
		return err
	}
	dirs := []string{said.socketDir, p.socketDir()}
	if said.socketDir == "" {
		dirs = dirs[1:]
	}
	if membership.Sandbox != "" {
		address, err := findServer(ctx, inv, membership, dirs)
		if err != nil {
			return err
		}
		if err := writeAddress(bundle, address); err != nil {
			return fmt.Errorf("keep the address in the bundle: %w", err)
		}
		return answer(stdout, said.announced, address)
	}
	path, err := socketPath(dirs[0], inv.address, inv.namespace, inv.id)
	if err != nil {
		return err
	}
	listener, err := listen(ctx, path)
	if errors.Is(err, errListens) {
		if err := writeAddress(bundle, scheme+path); err != nil {
			return fmt.Errorf("keep the address in the bundle: %w", err)
		}
		return answer(stdout, said.announced, scheme+path)
	}
	if err != nil {
		return err
	}
	told := handover{TTRPCAddress: said.ttrpcAddress, Debug: inv.debug || said.debug, Options: said.options, Socket: path}
	if told.TTRPCAddress == "" {
		told.TTRPCAddress = os.Getenv(ttrpcVariable)
	}
	machines := p.openPool(ctx, told.Options)
	err = p.launch(ctx, inv, listener, told, machines, func() error { return answer(stdout, said.announced, scheme+path) })
	machines.refill(ctx)
	listener.Close()
	if err != nil {
		return errors.Join(err, removeStale(ctx, path))
	}
	return nil
}

// podOf tells by a bundle whether its container joins a pod. containerd's
// sandboxes may have no specification.
func podOf(bundle, id string) (oci.Pod, error) {
	annotations, err := oci.LoadAnnotations(bundle)
	if errors.Is(err, fs.ErrNotExist) {
		return oci.Pod{}, nil
	}
	if err != nil {
		return oci.Pod{}, err
	}
	return oci.PodOf(annotations, id)
}

// findServer finds the server of the pod that a container joins.
func findServer(ctx context.Context, inv invocation, membership oci.Pod, dirs []string) (address string, err error) {
	var tried []string
	for _, dir := range dirs {
		path, err := socketPath(dir, inv.address, inv.namespace, membership.Sandbox)
		if err != nil {
			return "", err
		}
		listens, err := serves(ctx, path)
		if err != nil {
			return "", fmt.Errorf("join the pod of sandbox %q, as annotation %s says: %w", membership.Sandbox, membership.Annotation, err)
		}
		if listens {
			return scheme + path, nil
		}
		tried = append(tried, path)
	}
	return "", fmt.Errorf("join the pod of sandbox %q, as annotation %s says: nobody serves it at %s: it has ended, or another runtime has made it",
		membership.Sandbox, membership.Annotation, strings.Join(tried, " or "))
}

// answer tells a caller the address, in the form that it understands.
func answer(stdout io.Writer, announced bool, address string) error {
	data := []byte(address)
	if announced {
		capabilities, err := mountCapabilities()
		if err == nil {
			data, err = proto.Marshal(&boot.BootstrapResult{
				Version: 3, Address: address, Protocol: "ttrpc", Extensions: []*boot.Extension{{Value: capabilities}},
			})
		}
		if err != nil {
			return fmt.Errorf("encode the answer: %w", err)
		}
	}
	if _, err := stdout.Write(data); err != nil {
		return fmt.Errorf("answer the caller: %w", err)
	}
	return nil
}

// launch starts the server, or makes a prepared process the server, and calls reply when
// all that it needs is done. After an error it is gone.
func (p Program) launch(ctx context.Context, inv invocation, listener *net.UnixListener, told handover, machines *machinePool, reply func() error) (err error) {
	socket, err := listener.File()
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	defer socket.Close()
	theirs, ours, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	defer ours.Close()
	defer theirs.Close()
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	defer mounts.Close()
	starting, err := machines.starting()
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	defer starting.Close()
	files := []*os.File{socket, theirs, mounts, starting} // in the order of listenerFD and so on
	server, cold := machines.take(ctx, inv, files)
	told.Cold = cold
	if server != nil {
		if told.Rlimits, err = limits.OfCaller(limits.System); err != nil {
			return errors.Join(err, server.kill(ctx))
		}
	} else if server, err = fork(inv, files); err != nil {
		return err
	}
	theirs.Close() // so that the server's end shows
	defer server.release()
	if err := server.handOver(inv, ours, told, reply); err != nil {
		return errors.Join(err, server.kill(ctx))
	}
	return nil
}

// server is a process that start has made a pod's server.
type server struct {
	pid   int
	pidfd *os.File
}

// fork starts the server, with a session and a mount namespace of its own.
func fork(inv invocation, files []*os.File) (*server, error) {
	cmd := serverCommand(inv)
	cmd.ExtraFiles = files
	fd := -1
	cmd.SysProcAttr.PidFD = &fd
	if err := startProcess(cmd); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	s := &server{pid: cmd.Process.Pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	return s, cmd.Process.Release() // it outlives this process
}

// handOver tells the server what it is to serve, and containerd where it is.
func (s *server) handOver(inv invocation, to io.Writer, told handover, reply func() error) error {
	if err := place(s.pid, told.Options.ShimCgroup); err != nil {
		return err
	}
	messages := json.NewEncoder(to)
	if err := messages.Encode(told); err != nil {
		return fmt.Errorf("hand over to the server: %w", err)
	}
	if err := replaceFile(filepath.Join(inv.bundle, "shim.pid"), strconv.Itoa(s.pid)); err != nil {
		return fmt.Errorf("keep the server's pid in the bundle: %w", err)
	}
	if err := writeAddress(inv.bundle, scheme+told.Socket); err != nil {
		return fmt.Errorf("keep the address in the bundle: %w", err)
	}
	if err := reply(); err != nil {
		return err
	}
	if err := messages.Encode(answered{true}); err != nil {
		return fmt.Errorf("hand over to the server: %w", err)
	}
	return nil
}

// kill ends a server of which nobody was told, and waits for its end.
func (s *server) kill(ctx context.Context) error {
	if err := unix.PidfdSendSignal(int(s.pidfd.Fd()), unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill the server, process %d: %w", s.pid, err)
	}
	return store.AwaitEnd(context.WithoutCancel(ctx), s.pidfd)
}

func (s *server) release() { s.pidfd.Close() }

// serverCommand says on its command line what people look for in a list of
// processes.
func serverCommand(inv invocation) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe") //nolint:noctx // it outlives this process
	cmd.Args = []string{
		Name, "-namespace", inv.namespace, "-address", inv.address, "-publish-binary", inv.publishBinary,
		"-id", inv.id, "-bundle", inv.bundle,
	}
	if inv.debug {
		cmd.Args = append(cmd.Args, "-debug")
	}
	cmd.Dir = inv.bundle
	cmd.Env = environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS}
	return cmd
}

// environment keeps what the search for programs and for the configuration needs.
// containerd hands on all of its own, and a limit of threads that is for shims
// which move no data.
func environment() []string {
	env := []string{"GOGC=50"}
	for _, name := range []string{"PATH", ttrpcVariable, grpcVariable, RootVariable, config.PathVariable} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	if !slices.ContainsFunc(env, func(s string) bool { return strings.HasPrefix(s, "PATH=") && s != "PATH=" }) {
		env = append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	return env
}

// startProcess starts a process that shares no core with others at the same
// time, if containerd wants it so (its option sched_core).
func startProcess(cmd *exec.Cmd) error {
	runtime.LockOSThread() // a new process has the cookie of the thread that forks it
	defer runtime.UnlockOSThread()
	if os.Getenv("SCHED_CORE") != "" {
		const ofThread = 0
		if err := unix.Prctl(unix.PR_SCHED_CORE, unix.PR_SCHED_CORE_CREATE, 0, ofThread, 0); err != nil {
			return fmt.Errorf("take cores for itself, as SCHED_CORE wants it: %w", err)
		}
	}
	return cmd.Start()
}

// place puts the server where containerd wants its shims: into a group, and
// before containerd itself when the host has no memory left.
func place(pid int, group string) error {
	if group != "" {
		if err := cgroup.AddTo(group, pid); err != nil {
			return fmt.Errorf("put the server into the control group of the option ShimCgroup: %w", err)
		}
	}
	const most = 1000
	score, err := oomScore("/proc/" + strconv.Itoa(os.Getppid()) + "/oom_score_adj")
	if err != nil { // the caller is in another PID namespace, or was faster
		if score, err = oomScore("/proc/self/oom_score_adj"); err != nil {
			return fmt.Errorf("read the caller's OOM score: %w", err)
		}
	}
	file := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	err = os.WriteFile(file, []byte(strconv.Itoa(min(score+1, most))), 0)
	if err != nil && !errors.Is(err, fs.ErrPermission) { // as containerd's: it may not be allowed to be lower
		return fmt.Errorf("set the server's OOM score: %w", err)
	}
	return nil
}

func oomScore(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}
