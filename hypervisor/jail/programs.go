package jail

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// loaderCache is where the loader finds libraries. Whoever installs some writes it
// anew.
const loaderCache = "/etc/ld.so.cache"

// loaderTimeout bounds the loader's answer.
const loaderTimeout = 10 * time.Second

// Libraries returns what the loader opens to start a program, besides the
// program: itself, its cache, and all libraries, with those that modules need
// which the program loads later. It asks the loader, which alone knows where it
// looks. A program without a loader needs nothing.
func Libraries(ctx context.Context, program string, modules ...string) ([]string, error) {
	loader, err := interpreter(program)
	if err != nil {
		return nil, fmt.Errorf("find the libraries of %s: %w", program, err)
	}
	if loader == "" {
		return nil, nil
	}
	found := []string{loader}
	if _, err := os.Stat(loaderCache); err == nil {
		found = append(found, loaderCache)
	}
	ctx, cancel := context.WithTimeout(ctx, loaderTimeout)
	defer cancel()
	for _, name := range append([]string{program}, modules...) {
		cmd := exec.CommandContext(ctx, loader, "--list", name)
		cmd.Env, cmd.WaitDelay = []string{"LC_ALL=C"}, time.Second
		out, err := cmd.Output()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
			err = fmt.Errorf("%w: %q", err, bytes.TrimSpace(exit.Stderr))
		}
		if err != nil {
			return nil, fmt.Errorf("find the libraries of %s: %s --list: %w", name, loader, err)
		}
		libraries, err := parseList(out)
		if err != nil {
			return nil, fmt.Errorf("find the libraries of %s: %w", name, err)
		}
		found = append(found, libraries...)
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// SelfLibraries lists the libraries of this program: none of a static one, as it
// is built.
func SelfLibraries(ctx context.Context) ([]string, error) {
	loader, err := interpreter(Self)
	if err != nil {
		return nil, fmt.Errorf("find the libraries of this program: %w", err)
	}
	if loader == "" {
		return nil, nil
	}
	name, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return Libraries(ctx, name)
}

// ErrNoProgram says that a file is a script, say, which would need programs of the
// host that a jail does not have.
var ErrNoProgram = errors.New("no program in the ELF format, which alone can be confined")

// interpreter returns the loader that a program names; empty for a static one.
func interpreter(program string) (string, error) {
	file, err := elf.Open(program)
	var format *elf.FormatError
	if errors.As(err, &format) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "", fmt.Errorf("%w: name what a script starts, not the script (%w)", ErrNoProgram, err)
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		data := make([]byte, min(p.Filesz, unix.PathMax))
		if _, err := p.ReadAt(data, 0); err != nil {
			return "", fmt.Errorf("read its loader's name: %w", err)
		}
		return string(bytes.TrimRight(data, "\x00")), nil
	}
	return "", nil
}

// parseList reads what loaders print: "libc.so.6 => /lib/libc.so.6 (0x7f...)", and
// without an arrow what is a path already or in no file.
func parseList(out []byte) ([]string, error) {
	var found []string
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		name, path, arrow := strings.Cut(strings.TrimSpace(lines.Text()), " => ")
		if !arrow {
			path = name
		}
		if strings.HasPrefix(path, "not found") {
			return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		if i := strings.LastIndex(path, " (0x"); i >= 0 {
			path = path[:i]
		}
		if filepath.IsAbs(path) {
			found = append(found, path)
		}
	}
	return found, lines.Err()
}

// remembered is what Recall keeps of a program.
type remembered[T any] struct {
	Identity string `json:"identity"`
	// Places are what the identity looks at besides.
	Places []string `json:"places,omitempty"`
	Value  T        `json:"value"`
}

// Places lists files and directories, there or not, which change when what a program
// needs does: where modules of it may be installed later. It is asked only before
// something is found out; nil: none.
type Places func() ([]string, error)

// Remember returns what find finds for a program: the files that it needs. It keeps that
// as Recall does.
func Remember(dir, program string, places Places, find func() ([]string, error)) ([]string, error) {
	return Recall(dir, "needs", program, places, find)
}

// Recall returns what find finds out about a program. It keeps that in a file below
// dir, a directory of root's alone, for as long as neither the program nor the
// host's libraries nor one of the places change: to find it takes longer than to start
// the program. What is
// kept under one name is of one type, also in other versions of this program: what
// changes its type changes its name.
func Recall[T any](dir, name, program string, places Places, find func() (T, error)) (T, error) {
	var none T
	if _, err := identify(program, nil); err != nil {
		return none, fmt.Errorf("find what %s needs: %w", program, err)
	}
	if err := ownDirectory(dir); err != nil {
		return none, err
	}
	sum := sha256.Sum256([]byte(program))
	file := filepath.Join(dir, "program-"+name+"-"+hex.EncodeToString(sum[:8])+".json")
	var kept remembered[T]
	if data, err := os.ReadFile(file); err == nil && json.Unmarshal(data, &kept) == nil {
		if identity, err := identify(program, kept.Places); err == nil && identity == kept.Identity {
			return kept.Value, nil
		}
	}
	kept = remembered[T]{}
	var err error
	if places != nil {
		if kept.Places, err = places(); err != nil {
			return none, err
		}
	}
	// Before it is found: what changes meanwhile is found next time.
	if kept.Identity, err = identify(program, kept.Places); err != nil {
		return none, fmt.Errorf("find what %s needs: %w", program, err)
	}
	if kept.Value, err = find(); err != nil {
		return none, err
	}
	return kept.Value, replaceFile(file, kept)
}

// identify tells a program, the host's libraries and places from others.
func identify(program string, places []string) (string, error) {
	var all []string
	for _, name := range slices.Concat([]string{program, loaderCache}, places) {
		var stat unix.Stat_t
		err := unix.Stat(name, &stat)
		switch {
		case name != program && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)):
			all = append(all, "none")
		case err != nil:
			return "", err
		default:
			all = append(all, fmt.Sprint(stat.Dev, stat.Ino, stat.Size, stat.Mtim, stat.Ctim))
		}
	}
	return strings.Join(all, "; "), nil
}

// Names of files that are not complete, and how old one is that nobody completes any
// more: who writes it needs milliseconds.
const (
	unfinished    = ".new-"
	unfinishedFor = time.Minute
)

func replaceFile(name string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	removeUnfinished(filepath.Dir(name))
	file, err := os.CreateTemp(filepath.Dir(name), unfinished)
	if err != nil {
		return fmt.Errorf("keep what a program needs: %w", err)
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(file.Name(), name)
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return fmt.Errorf("keep what a program needs: %w", err)
	}
	return nil
}

// removeUnfinished removes what is left of those that were killed while they wrote.
func removeUnfinished(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, unfinished+"*"))
	for _, name := range left {
		if info, err := os.Lstat(name); err == nil && time.Since(info.ModTime()) > unfinishedFor {
			_ = os.Remove(name)
		}
	}
}

// ErrUnsafe says that others than root may write to a directory of the jail's.
var ErrUnsafe = errors.New("belongs to another user, or others may write to it")

// ownDirectory makes a directory that only this user can enter, or finds that it
// is one.
func ownDirectory(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the jail's directory: %w", err)
	}
	var stat unix.Stat_t
	if err := unix.Lstat(dir, &stat); err != nil {
		return fmt.Errorf("look at the jail's directory %s: %w", dir, err)
	}
	if int(stat.Uid) != os.Geteuid() || stat.Mode&0o022 != 0 || stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("the jail's directory %s: %w", dir, ErrUnsafe)
	}
	return nil
}
