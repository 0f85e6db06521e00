package audit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func self(t *testing.T) (pid int, start uint64) {
	t.Helper()
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, start, err = parseStat(string(stat))
	if err != nil {
		t.Fatal(err)
	}
	return os.Getpid(), start
}

func readSelf(t *testing.T) (*Process, error) {
	t.Helper()
	pid, start := self(t)
	return Read(t.Context(), pid, start)
}

// What is read of this process is what it knows of itself.
func TestReadSelf(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	memory, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(memory)
	p, err := readSelf(t)
	if err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &limit); err != nil {
		t.Fatal(err)
	}
	if got := p.Limits["Max processes"]; got.Hard != limit.Max || got.Soft != limit.Cur {
		t.Errorf("limit of processes %+v, want %+v", got, limit)
	}
	var header unix.CapUserHeader
	header.Version = unix.LINUX_CAPABILITY_VERSION_3
	var has [2]unix.CapUserData
	if err := unix.Capget(&header, &has[0]); err != nil {
		t.Fatal(err)
	}
	if want := Capabilities(has[0].Effective) | Capabilities(has[1].Effective)<<32; p.Capabilities.Effective != want {
		t.Errorf("effective capabilities %v, want %v", p.Capabilities.Effective, want)
	}
	if !slices.Equal(p.Users, []int{os.Getuid()}) || !slices.Equal(p.Groups, []int{os.Getgid()}) || p.Threads < 1 {
		t.Errorf("users %v, groups %v, %d threads", p.Users, p.Groups, p.Threads)
	}
	if !p.Root.Host || p.Files["pipe"] < 2 || p.Files["unix socket"] < 2 || p.Files["memory"] != 1 {
		t.Errorf("root %+v, files %v", p.Root, p.Files)
	}
	if program, err := os.Executable(); err != nil || p.Program != program {
		t.Errorf("program %q, want %q, %v", p.Program, program, err)
	}
}

// A process that has ended, or whose id is another's by now, is none.
func TestReadOfAnother(t *testing.T) {
	pid, start := self(t)
	if _, err := Read(t.Context(), pid, start+1); !errors.Is(err, errEnded) {
		t.Errorf("of a later process: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), "/bin/true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), cmd.Process.Pid, start); !errors.Is(err, errEnded) {
		t.Errorf("of none: %v", err)
	}
}

// Whatever a process has started is a member of its family, and what nobody knows
// breaks the promise.
func TestPodFindsChildren(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "/bin/sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	pid, start := self(t)
	report, err := Pod(t.Context(), []Member{{RoleSupervisor, pid, start}})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(report.Processes, func(r *Row) bool { return r.PID == cmd.Process.Pid })
	if i < 0 || report.Kept || report.Processes[i].Role != "child of supervisor" || !strings.Contains(report.Processes[i].Broken[0], "nothing is promised") {
		t.Fatalf("%+v", report)
	}
	var out bytes.Buffer
	if err := report.Print(&out); err != nil || !strings.Contains(out.String(), "BROKEN: nothing is promised of such a process: find out what") {
		t.Errorf("%v: %s", err, &out)
	}
}

// goodVMM is a VMM that keeps every promise.
func goodVMM() *Process {
	p := &Process{
		Role: RoleVMM, Users: []int{2_000_000_001}, Groups: []int{2_000_000_001}, NoNewPrivs: true, Seccomp: "filter", Filters: 2,
		Namespaces: map[string]Namespace{"user": {Whose: "host"}, "time": {Whose: "host"}},
		Root: Root{Devices: []string{"kvm"}, Mounts: []Mount{
			{Place: "/", Options: []string{"ro", "nosuid"}}, {Place: "/lib", Options: []string{"ro", "nosuid", "nodev"}},
		}},
		Files:  map[string]int{"unix socket": 3, "device /dev/net/tun": 1},
		Limits: map[string]Limit{"Max core file size": {1, 1}, "Max open files": {20000, 20000}, "Max processes": {2048, 2048}},
	}
	for _, name := range everyNamespace() {
		p.Namespaces[name] = Namespace{Whose: "own"}
	}
	return p
}

