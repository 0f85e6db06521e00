// Command probe stands in the place of a confined program: see package jailtest.
//
// A system call that ends the process is made by a process of its own. That one
// reports by a pipe, since the confined program may not wait for others.
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// encoded are the targets; the linker sets it.
var encoded string //nolint:gochecknoglobals // see above

type targets struct {
	Files, Sockets, Addresses []string
	Processes                 []int
	Handle                    []byte
	HandleType                int32
}

type report struct {
	Attempts                            int
	Reached, Killed, Descriptors, Files []string
}

// alone is the first argument of a process that makes one attempt.
const alone = "--attempt"

func main() {
	switch {
	case len(os.Args) > 2 && os.Args[1] == "-L": // which directories have firmware
		return
	case len(os.Args) > 1 && os.Args[1] == "--version":
		fmt.Println("virtiofsd version 7.2.99 (probe)")
		return
	}
	data, err := base64.StdEncoding.DecodeString(encoded)
	var t targets
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if len(os.Args) == 3 && os.Args[1] == alone {
		if err := hostile(&t)[os.Args[2]](); err != nil {
			fmt.Print("refused")
		} else {
			fmt.Print("reached")
		}
		return
	}
	r := probe(&t)
	if data, err = json.Marshal(r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Fprintf(os.Stderr, "probe[%s]\n", base64.StdEncoding.EncodeToString(data))
	os.Exit(7)
}

func probe(t *targets) *report {
	r := &report{}
	r.Descriptors = descriptors()
	share := sharedDirectory()
	_ = filepath.WalkDir("/", func(path string, entry fs.DirEntry, _ error) error {
		if share != "" && path == share || strings.HasPrefix(path, "/proc/self/") {
			return fs.SkipDir
		}
		if entry != nil && !entry.IsDir() && len(r.Files) < 200 {
			r.Files = append(r.Files, path)
		}
		return nil
	})
	for _, group := range []map[string]func() error{
		files(t), sockets(t), processes(t), privileges(), kernel(), devices(), escapes(), shared(t, share),
	} {
		for name, attempt := range group {
			r.Attempts++
			if attempt() == nil {
				r.Reached = append(r.Reached, name)
			}
		}
	}
	for name := range hostile(t) {
		r.Attempts++
		switch inChild(name) {
		case "reached":
			r.Reached = append(r.Reached, name)
		case "":
			r.Killed = append(r.Killed, name)
		case "refused":
		default:
			r.Reached = append(r.Reached, "no child for: "+name)
		}
	}
	slices.Sort(r.Reached)
	slices.Sort(r.Killed)
	return r
}

// inChild makes an attempt in another process, and returns what that says: nothing
// if it was ended.
func inChild(name string) string {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err.Error()
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		null = pipe[1]
	}
	_, err = syscall.ForkExec(os.Args[0], []string{os.Args[0], alone, name}, &syscall.ProcAttr{
		Env: []string{"GOMAXPROCS=1"}, Files: []uintptr{uintptr(null), uintptr(pipe[1]), uintptr(null)},
	})
	_ = unix.Close(pipe[1])
	out := os.NewFile(uintptr(pipe[0]), "pipe")
	defer out.Close()
	if err != nil {
		return err.Error()
	}
	said, err := io.ReadAll(out)
	if err != nil {
		return err.Error()
	}
	return string(said)
}

// descriptors tells what is open.
func descriptors() []string {
	var found []string
	for fd := range 1024 {
		var stat unix.Stat_t
		if unix.Fstat(fd, &stat) != nil {
			continue
		}
		kind := map[uint32]string{
			unix.S_IFREG: "file", unix.S_IFDIR: "directory", unix.S_IFIFO: "pipe", unix.S_IFBLK: "disk", unix.S_IFLNK: "link",
		}[stat.Mode&unix.S_IFMT]
		switch {
		case stat.Mode&unix.S_IFMT == unix.S_IFCHR:
			kind = fmt.Sprintf("device %d:%d", unix.Major(stat.Rdev), unix.Minor(stat.Rdev))
		case stat.Mode&unix.S_IFMT == unix.S_IFSOCK:
			family, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
			kind = fmt.Sprintf("socket %d", family)
		case kind == "":
			kind = "anonymous"
		}
		found = append(found, kind)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// sharedDirectory is the one that a file server serves, "" for another program.
func sharedDirectory() string {
	for _, argument := range os.Args {
		for _, prefix := range []string{"source=", "--shared-dir="} {
			if path, found := strings.CutPrefix(argument, prefix); found {
				return path
			}
		}
	}
	return ""
}
