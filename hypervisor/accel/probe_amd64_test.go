package accel

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
)

func TestCheckFlags(t *testing.T) {
	for text, usable := range map[string]bool{
		"processor\t: 0\nflags\t\t: fpu vmx sse\n":              true,
		"flags : fpu svm\n":                                     true,
		"flags : fpu avx vmx_like svmx\n":                       false,
		"model name : vmx svm\nflags : fpu\nvmx flags : vnmi\n": false,
		"": false,
	} {
		if err := checkFlags(strings.NewReader(text)); (err == nil) != usable {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestMissingDevice(t *testing.T) {
	err := testVM(t.Context(), t.TempDir()+"/kvm")
	var problem *UnusableError
	if !errors.As(err, &problem) || !strings.Contains(problem.What, "there is no") {
		t.Errorf("got %v", err)
	}
}

func TestDeviceThatIsNotKVM(t *testing.T) {
	err := testVM(t.Context(), os.DevNull)
	var problem *UnusableError
	if !errors.As(err, &problem) {
		t.Errorf("got %v", err)
	}
}

// TestKickInterrupts has a thread block in a system call that only a signal
// ends, as KVM_RUN on a guest that never leaves does.
func TestKickInterrupts(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	blocked := make(chan error, 1)
	go func() {
		stop := kickUntil(ctx, func() {})
		defer stop()
		blocked <- pauseThread()
	}()
	cancel()
	if err := <-blocked; err == nil {
		t.Error("the system call was not interrupted")
	}
}