// Each promise that is broken is found, and named.
func TestBroken(t *testing.T) {
	if found := broken(goodVMM(), nil, 1); len(found) != 0 {
		t.Fatalf("of a good one: %q", found)
	}
	for want, change := range map[string]func(*Process){
		"a process that is not of this pod has its user": func(*Process) {},
		"it is root":           func(p *Process) { p.Users = []int{0} },
		"of root's group":      func(p *Process) { p.Groups = []int{0} },
		"more than one user":   func(p *Process) { p.Users = []int{5, 6} },
		"supplementary groups": func(p *Process) { p.Supplementary = []int{7} },
		"its permitted set":    func(p *Process) { p.Capabilities.Permitted = 1 },
		"its bounding set has": func(p *Process) { p.Capabilities.Bounding = 1 << 21 },
		"more capabilities than it may have: SYS_ADMIN": func(p *Process) { p.Capabilities.Inheritable = 1 << 21 },
		"its ambient set": func(p *Process) { p.Capabilities.Ambient = 2 },
		"no_new_privs":    func(p *Process) { p.NoNewPrivs = false },
		"no filter for its system calls but that of":     func(p *Process) { p.Filters = 1 },
		"system calls are not filtered":                  func(p *Process) { p.Seccomp = "none" },
		"in the host's net namespace":                    func(p *Process) { p.Namespaces["net"] = Namespace{Whose: "host"} },
		"its pid namespace is also that of: virtiofsd":   func(p *Process) { p.Namespaces["pid"] = Namespace{Whose: "virtiofsd"} },
		"it sees the host's root file system":            func(p *Process) { p.Root.Host = true },
		"it can write at /lib":                           func(p *Process) { p.Root.Mounts[1].Options = []string{"rw", "nosuid", "nodev"} },
		"set-user-id programs at /":                      func(p *Process) { p.Root.Mounts[0].Options = []string{"ro"} },
		"devices can be opened at /lib":                  func(p *Process) { p.Root.Mounts[1].Options = []string{"ro", "nosuid"} },
		"it sees the device mem":                         func(p *Process) { p.Root.Devices = []string{"mem"} },
		"it has no use for: directory":                   func(p *Process) { p.Files["directory"] = 1 },
		"it has no use for: vsock socket":                func(p *Process) { p.Files["vsock socket"] = 1 },
		"max open files is unlimited, not 65536 or less": func(p *Process) { p.Limits["Max open files"] = Limit{1, ^uint64(0)} },
		"others of its user can look into its memory": func(p *Process) {
			p.Role, p.Dumpable, p.Root.Devices = "vsock", "yes", nil
			p.Files, p.Root.Mounts = nil, nil
			p.Limits["Max open files"] = Limit{4096, 4096}
		},
		"max core file size is 0": func(p *Process) { delete(p.Limits, "Max core file size"); delete(p.Limits, "Max processes") },
	} {
		p := goodVMM()
		change(p)
		strangers := map[int]bool{}
		if strings.HasPrefix(want, "a process that is not") {
			strangers[2_000_000_001] = true
		}
		if found := broken(p, strangers, 1); !strings.Contains(strings.Join(found, "\n"), want) || len(found) > 2 {
			t.Errorf("want %q, found %q", want, found)
		}
	}
}

// What the supervisor gave up it does not have, in any set; the rest it may have.
func TestBrokenSupervisor(t *testing.T) {
	sysModule, sysAdmin := Capabilities(1<<unix.CAP_SYS_MODULE), Capabilities(1<<unix.CAP_SYS_ADMIN)
	good := func() *Process {
		return &Process{
			Role: RoleSupervisor, Users: []int{0}, Groups: []int{0}, Supplementary: []int{5}, NoNewPrivs: true, Seccomp: "filter", Filters: 1,
			Capabilities: Sets{Permitted: sysAdmin, Effective: sysAdmin, Bounding: sysAdmin | 1<<50},
			Namespaces:   map[string]Namespace{"mnt": {Whose: "own"}, "user": {Whose: "host"}},
			Root:         Root{Host: true}, Files: map[string]int{"inet socket": 1},
		}
	}
	if found := broken(good(), nil, 1); len(found) != 0 {
		t.Fatalf("of a good one: %q", found)
	}
	for want, change := range map[string]func(*Process){
		"its permitted set has more capabilities than it may have: SYS_MODULE":   func(p *Process) { p.Capabilities.Permitted |= sysModule },
		"its effective set has more capabilities than it may have: BPF":          func(p *Process) { p.Capabilities.Effective |= 1 << unix.CAP_BPF },
		"its inheritable set has more capabilities than it may have: SYS_MODULE": func(p *Process) { p.Capabilities.Inheritable = sysModule },
		"its bounding set has more capabilities than it may have: SYS_MODULE":    func(p *Process) { p.Capabilities.Bounding |= sysModule },
		"its ambient set has more capabilities than it may have: SYS_MODULE":     func(p *Process) { p.Capabilities.Ambient = sysModule },
		"a program can give it new privileges (no_new_privs is not set)":         func(p *Process) { p.NoNewPrivs = false },
		"its system calls are not filtered":                                      func(p *Process) { p.Seccomp = "none" },
		"it is in the host's mnt namespace":                                      func(p *Process) { p.Namespaces["mnt"] = Namespace{Whose: "host"} },
	} {
		p := good()
		change(p)
		if found := broken(p, nil, 1); !slices.Equal(found, []string{want}) {
			t.Errorf("want %q, found %q", want, found)
		}
	}
}

