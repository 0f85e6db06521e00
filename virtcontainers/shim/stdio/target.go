package stdio

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrUnsupported says that a stream is named in a way that is not understood.
var ErrUnsupported = errors.New("not supported: name a fifo or a file by its path, or use file:///PATH or binary:///PROGRAM")

// target is where a stream comes from or goes to.
type target struct {
	// scheme is empty for nothing, "path", "file" or a kind of binary.
	scheme string
	path   string
	query  string // of a binary
}

const (
	schemePath = "path"
	schemeFile = "file"
	// schemeBinary is a program that closes its ready pipe, or ends, when it is
	// ready; one of schemeBinaryV2 has to write a byte before.
	schemeBinary   = "binary"
	schemeBinaryV2 = "binary-v2"
)

func (t target) isBinary() bool { return t.scheme == schemeBinary || t.scheme == schemeBinaryV2 }

func parse(name string) (target, error) {
	if name == "" {
		return target{}, nil
	}
	if strings.HasPrefix(name, "/") {
		return target{scheme: schemePath, path: name}, nil // whatever characters it has
	}
	uri, err := url.Parse(name)
	if err != nil {
		return target{}, fmt.Errorf("%q is %w: %w", name, ErrUnsupported, err)
	}
	t := target{scheme: uri.Scheme, path: uri.Path, query: uri.RawQuery}
	switch uri.Scheme {
	case "":
		return target{scheme: schemePath, path: name}, nil
	case "fifo":
		t.scheme = schemePath
	case schemeFile, schemeBinary, schemeBinaryV2:
	default:
		return target{}, fmt.Errorf("%q is %w", name, ErrUnsupported)
	}
	if uri.Host != "" || !filepath.IsAbs(t.path) {
		return target{}, fmt.Errorf("%q has no absolute path: write %s:///PATH", name, uri.Scheme)
	}
	return t, nil
}

// node is a path that was looked up, once: it may name something else when it is
// opened, and the kind of a file says how it may be opened.
type node struct {
	file *os.File // O_PATH
	name string
	kind uint32 // S_IFMT
}

func lookUp(name string) (*node, error) {
	file, err := os.OpenFile(name, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		file.Close()
		return nil, fmt.Errorf("look at %s: %w", name, err)
	}
	n := &node{file: file, name: name, kind: stat.Mode & unix.S_IFMT}
	if n.kind != unix.S_IFIFO && n.kind != unix.S_IFREG && n.kind != unix.S_IFCHR {
		file.Close()
		return nil, fmt.Errorf("%s is neither a fifo nor a file", name)
	}
	return n, nil
}

func (n *node) isFifo() bool { return n.kind == unix.S_IFIFO }

func (n *node) open(flags int) (*os.File, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", n.file.Fd()), flags|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", n.name, err)
	}
	return os.NewFile(uintptr(fd), n.name), nil
}

// openBoth opens a fifo's two ends, without waiting: the one is the other's other
// end.
func (n *node) openBoth() (reader, writer *os.File, err error) {
	if reader, err = n.open(unix.O_RDONLY); err != nil {
		return nil, nil, err
	}
	if writer, err = n.open(unix.O_WRONLY); err != nil {
		reader.Close()
		return nil, nil, err
	}
	return reader, writer, nil
}
