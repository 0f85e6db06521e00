package jailtest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/jail/jailtest/attempt"
	"kata-runtime/hypervisor/virtio/backend"
)

// Role is the role of a back end's process in which BackEnd does what Build's program
// does: a back end has no program of its own that another one could stand in for.
const Role = "probe"

// order is what such a process is told.
type order struct {
	Targets Targets
	// Attempt is the only one to be made, a hostile one; empty: all others.
	Attempt string
}

// BackEnd implements backend.Role. It reports by its error.
func BackEnd(_ context.Context, in *backend.Inherited) error {
	var o order
	if err := json.Unmarshal(in.Settings, &o); err != nil {
		return err
	}
	if o.Attempt != "" {
		return fmt.Errorf("probe(%s)", attempt.Try(&o.Targets, o.Attempt))
	}
	data, err := json.Marshal(attempt.Make(&o.Targets))
	if err != nil {
		return err
	}
	return fmt.Errorf("probe[%s]", base64.StdEncoding.EncodeToString(data))
}

// ProbeBackEnd puts BackEnd in the place of a device's process: start starts one as that
// is started, but in Role and with settings. The hostile attempts are made by a process
// each, since none of them may start another one.
func ProbeBackEnd(t testing.TB, targets Targets, start func(settings any) (*child.Helper, error)) Report {
	t.Helper()
	run := func(o order) *hypervisor.ExitError {
		helper, err := start(o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = helper.Stop() }()
		var exit *hypervisor.ExitError
		if err := helper.Wait(t.Context()); !errors.As(err, &exit) {
			t.Fatalf("the probe ended otherwise than with a report: %v: %s", err, helper.Stderr())
		}
		return exit
	}
	r := Decode(t, run(order{Targets: targets}).Stderr)
	for name := range attempt.Hostile(&targets) {
		exit := run(order{Targets: targets, Attempt: name})
		outcome := attempt.Outcome(exit.Error())
		for _, said := range []attempt.Outcome{attempt.Reached, attempt.Refused} {
			if strings.Contains(exit.Stderr, fmt.Sprintf("probe(%s)", said)) {
				outcome = said
			}
		}
		if strings.Contains(exit.Status, "bad system call") {
			outcome = attempt.Killed
		}
		r.Note(name, outcome)
	}
	r.Done()
	return r
}
