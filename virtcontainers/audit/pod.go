package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Roles that every pod has, whatever its configuration.
const (
	RoleSupervisor = "supervisor"
	RoleShim       = "shim"
	RoleVMM        = "vmm"
	RoleStandIn    = "stand-in"
	RoleHolder     = "namespace holder"
)

// childOf begins the role of a process that a helper of the pod has started.
const childOf = "child of "

// Member is a process that is known to be a pod's.
type Member struct {
	Role  string
	PID   int
	Start uint64
}

// Report is what an audit finds.
type Report struct {
	// Kept tells that every process is what is promised.
	Kept      bool   `json:"kept"`
	Processes []*Row `json:"processes"`
}

// Row is a process with what is wrong with it.
type Row struct {
	*Process
	// Broken are the promises that it does not keep.
	Broken []string `json:"broken"`
}

// Pod reads what the processes of a pod are: those given, and all that they have
// started. One that has ended meanwhile is left out, but for the first, which is the
// pod's owner.
func Pod(ctx context.Context, members []Member) (*Report, error) {
	all, err := everyProcess()
	if err != nil {
		return nil, err
	}
	report := &Report{Kept: true}
	found := family(members, all)
	read := make([]func() (*Process, error), len(found))
	for i, m := range found {
		// All at once: those whose file system does not answer take their time together.
		read[i] = later(func() (*Process, error) { return Read(ctx, m.PID, m.Start) })
	}
	for i, m := range found {
		p, err := read[i]()
		if errors.Is(err, errEnded) && i > 0 {
			continue
		}
		if err != nil {
			return nil, err
		}
		p.Role = m.Role
		report.Processes = append(report.Processes, &Row{Process: p, Broken: []string{}})
	}
	if err := report.compareNamespaces(); err != nil {
		return nil, err
	}
	strangers := usersOfOthers(report, all)
	for _, row := range report.Processes {
		row.Broken = append(row.Broken, broken(row.Process, strangers, report.Processes[0].Filters)...)
		report.Kept = report.Kept && len(row.Broken) == 0
	}
	return report, nil
}

// later begins f, and returns what waits for its end.
func later[T any](f func() (T, error)) func() (T, error) {
	done := make(chan struct{})
	var value T
	var err error
	go func() {
		defer close(done)
		value, err = f()
	}()
	return func() (T, error) {
		<-done
		return value, err
	}
}

// process is what is known of each process of the host.
type process struct {
	parent int
	start  uint64
	users  []int
}

// everyProcess lists the processes of the host.
func everyProcess() (map[int]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	all := make(map[int]process)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		p := process{}
		if p.parent, p.start, err = parseStat(string(stat)); err != nil {
			return nil, fmt.Errorf("list processes: %d: %w", pid, err)
		}
		status, err := os.ReadFile("/proc/" + entry.Name() + "/status")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
				if err := addNumbers(&p.users, ids); err != nil {
					return nil, fmt.Errorf("list processes: %d: %w", pid, err)
				}
			}
		}
		all[pid] = p
	}
	return all, nil
}

// family adds to the members of a pod those that they have started.
func family(members []Member, all map[int]process) []Member {
	known := make(map[int]bool)
	var found []Member
	for _, m := range members {
		if !known[m.PID] {
			known[m.PID] = true
			found = append(found, m)
		}
	}
	pids := slices.Sorted(maps.Keys(all))
	for i := 0; i < len(found); i++ {
		parent := found[i]
		for _, pid := range pids {
			if p := all[pid]; p.parent == parent.PID && !known[pid] {
				known[pid] = true
				found = append(found, Member{Role: childOf + strings.TrimPrefix(parent.Role, childOf), PID: pid, Start: p.start})
			}
		}
	}
	return found
}

// usersOfOthers are the users of processes that are not the pod's.
func usersOfOthers(report *Report, all map[int]process) map[int]bool {
	ours := make(map[int]bool)
	for _, row := range report.Processes {
		ours[row.PID] = true
	}
	users := make(map[int]bool)
	for pid, p := range all {
		if !ours[pid] {
			for _, id := range p.users {
				users[id] = true
			}
		}
	}
	return users
}

// compareNamespaces finds out whose the namespaces are. The host's are those of the
// first process, and of this one: a command is run on the host.
func (r *Report) compareNamespaces() error {
	for _, name := range namespaceNames() {
		host := make(map[uint64]bool)
		for _, dir := range []string{"/proc/1/ns/", "/proc/self/ns/"} {
			id, err := namespaceID(dir + name)
			switch {
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EACCES):
			case err != nil:
				return fmt.Errorf("find the host's namespaces: %w", err)
			default:
				host[id] = true
			}
		}
		for i, row := range r.Processes {
			namespace, ok := row.Namespaces[name]
			if !ok {
				continue
			}
			namespace.Whose = "own"
			if host[namespace.ID] {
				namespace.Whose = "host"
			} else if sharers := r.sharers(name, i); len(sharers) > 0 {
				namespace.Whose = strings.Join(sharers, ", ")
			}
			row.Namespaces[name] = namespace
		}
	}
	return nil
}

// sharers are the roles of the other processes in the same namespace.
func (r *Report) sharers(name string, of int) []string {
	var roles []string
	for i, row := range r.Processes {
		if i != of && row.Namespaces[name].ID == r.Processes[of].Namespaces[name].ID && !slices.Contains(roles, row.Role) {
			roles = append(roles, row.Role)
		}
	}
	return roles
}
