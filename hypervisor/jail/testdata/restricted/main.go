// Command restricted restricts itself, without the parts that its arguments name
// after the first, tells what each of its threads is then, and, with all parts, makes
// a system call that ends it: in its main thread or another, as the first argument
// says.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/jail"
)

func main() {
	var ready, end sync.WaitGroup
	end.Add(1)
	for range 5 {
		ready.Add(1)
		go func() {
			runtime.LockOSThread()
			ready.Done()
			end.Wait()
		}()
	}
	ready.Wait()
	if err := jail.Restrict(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	tasks, _ := filepath.Glob("/proc/self/task/*/status")
	for _, task := range tasks {
		show(os.ReadFile(task))
	}
	show(exec.Command("cat", "/proc/self/status").Output())
	// It may still do what a supervisor does.
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		fmt.Println("unshare:", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		fmt.Println("mount:", err)
	}
	if len(os.Args) > 2 {
		return
	}
	if os.Args[1] == "thread" {
		go trace()
		end.Wait()
	}
	trace()
}

func trace() {
	_ = unix.PtraceAttach(os.Getppid())
	fmt.Println("traced")
	os.Exit(3)
}

func show(status []byte, err error) {
	if err != nil {
		fmt.Println(err)
		return
	}
	for line := range strings.Lines(string(status)) {
		switch key, value, _ := strings.Cut(line, ":"); key {
		case "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp":
			fmt.Print(key, " ", strings.TrimSpace(value), " ")
		}
	}
	fmt.Println()
}
