package bootstrap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/store"
)

const (
	// maxSocketPath is containerd's bound; the kernel's is 107 bytes.
	maxSocketPath = 106
	// scheme is that of an address.
	scheme = "unix://"
	// lockPatience bounds the wait for others that make or remove a socket.
	lockPatience = 10 * time.Second
)

// errListens says that somebody listens on a socket already.
var errListens = errors.New("somebody listens on the socket already")

// socketPath is where the server of a pod listens: as containerd's shims have it,
// in a directory that may be that of all of them.
func socketPath(dir, address, namespace, id string) (string, error) {
	name := sha256.Sum256([]byte(filepath.Join(address, namespace, id)))
	path := filepath.Join(dir, hex.EncodeToString(name[:]))
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("the directory for the socket is %q, no absolute path", dir)
	}
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("the socket's path %s has %d bytes, and at most %d are possible: set a shorter directory (socket_dir)", path, len(path), maxSocketPath)
	}
	return path, nil
}

// listen makes a socket, in the place of one on which nobody listens any more.
// With errListens, there is one that serves. The file stays when the listener is
// closed.
func listen(ctx context.Context, path string) (*net.UnixListener, error) {
	fail := func(err error) (*net.UnixListener, error) { return nil, fmt.Errorf("listen on %s: %w", path, err) }
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	if err := checkDirectory(dir); err != nil {
		return fail(err)
	}
	// Between bind(2) and listen(2) a socket looks as if it were left over.
	lock, err := store.LockDirectory(ctx, dir, lockPatience)
	if err != nil {
		return fail(err)
	}
	defer lock.Close()
	listens, err := serves(ctx, path)
	switch {
	case err != nil:
		return fail(err)
	case listens:
		return nil, errListens
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fail(err)
	}
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return fail(errors.Join(err, listener.Close(), os.Remove(path)))
	}
	return listener, nil
}

// checkDirectory refuses a directory in which others could put a socket of
// theirs.
func checkDirectory(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	const others = 0o022
	if !ok || stat.Uid != 0 && int(stat.Uid) != os.Geteuid() || info.Mode().Perm()&others != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("others can write to %s", dir)
	}
	return nil
}

// serves tells whether somebody listens on a socket, however busy.
func serves(ctx context.Context, path string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return true, conn.Close()
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, unix.EAGAIN), ctx.Err() != nil: // those who wait are too many
		return true, nil
	default:
		return false, err
	}
}

// removeStale removes a socket on which nobody listens any more. One that another
// server has put in its place stays.
func removeStale(ctx context.Context, path string) error {
	err := func() error {
		lock, err := store.LockDirectory(ctx, filepath.Dir(path), lockPatience)
		if err != nil {
			return err
		}
		defer lock.Close()
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if info.Mode().Type() != fs.ModeSocket {
			return errors.New("it is none")
		}
		if listens, err := serves(ctx, path); listens || err != nil {
			return err
		}
		return os.Remove(path)
	}()
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("remove the socket %s: %w", path, err)
}

// writeAddress tells containerd's later starts where a container's server is.
func writeAddress(bundle, address string) error {
	return replaceFile(filepath.Join(bundle, "address"), address)
}

// readAddress is the path of the socket that a container's server had.
func readAddress(bundle string) (path string, ok bool) {
	data, err := os.ReadFile(filepath.Join(bundle, "address"))
	if err != nil {
		return "", false
	}
	path, ok = strings.CutPrefix(strings.TrimSpace(string(data)), scheme)
	return path, ok && filepath.IsAbs(path)
}

// replaceFile writes a file that others see with all of its content or not at
// all.
func replaceFile(path, content string) error {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // several may be at it
	if err != nil {
		return err
	}
	_, err = file.WriteString(content)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}
