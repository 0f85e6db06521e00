package osthread_test

import (
	"errors"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/osthread"
)

func TestRunKeepsOffTheFirstThread(t *testing.T) {
	want := errors.New("of f")
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			err := osthread.Run(func() error {
				if unix.Gettid() == unix.Getpid() {
					return errors.New("on the first thread")
				}
				return want
			})
			if !errors.Is(err, want) {
				t.Error(err)
			}
		})
	}
	all.Wait()
}
