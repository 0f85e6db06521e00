package bootstrap

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/store"
)

const (
	// Name is the program's, and what processes that it forks are called.
	Name = "containerd-shim-kata-v2"
	// runtimeName is what container managers call the runtime of that shim.
	runtimeName = "io.containerd.kata.v2"

	// DefaultRoot holds the state of pods, in a directory for each namespace of
	// containerd's.
	DefaultRoot = store.DefaultShimRoot
	// RootVariable is the environment variable that names another root; containerd
	// hands its environment on.
	RootVariable = store.ShimRootVariable
	// DefaultSocketDir is where containerd's shims have their sockets.
	DefaultSocketDir = "/run/containerd/s"

	ttrpcVariable = "TTRPC_ADDRESS"
	grpcVariable  = "GRPC_ADDRESS"
)

// Program is the shim's program, whatever it serves.
type Program struct {
	Version, Commit string
	// Serve serves the task API on s.Listener until no container is left and
	// containerd has asked for the end (Shutdown), or ctx ends; everything that
	// the pod held is released when it returns.
	Serve func(ctx context.Context, s Server) error
	// LoadConfig reads the configuration that a sandbox with these options has, for
	// prepared machines; nil: there are none.
	LoadConfig func(context.Context, RuntimeOptions) (*config.Config, error)
	// Root and SocketDir replace DefaultRoot and DefaultSocketDir.
	Root, SocketDir string
}

// Server is what a server is given.
type Server struct {
	// Listener hands out connections of this process's user and of root alone.
	Listener net.Listener
	// Namespace is containerd's, ID the sandbox's: the container or the sandbox
	// that the server was started for. Bundle is its directory, absolute; when
	// containerd's sandbox has no specification, there is no config.json in it.
	Namespace, ID, Bundle string
	// Address and TTRPCAddress are containerd's, the latter for events. CRI-O has
	// neither. PublishBinary is the program that older ones want to be run
	// for events.
	Address, TTRPCAddress, PublishBinary string
	// StateRoot is where package store is to keep the state of the pod's
	// containers: where delete looks for it.
	StateRoot string
	Debug     bool
	// Options are those of the sandbox as far as start could read them. Each
	// request to create a container repeats its own: see DecodeOptions.
	Options RuntimeOptions
	// Rlimits are the caller's, which this process does not have any more.
	Rlimits []specs.POSIXRlimit
	// HostMounts is the mount namespace of the caller, for
	// namespace.WithMounts. nil for a server that was not forked by start.
	HostMounts *os.File
	// Prepared is the machine that this process has, for its pod; nil: none.
	Prepared *factory.Prepared `json:"-"`
	// Started is to be called when the pod runs.
	Started func() `json:"-"`
	Log     *slog.Logger
}

// invocation is a command line.
type invocation struct {
	namespace, address, publishBinary, id, bundle, socket string
	debug, info, version                                  bool
	action                                                string
}

// parse reads a command line as containerd's package shim does. What a later
// containerd may say after the action is ignored.
func parse(args []string, usage io.Writer) (invocation, error) {
	var inv invocation
	flags := flag.NewFlagSet(Name, flag.ContinueOnError)
	flags.SetOutput(usage)
	flags.StringVar(&inv.namespace, "namespace", "", "containerd's `namespace` of the container")
	flags.StringVar(&inv.address, "address", "", "containerd's gRPC `address`")
	flags.StringVar(&inv.publishBinary, "publish-binary", "", "`program` that publishes events")
	flags.StringVar(&inv.id, "id", "", "`id` of the container")
	flags.StringVar(&inv.bundle, "bundle", "", "`directory` of the bundle, if that is not the current one")
	flags.StringVar(&inv.socket, "socket", "", "`path` of a socket to serve, instead of one that start has made")
	flags.String("debug-socket", "", "ignored")
	flags.BoolVar(&inv.debug, "debug", false, "log what is done")
	flags.BoolVar(&inv.info, "info", false, "print what the runtime supports, as a protobuf message")
	flags.BoolVar(&inv.version, "v", false, "print the version")
	flags.BoolVar(&inv.version, "version", false, "print the version")
	flags.Usage = func() {
		fmt.Fprintf(usage, "usage: %s [FLAG...] [start|delete]\n"+
			"containerd and CRI-O run this program; with neither word, it serves the task API.\n", Name)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return inv, err
	}
	inv.action = flags.Arg(0)
	return inv, nil
}

// check makes sure that namespace and id, which name directories, do no more.
func (inv invocation) check() error {
	if err := oci.ValidateID(inv.namespace); err != nil {
		return fmt.Errorf("-namespace: %w", err)
	}
	if err := oci.ValidateID(inv.id); err != nil {
		return fmt.Errorf("-id: %w", err)
	}
	return nil
}

// directory is the bundle's, absolute.
func (inv invocation) directory() (string, error) {
	dir, err := filepath.Abs(inv.bundle) // of an empty one, the current directory
	if err != nil {
		return "", fmt.Errorf("find the bundle: %w", err)
	}
	return dir, nil
}

// Run is the whole program; args do not have its name. It returns the exit code.
func (p Program) Run(args []string) int {
	// Whatever the caller left open must not stay open in a process that
	// outlives this one.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return failed(fmt.Errorf("mark descriptors close-on-exec: %w", err))
	}
	if len(args) > 0 && args[0] == PreparedCommand {
		if err := p.prepared(args[1:]); err != nil {
			return failed(err)
		}
		return 0
	}
	inv, err := parse(args, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2 // and the usage was printed
	}
	if err := p.dispatch(inv); err != nil {
		return failed(err)
	}
	return 0
}

func failed(err error) int {
	fmt.Fprintf(os.Stderr, "%s: %v\n", Name, err)
	return 1
}

func (p Program) dispatch(inv invocation) error {
	switch {
	case inv.version:
		_, err := fmt.Printf("%s:\n  Version:  %s\n  Revision: %s\n  Go version: %s\n", Name, p.Version, p.Commit, runtime.Version())
		return err
	case inv.info:
		return p.info(context.Background(), os.Stdin, os.Stdout)
	}
	if err := inv.check(); err != nil {
		return err
	}
	switch inv.action {
	case "start":
		return p.start(context.Background(), inv, os.Stdin, os.Stdout)
	case "delete":
		return p.delete(context.Background(), inv, os.Stdout, os.Stderr)
	case "":
		return p.serve(context.Background(), inv, nil)
	default:
		return fmt.Errorf("no such action: %q: it is start, delete or none", inv.action)
	}
}

// stateRoot is where the state of a namespace's containers is.
func (p Program) stateRoot(namespace string) string {
	return filepath.Join(cmp.Or(p.Root, store.ShimRoot()), namespace)
}

func (p Program) socketDir() string {
	if p.SocketDir == "" {
		return DefaultSocketDir
	}
	return p.SocketDir
}
