package standin

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/share"
)

// Command is the hidden first argument by which the runtime's program becomes a
// stand-in.
const Command = "stand-in"

// Descriptors of a stand-in, after its standard streams.
const (
	channelFD = 3 + iota
	settingsFD
	firstTreeFD
)

// killedExit is the exit code of a stand-in whose supervisor has gone.
const killedExit = 128 + int(unix.SIGKILL)

// Mount is a part of the container's file system that the stand-in enters.
type Mount struct {
	// Tree is detached, see share.OpenTree; it stays the caller's. Without
	// one, the guest alone has a file system there, in its memory: an empty
	// read-only one covers the place here, since what is written to a place
	// that the container does not see would be lost without a word.
	Tree *os.File
	// Destination is the path in the container; ignored for the root.
	Destination string
	Attributes  share.Attributes
}

// Options are what Start needs.
type Options struct {
	ID       string
	Hostname string // set in a new UTS namespace only
	// Stdio are the process's standard streams.
	Stdio [3]*os.File
	// OwnsTerminal makes the first of Stdio, a pty's slave, the controlling
	// terminal.
	OwnsTerminal bool
	// Terminal tells that the container's process has a terminal, whose size
	// is that of the first of Stdio.
	Terminal bool
	// Attached tells that somebody waits for the output, however long it
	// takes; otherwise a reader that stopped is given up after the exit.
	Attached bool
	// Namespaces are those of the spec. Mount namespaces are always new, user
	// and time namespaces are the guest's alone.
	Namespaces []specs.LinuxNamespace
	// Root is the container's root file system, Mounts what is mounted in it, in
	// that order. Without a tree, the stand-in of an exec, the root is empty.
	Root   Mount
	Mounts []Mount
	// Directory is an existing one on which the root is mounted first; in the
	// stand-in's own mount namespace only.
	Directory string
	// Channel is the stand-in's end of its channel; it stays the caller's.
	Channel *os.File
}

// settings travel to the new process.
type settings struct {
	Terminal, Attached bool
	Hostname           string // empty: leave it
	Directory          string
	Empty              bool // there is no tree
	Root               mount
	Mounts             []mount
}

type mount struct {
	Destination string
	Attributes  share.Attributes
	Cover       bool // there is no tree
}

// Start forks a stand-in. The caller waits for it, or exits and leaves it to
// its own subreaper.
func Start(options Options) (*exec.Cmd, error) {
	s := settings{
		Terminal: options.Terminal, Attached: options.Attached, Directory: options.Directory,
		Root: mount{Attributes: options.Root.Attributes},
	}
	files := []*os.File{options.Channel, nil}
	if options.Root.Tree == nil {
		s.Empty = true
	} else {
		files = append(files, options.Root.Tree)
	}
	for _, m := range options.Mounts {
		s.Mounts = append(s.Mounts, mount{Destination: m.Destination, Attributes: m.Attributes, Cover: m.Tree == nil})
		if m.Tree != nil {
			files = append(files, m.Tree)
		}
	}
	for _, n := range options.Namespaces {
		if n.Type == specs.UTSNamespace && n.Path == "" {
			s.Hostname = options.Hostname
		}
	}
	memory, err := encode(s)
	if err != nil {
		return nil, fmt.Errorf("start a stand-in: %w", err)
	}
	defer memory.Close()
	files[1] = memory

	cmd := exec.Command("/proc/self/exe") //nolint:noctx // it may outlive the command
	cmd.Args = []string{"kata-runtime", Command, options.ID}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = options.Stdio[0], options.Stdio[1], options.Stdio[2]
	cmd.ExtraFiles = files
	// Without containermaxprocs=0, Go's runtime keeps files of the caller's
	// cgroup open.
	cmd.Env = []string{"GOMAXPROCS=2", "GOGC=50", "GODEBUG=containermaxprocs=0"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: options.OwnsTerminal}
	if err := namespace.Start(cmd, options.Namespaces); err != nil {
		return nil, fmt.Errorf("start a stand-in: %w", err)
	}
	return cmd, nil
}

// encode puts settings where the new process reads them.
func encode(s settings) (*os.File, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode the settings: %w", err)
	}
	fd, err := unix.MemfdCreate("settings", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a memory file: %w", err)
	}
	file := os.NewFile(uintptr(fd), "settings")
	if _, err := file.WriteAt(data, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("write the settings: %w", err), file.Close())
	}
	return file, nil
}
