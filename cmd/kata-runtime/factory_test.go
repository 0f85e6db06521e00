package main

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory/pool"
)

// TestInitTellsOfProcessesThatWereKilled: nobody else counts them.
func TestInitTellsOfProcessesThatWereKilled(t *testing.T) {
	machines, fit := pool.Open(t.TempDir()), pool.Fit{Kind: pool.Supervisor}
	if err := machines.Prepared(t.Context(), pool.Supervisor); err != nil { // an earlier one
		t.Fatal(err)
	}
	before, err := machines.Counters()
	if err != nil {
		t.Fatal(err)
	}
	started, err := machines.Fill(t.Context(), fit, pool.Request{Config: config.Default()}, 2, func(_, _ string, _ *os.File) (int, error) {
		cmd := exec.CommandContext(t.Context(), "cat")
		stdin, err := cmd.StdinPipe()
		err = errors.Join(err, cmd.Start())
		t.Cleanup(func() { stdin.Close() })
		if err == nil {
			err = cmd.Process.Kill()
		}
		return cmd.Process.Pid, err
	})
	if err != nil {
		t.Fatal(err)
	}
	await := func() error { return awaitMachines(t.Context(), machines, fit, before[fit.Kind], started) }
	if err := await(); err == nil {
		t.Error("two are said to be ready")
	}
	for range started {
		if err := machines.Prepared(t.Context(), pool.Supervisor); err != nil {
			t.Fatal(err)
		}
	}
	if err := await(); err != nil { // pods have taken them meanwhile
		t.Error(err)
	}
	if err := machines.Failed(t.Context(), pool.Supervisor, errors.New("no kernel")); err != nil {
		t.Fatal(err)
	}
	if err := await(); err == nil || err.Error() != "prepare a machine: no kernel" {
		t.Error(err)
	}
}
