package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Process is what a process is on the host. Credentials are a thread's: where those
// of its threads differ, it has the worst of them.
type Process struct {
	// Role is what the process does for its pod: vmm, virtiofsd, stand-in ...
	Role string `json:"role"`
	PID  int    `json:"pid"`
	// Start is when it started, in clock ticks since the host's boot.
	Start   uint64 `json:"start"`
	Program string `json:"program"`
	Threads int    `json:"threads"`

	// Users and Groups are the different ids that its threads have: real,
	// effective, saved and of the file system.
	Users         []int `json:"users"`
	Groups        []int `json:"groups"`
	Supplementary []int `json:"supplementaryGroups"`
	// Capabilities are the sets by their names.
	Capabilities Sets `json:"capabilities"`
	NoNewPrivs   bool `json:"noNewPrivs"`
	// Seccomp is none, strict or filter; Filters is how many there are, where the
	// kernel tells.
	Seccomp string `json:"seccomp"`
	Filters int    `json:"filters"`

	// Namespaces are by the names in /proc/PID/ns.
	Namespaces map[string]Namespace `json:"namespaces"`
	Root       Root                 `json:"root"`
	// Files counts its open files by their kinds.
	Files map[string]int `json:"files"`
	// Limits are soft and hard ones by their names in /proc/PID/limits.
	Limits map[string]Limit `json:"limits"`
	// Cgroups are its control groups, by hierarchy; "" is that of version 2.
	Cgroups map[string]string `json:"cgroups"`
	// Dumpable tells whether others of its user can look into its memory: yes, no,
	// or unknown for a root.
	Dumpable string `json:"dumpable"`
	// Keys is how many keys and keyrings the kernel has for its user.
	Keys int `json:"keys"`
	// Silent are the parts of this of which nothing is known, since a file system does
	// not answer.
	Silent []string `json:"silent,omitempty"`
}

// Sets are the capabilities of a process.
type Sets struct {
	Inheritable Capabilities `json:"inheritable"`
	Permitted   Capabilities `json:"permitted"`
	Effective   Capabilities `json:"effective"`
	Bounding    Capabilities `json:"bounding"`
	Ambient     Capabilities `json:"ambient"`
}

// Namespace is one that a process is in.
type Namespace struct {
	ID uint64 `json:"id"`
	// Whose is host, own, or the roles that share it.
	Whose string `json:"whose"`
}

// Limit is a limit of resources. Unlimited is the largest number.
type Limit struct {
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// errEnded says that a process is not there any more.
var errEnded = errors.New("the process has ended")

// Read reads what a process is. start is when it started, see Process. What a file
// system does not answer in time is in Silent.
func Read(ctx context.Context, pid int, start uint64) (*Process, error) {
	p, err := read(ctx, pid, start)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist) {
		err = errEnded
	}
	if err != nil {
		return nil, fmt.Errorf("read what process %d is: %w", pid, err)
	}
	return p, nil
}

