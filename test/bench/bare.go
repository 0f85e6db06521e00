package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

// restarter is a first process that restarts the machine at once, which QEMU
// takes as the end: the smallest guest that can be timed.
const restarter = `void _start(void) {
	long number = 169, result;
	__asm__ volatile("syscall" : "=a"(result)
		: "a"(number), "D"(0xfee1deadL), "S"(672274793L), "d"(0x1234567L) : "rcx", "r11", "memory");
	for (;;) {}
}
`

// learnMachine finds out how the runtime calls QEMU, unless it is known.
func (b *bench) learnMachine(ctx context.Context) (err error) {
	if len(b.machine) > 0 {
		return nil
	}
	p, err := b.newPod(ctx, b.kata)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.remove(ctx, p.id)) }()
	_, err = b.podProcesses(p)
	return err
}

// newBareBoot prepares boots of the kernel that the runtime boots, with the
// same QEMU, processor, memory and kernel parameters, and no device at all.
func (b *bench) newBareBoot() (func(context.Context) *exec.Cmd, error) {
	return b.newBareMachine(restarter)
}

// newBareMachine is newBareBoot with another first process, in C.
func (b *bench) newBareMachine(init string) (func(context.Context) *exec.Cmd, error) {
	initrd, err := b.bareInitrd(init)
	if err != nil {
		return nil, err
	}
	args := []string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-initrd", initrd}
	for _, option := range []string{"-machine", "-M", "-accel", "-cpu", "-smp", "-m", "-kernel", "-append", "-bios", "-global"} {
		for _, value := range optionValues(b.machine, option) {
			args = append(args, option, bareValue(option, value))
		}
	}
	if len(b.machine) == 0 || !slices.Contains(args, "-kernel") {
		return nil, errors.New("the runtime's QEMU was not seen, or without a kernel")
	}
	return func(ctx context.Context) *exec.Cmd { return exec.CommandContext(ctx, b.machine[0], args...) }, nil
}

// optionValues returns the values of one option of a QEMU command line.
func optionValues(line []string, option string) []string {
	var values []string
	for i, word := range line[:max(len(line)-1, 0)] {
		if word == option {
			values = append(values, line[i+1])
		}
	}
	return values
}

// bareValue leaves out what refers to objects that the bare machine lacks.
func bareValue(option, value string) string {
	if option != "-machine" && option != "-M" {
		return value
	}
	return strings.Join(slices.DeleteFunc(strings.Split(value, ","), func(part string) bool {
		return strings.HasPrefix(part, "memory-backend=")
	}), ",")
}

func (b *bench) bareInitrd(init string) (string, error) {
	dir, err := os.MkdirTemp(b.dir, "bare-")
	if err != nil {
		return "", err
	}
	source, program := filepath.Join(dir, "init.c"), filepath.Join(dir, "init")
	if err := os.WriteFile(source, []byte(init), 0o600); err != nil {
		return "", err
	}
	compile := exec.Command("gcc", "-Os", "-static", "-nostdlib", "-s", "-o", program, source) //nolint:noctx // takes a moment
	if text, err := compile.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", compile, err, text)
	}
	path := filepath.Join(dir, "bare.img")
	return path, writeInitrd(path, program)
}

// writeInitrd makes an initrd with a console, one program, which is the guest's
// first process, and more.
func writeInitrd(path, program string, more ...cpio.Record) error {
	code, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	writer := cpio.Newc.Writer(file)
	err = cpio.WriteRecords(writer, append([]cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("init", string(code), 0o755),
	}, more...))
	return errors.Join(err, cpio.WriteTrailer(writer), file.Close())
}
