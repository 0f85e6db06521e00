package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers/audit"
	"kata-runtime/virtcontainers/monitor"
)

// errBroken makes check --security exit with 1.
var errBroken = errors.New("the pod is not what is promised of it: see what is broken")

// checkSecurity tells what the processes of a pod are on the host, whichever front
// end's the pod is.
func checkSecurity(c *cli.Context, id string, asJSON bool) error {
	stores, err := openStores(c)
	if err != nil {
		return err
	}
	pod, err := findMonitored(stores, id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(c.Context, monitor.MeasureTimeout, errors.New("the pod's owner does not answer"))
	defer cancel()
	processes, err := monitor.Processes(ctx, pod.entry)
	if err != nil {
		return err
	}
	if len(processes) == 0 || processes[0].PID != pod.state.SupervisorPID || processes[0].Start != pod.state.SupervisorStartTime {
		return fmt.Errorf("check pod %s: who answers is not its owner, process %d", pod.entry.ID(), pod.state.SupervisorPID)
	}
	members := make([]audit.Member, len(processes))
	for i, p := range processes {
		members[i] = audit.Member(p)
	}
	report, err := audit.Pod(c.Context, members)
	if err != nil {
		return fmt.Errorf("check pod %s: %w", pod.entry.ID(), err)
	}
	if asJSON {
		err = printJSON(c.App.Writer, report)
	} else {
		err = report.Print(c.App.Writer)
	}
	if err == nil && !report.Kept {
		err = errBroken
	}
	return err
}