func read(ctx context.Context, pid int, start uint64) (*Process, error) {
	// Of this process and no later one, whatever its id.
	dir, err := os.OpenFile("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	proc := "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/"
	var asking sync.WaitGroup
	defer func() { go func() { asking.Wait(); _ = dir.Close() }() }()
	stat, err := os.ReadFile(proc + "stat")
	if err != nil {
		return nil, err
	}
	_, started, err := parseStat(string(stat))
	if err == nil && started != start {
		err = errEnded
	}
	if err != nil {
		return nil, err
	}
	p := &Process{PID: pid, Start: start}
	p.Program, _ = os.Readlink(proc + "exe") // a zombie has none
	for _, step := range []func(proc string) error{
		p.readThreads, p.readNamespaces, p.readRoot, p.readLimits, p.readCgroups, p.readUser,
	} {
		if err := step(proc); err != nil {
			return nil, err
		}
	}
	p.Files, err = ask(ctx, &asking, func() (map[string]int, error) { return countFiles(proc, pid) })
	if err = p.unlessSilent(partFiles, err); err == nil && !p.Root.Host {
		var in content
		in, err = ask(ctx, &asking, func() (content, error) { return listRoot(proc) })
		p.Root.Entries, p.Root.Devices = in.entries, in.devices
		err = p.unlessSilent(partRoot, err)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Parts of what a process is for which file systems are asked.
const (
	partFiles = "open files"
	partRoot  = "root file system"
)

// patience is how long a file system may take to answer.
const patience = 5 * time.Second

// errSilent says that a file system does not answer.
var errSilent = errors.New("a file system does not answer")

// ask returns what f finds out from file systems, one of which may be that of a server
// that is gone: then f goes on waiting by itself, and asking with it.
func ask[T any](ctx context.Context, asking *sync.WaitGroup, f func() (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	type answer struct {
		value T
		err   error
	}
	answered := make(chan answer, 1)
	asking.Go(func() {
		value, err := f()
		answered <- answer{value, err}
	})
	select {
	case a := <-answered:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, errSilent
	}
}

// unlessSilent notes that a file system does not answer for a part; it returns other
// errors.
func (p *Process) unlessSilent(part string, err error) error {
	if errors.Is(err, errSilent) {
		p.Silent = append(p.Silent, part)
		return nil
	}
	return err
}

// parseStat reads fields 4 and 22 of /proc/PID/stat. Field 2, the name in
// parentheses, may hold anything.
func parseStat(text string) (parent int, start uint64, err error) {
	end := strings.LastIndexByte(text, ')')
	fields := strings.Fields(text[end+1:])
	const parentIndex, startIndex = 1, 19
	if end < 0 || len(fields) <= startIndex {
		return 0, 0, fmt.Errorf("malformed process status %q", text)
	}
	parent, err = strconv.Atoi(fields[parentIndex])
	if err == nil {
		start, err = strconv.ParseUint(fields[startIndex], 10, 64)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("malformed process status: %w", err)
	}
	return parent, start, nil
}

// readThreads reads the credentials of each thread.
func (p *Process) readThreads(proc string) error {
	threads, err := os.ReadDir(proc + "task")
	if err != nil {
		return err
	}
	p.NoNewPrivs, p.Seccomp, p.Filters = true, "", -1
	for _, thread := range threads {
		status, err := os.ReadFile(proc + "task/" + thread.Name() + "/status")
		if err != nil {
			continue // it has ended
		}
		if err := p.addThread(string(status)); err != nil {
			return fmt.Errorf("thread %s: %w", thread.Name(), err)
		}
		p.Threads++
	}
	if p.Threads == 0 {
		return errEnded
	}
	for _, ids := range []*[]int{&p.Users, &p.Groups, &p.Supplementary} {
		slices.Sort(*ids)
		*ids = slices.Compact(*ids)
		if *ids == nil {
			*ids = []int{} // an empty list, not null
		}
	}
	return nil
}

// addThread takes the worst of what there was and a thread's status.
func (p *Process) addThread(status string) error {
	filters, confined := 0, false
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		var err error
		switch key {
		case "Uid":
			err = addNumbers(&p.Users, value)
		case "Gid":
			err = addNumbers(&p.Groups, value)
		case "Groups":
			err = addNumbers(&p.Supplementary, value)
		case "CapInh":
			err = p.Capabilities.Inheritable.add(value)
		case "CapPrm":
			err = p.Capabilities.Permitted.add(value)
		case "CapEff":
			err = p.Capabilities.Effective.add(value)
		case "CapBnd":
			err = p.Capabilities.Bounding.add(value)
		case "CapAmb":
			err = p.Capabilities.Ambient.add(value)
		case "NoNewPrivs":
			p.NoNewPrivs, confined = p.NoNewPrivs && value == "1", true
		case "Seccomp":
			p.Seccomp = weaker(p.Seccomp, value)
		case "Seccomp_filters":
			filters, err = strconv.Atoi(value)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	p.NoNewPrivs = p.NoNewPrivs && confined
	if p.Filters < 0 || filters < p.Filters {
		p.Filters = filters
	}
	return nil
}

// weaker is the weaker of a mode of seccomp(2) and one by its number.
func weaker(mode, number string) string {
	other := map[string]string{"1": "strict", "2": "filter"}[number]
	switch {
	case other == "", mode == "none":
		return "none"
	case mode == "filter":
		return mode
	}
	return other
}

func addNumbers(to *[]int, text string) error {
	for field := range strings.FieldsSeq(text) {
		number, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		*to = append(*to, number)
	}
	return nil
}

func (c *Capabilities) add(text string) error {
	set, err := strconv.ParseUint(text, 16, 64)
	*c |= Capabilities(set)
	return err
}

// namespaceNames are those of /proc/PID/ns of one process; the others there are
// what its children would get.
func namespaceNames() []string {
	return []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}
}

func (p *Process) readNamespaces(proc string) error {
	p.Namespaces = make(map[string]Namespace)
	for _, name := range namespaceNames() {
		id, err := namespaceID(proc + "ns/" + name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && p.exists(proc):
			continue // the kernel has none of this kind
		case err != nil:
			return err
		}
		p.Namespaces[name] = Namespace{ID: id}
	}
	return nil
}

func (*Process) exists(proc string) bool {
	_, err := os.Lstat(proc + "stat")
	return err == nil
}

// namespaceID is the number of the namespace that a file of /proc/PID/ns stands for.
func namespaceID(path string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, err
	}
	return stat.Ino, nil
}

func (p *Process) readLimits(proc string) error {
	data, err := os.ReadFile(proc + "limits")
	if err != nil {
		return err
	}
	p.Limits = parseLimits(string(data))
	return nil
}

// parseLimits reads a table whose first column has blanks in it. The heading is no
// limit.
func parseLimits(text string) map[string]Limit {
	const width = len("Max realtime priority     ") // of the first column
	limits := make(map[string]Limit)
	for line := range strings.Lines(text) {
		if len(line) < width {
			continue
		}
		fields := strings.Fields(line[width:])
		if len(fields) < 2 {
			continue
		}
		soft, softErr := parseLimit(fields[0])
		hard, hardErr := parseLimit(fields[1])
		if softErr == nil && hardErr == nil {
			limits[strings.TrimSpace(line[:width])] = Limit{Soft: soft, Hard: hard}
		}
	}
	return limits
}

func parseLimit(text string) (uint64, error) {
	if text == "unlimited" {
		return ^uint64(0), nil
	}
	return strconv.ParseUint(text, 10, 64)
}

func (p *Process) readCgroups(proc string) error {
	data, err := os.ReadFile(proc + "cgroup")
	if err != nil {
		return err
	}
	p.Cgroups = make(map[string]string)
	for line := range strings.Lines(string(data)) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			p.Cgroups[parts[1]] = parts[2]
		}
	}
	return nil
}

// readUser reads what the kernel tells by the owner of the process's files, and
// what it has of the process's user.
func (p *Process) readUser(proc string) error {
	var stat unix.Stat_t
	if err := unix.Stat(proc+"stat", &stat); err != nil {
		return err
	}
	switch {
	case len(p.Users) == 1 && p.Users[0] == 0:
		p.Dumpable = "unknown"
	case stat.Uid == 0: // the kernel's way to say no
		p.Dumpable = "no"
	default:
		p.Dumpable = "yes"
	}
	keys, err := os.ReadFile("/proc/key-users")
	if errors.Is(err, fs.ErrNotExist) { // a kernel without keys
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(keys)) {
		fields := strings.Fields(line) // UID: usage instantiated/total ...
		if len(fields) < 3 || !slices.ContainsFunc(p.Users, func(id int) bool { return fields[0] == strconv.Itoa(id)+":" }) {
			continue
		}
		_, total, _ := strings.Cut(fields[2], "/")
		if number, err := strconv.Atoi(total); err == nil {
			p.Keys += number
		}
	}
	return nil
}
