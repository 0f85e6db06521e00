package main

import (
	"context"
	"debug/elf"
	"fmt"
	"os/exec"
	"path"
	"strings"
	"time"

	"kata-runtime/rootfs-builder/image"
)

// busyboxTimeout bounds how long busybox takes to list what it does.
const busyboxTimeout = 10 * time.Second

// addBusybox adds a static busybox of this machine's kind, and a link for each
// program that it can be.
func addBusybox(ctx context.Context, contents *image.Contents, program string) error {
	if err := checkStatic(program); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, busyboxTimeout)
	defer cancel()
	list, err := exec.CommandContext(ctx, program, "--list").Output()
	if err != nil {
		return fmt.Errorf("list what %s does (busybox --list): %w", program, err)
	}
	contents.HostFile("/bin/busybox", 0o755, program)
	for name := range strings.FieldsSeq(string(list)) {
		if name != "busybox" && name == path.Base(name) {
			contents.Symlink("/bin/"+name, "busybox")
		}
	}
	return nil
}

// checkStatic refuses a program that wants libraries, which an image does not have.
func checkStatic(program string) error {
	file, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("read -busybox: %w", err)
	}
	defer file.Close()
	for _, header := range file.Progs {
		if header.Type == elf.PT_INTERP {
			return fmt.Errorf("-busybox %s is no static program: Debian has one in the package busybox-static", program)
		}
	}
	return nil
}
