package monitor

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/store"
)

// maxProcesses is how many processes go into a message, which has room for more.
const maxProcesses = 256

// processes tells which processes of the host are the pod's, this one first.
func (s *Server) processes(conn *channel.Conn) error {
	found := []Process{{Role: s.owner.Role, PID: os.Getpid()}}
	if info := s.sandbox.Machine(); info.PID > 0 && info.State != hypervisor.StateEnded {
		found = append(found, Process{Role: "vmm", PID: info.PID})
	}
	helpers := s.sandbox.Helpers()
	for _, name := range slices.Sorted(maps.Keys(helpers)) {
		found = append(found, Process{Role: name, PID: helpers[name]})
	}
	if s.owner.StandIns != nil {
		standIns := s.owner.StandIns()
		for _, pid := range slices.Sorted(maps.Keys(standIns)) {
			found = append(found, Process{Role: standIns[pid], PID: pid})
		}
	}
	found = slices.DeleteFunc(found, func(p Process) bool { return p.PID <= 0 })
	var alive []Process
	for _, p := range found {
		start, err := store.StartTime(p.PID)
		if err != nil {
			continue // it has ended
		}
		p.Start = start
		alive = append(alive, p)
	}
	for {
		n := min(len(alive), maxProcesses)
		if err := conn.Send(answer{Processes: alive[:n], More: n < len(alive)}); err != nil {
			return err
		}
		if alive = alive[n:]; len(alive) == 0 {
			return nil
		}
	}
}

// Processes asks the owner of a pod which processes of the host are the pod's. The
// owner is the first.
func Processes(ctx context.Context, entry *store.Entry) ([]Process, error) {
	conn, hangUp, err := connect(ctx, entry)
	if err != nil {
		return nil, err
	}
	defer hangUp()
	fail := func(err error) error {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("ask for the processes of pod %s: %w", entry.ID(), err)
	}
	if err := conn.Send(request{Processes: true}); err != nil {
		return nil, fail(err)
	}
	var found []Process
	for range maxAnswers {
		a, err := receive(conn)
		if err != nil {
			return nil, fail(err)
		}
		found = append(found, a.Processes...)
		if !a.More {
			return found, nil
		}
	}
	return nil, fail(errEndless)
}
