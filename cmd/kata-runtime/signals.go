package main

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSignal is the highest signal number of Linux.
const maxSignal = 64

// parseSignal takes a number, or a name with or without "SIG", in any case.
func parseSignal(text string) (syscall.Signal, error) {
	if number, err := strconv.Atoi(text); err == nil {
		if number < 0 || number > maxSignal { // 0 asks whether there is a process
			return 0, fmt.Errorf("unknown signal %q", text)
		}
		return syscall.Signal(number), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if signal := unix.SignalNum(name); signal != 0 {
		return signal, nil
	}
	return 0, fmt.Errorf("unknown signal %q", text)
}
