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
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/jail/jailtest/attempt"
)

// encoded are the targets; the linker sets it.
var encoded string //nolint:gochecknoglobals // see above

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
	var t attempt.Targets
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if len(os.Args) == 3 && os.Args[1] == alone {
		fmt.Print(attempt.Try(&t, os.Args[2]))
		return
	}
	t.Share = sharedDirectory()
	r := attempt.Make(&t)
	for name := range attempt.Hostile(&t) {
		r.Note(name, inChild(name))
	}
	r.Done()
	if data, err = json.Marshal(r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Fprintf(os.Stderr, "probe[%s]\n", base64.StdEncoding.EncodeToString(data))
	os.Exit(7)
}

// inChild makes an attempt in another process, which says nothing if it was ended.
func inChild(name string) attempt.Outcome {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return attempt.Outcome(err.Error())
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
		return attempt.Outcome(err.Error())
	}
	said, err := io.ReadAll(out)
	switch {
	case err != nil:
		return attempt.Outcome(err.Error())
	case len(said) == 0:
		return attempt.Killed
	default:
		return attempt.Outcome(said)
	}
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