// A file system that does not answer keeps nobody, and breaks those promises that it
// would have to prove.
func TestSilentFileSystem(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	release := make(chan struct{})
	var asking sync.WaitGroup
	_, err := ask(ctx, &asking, func() (int, error) {
		<-release
		return 1, nil
	})
	if !errors.Is(err, errSilent) {
		t.Errorf("got %v", err)
	}
	close(release)
	asking.Wait()
	if value, err := ask(t.Context(), &asking, func() (int, error) { return 1, errEnded }); value != 1 || !errors.Is(err, errEnded) {
		t.Errorf("of one that answers: %d, %v", value, err)
	}

	p := goodVMM()
	p.Files, p.Root.Devices = nil, nil
	if err := errors.Join(p.unlessSilent(partFiles, errSilent), p.unlessSilent(partRoot, errSilent)); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"nothing is known of its open files: a file system does not answer",
		"nothing is known of its root file system: a file system does not answer",
	}
	if found := broken(p, nil, 1); !slices.Equal(found, want) {
		t.Errorf("found %q", found)
	}
	// Of a stand-in neither is promised: its root is its container's.
	if found := broken(&Process{
		Role: RoleStandIn, Users: []int{0}, Namespaces: map[string]Namespace{"mnt": {Whose: "own"}}, Silent: p.Silent,
	}, nil, 1); len(found) > 0 {
		t.Errorf("found %q", found)
	}
	var out bytes.Buffer
	report := Report{Processes: []*Row{{Process: p}}}
	if err := report.Print(&out); err != nil || strings.Count(out.String(), errSilent.Error()) != 2 {
		t.Errorf("%v: %s", err, &out)
	}
}

// The worst thread counts.
func TestAddThread(t *testing.T) {
	p := &Process{NoNewPrivs: true, Filters: -1}
	for _, status := range []string{
		"Uid:\t5\t5\t5\t5\nCapEff:\t0000000000000001\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t2\n",
		"Uid:\t5\t6\t5\t5\nCapEff:\t0000000000000002\nNoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n",
		"Uid:\t5\t5\t5\t5\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t0\nSeccomp_filters:\t3\n",
	} {
		if err := p.addThread(status); err != nil {
			t.Fatal(err)
		}
	}
	if p.NoNewPrivs || p.Seccomp != "none" || p.Filters != 1 || p.Capabilities.Effective != 3 || !slices.Contains(p.Users, 6) {
		t.Errorf("%+v", p)
	}
	if err := p.addThread("CapEff:\tzz\n"); err == nil {
		t.Error("of no number: no error")
	}
}

// FuzzParse reads what is in files of /proc, of which a process chooses names.
func FuzzParse(f *testing.F) {
	f.Add("1 (a) b) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 99 0 0\n")
	f.Add("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n")
	f.Add("Max core file size        0                    unlimited            bytes     \n")
	f.Add("Uid:\t0\t0\t0\t0\nCapEff:\tffff\nSeccomp:\t2\nSeccomp_filters:\t-1\n")
	f.Fuzz(func(t *testing.T, text string) {
		_, _, _ = parseStat(text)
		for _, m := range parseMounts(text) {
			if m.Place == "" || m.Type == "" {
				t.Errorf("%+v", m)
			}
		}
		parseLimits(text)
		_ = (&Process{Filters: -1}).addThread(text)
		for _, r := range printable(text) {
			if r < ' ' || r > '~' {
				t.Errorf("printable has %q", r)
			}
		}
	})
}

func TestCapabilities(t *testing.T) {
	set, err := capabilitySet("CHOWN", "SYS_ADMIN", "50")
	if err != nil || set != 1|1<<21|1<<50 {
		t.Fatalf("%x, %v", uint64(set), err)
	}
	text, err := set.MarshalText()
	var back Capabilities
	if err != nil || string(text) != "CHOWN SYS_ADMIN 50" || back.UnmarshalText(text) != nil || back != set {
		t.Errorf("%s, %v, %x", text, err, uint64(back))
	}
	if got := (Capabilities(1)<<41 - 1 - 1<<24).String(); got != "all but SYS_RESOURCE" {
		t.Error(got)
	}
	if _, err := capabilitySet("NOTHING"); err == nil {
		t.Error("of an unknown name: no error")
	}
}
