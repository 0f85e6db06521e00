package container

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

func ptr[T any](value T) *T { return &value }

func TestMergeResources(t *testing.T) {
	old := &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(200))},
		Devices: []specs.LinuxDeviceCgroup{{Allow: true}},
		Unified: map[string]string{"a": "1"},
	}
	got, err := mergeResources(old, []byte(`{"memory":{"limit":50},"pids":{"limit":7},"unified":{"b":"2"}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(50)), Swap: ptr(int64(200))},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(7))},
		Unified: map[string]string{"a": "1", "b": "2"},
	}
	if !reflect.DeepEqual(got, want) {
		text, _ := json.Marshal(got)
		t.Errorf("merged %s", text)
	}
	if *old.Memory.Limit != 100 || len(old.Unified) != 1 {
		t.Error("the old resources were changed")
	}
	if got, err := mergeResources(nil, []byte(`{}`)); err != nil || got == nil {
		t.Errorf("nothing merged with nothing: %v, %v", got, err)
	}
	if _, err := mergeResources(nil, []byte(`{"memory":7}`)); err == nil {
		t.Error("nonsense was accepted")
	}
}

func TestFitCpuset(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, test := range []struct{ online, cpus, mems, wantCPUs, wantMems string }{
		{"0-3", "1,3", "0", "1,3", "0"},
		{"0-3", "0-4", "", "", ""},
		{"0", "0", "0-1", "0", ""},
		{"", "5", "", "5", ""},
		{"0-1", "", "1", "", ""},
	} {
		r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: test.cpus, Mems: test.mems}}
		fitCpuset(log, r, test.online)
		if r.CPU.Cpus != test.wantCPUs || r.CPU.Mems != test.wantMems {
			t.Errorf("%+v gives cpus %q mems %q", test, r.CPU.Cpus, r.CPU.Mems)
		}
	}
	fitCpuset(log, nil, "0")
	fitCpuset(log, &specs.LinuxResources{}, "0")
}

func TestParseList(t *testing.T) {
	for list, want := range map[string][]int{
		"0": {0}, "0-2,5": {0, 1, 2, 5}, "": nil, "x,1": {1}, "3-1": nil, "0-99999999999": nil, "-1": nil,
	} {
		var got []int
		for n := range parseList(list) {
			got = append(got, n)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("parseList(%q) = %v, want %v", list, got, want)
		}
	}
}

// Words that a bind cannot have go, and those that libcontainer knows stay: so
// also those that a later version of it will know.
func TestDropBindData(t *testing.T) {
	known := slices.DeleteFunc(specconv.KnownMountOptions(), func(o string) bool { return o == "defaults" })
	spec := &specs.Spec{
		Root:  &specs.Root{Path: t.TempDir()},
		Linux: &specs.Linux{},
		Mounts: []specs.Mount{
			{Type: "bind", Source: "/a", Destination: "/a", Options: []string{"rbind", "copy", "nocopy", "mode=0777", "size=1k", "ro"}},
			{Type: "none", Source: "/b", Destination: "/b", Options: append(known, "bind")},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/c", Options: []string{"size=1k", "copy"}},
		},
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: "x", Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	want := *config.Mounts[0]
	want.Data = ""
	var log strings.Builder
	r := &Runtime{log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	r.dropBindData("id", config)
	if !reflect.DeepEqual(*config.Mounts[0], want) {
		t.Errorf("the bind is %+v, want %+v", *config.Mounts[0], want)
	}
	// A file system that is being made has its words, known or not: the kernel
	// says what it thinks of them, as under runc.
	if got := config.Mounts[2].Data; got != "size=1k,copy" {
		t.Errorf("the tmpfs has %q", got)
	}
	if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), "copy,nocopy,mode=0777,size=1k") {
		t.Errorf("logged: %s", &log)
	}
}

func TestIDsThatAreNoNames(t *testing.T) {
	r := &Runtime{containers: map[string]*container{}}
	for _, id := range []string{"", ".", "..", "a/b", "../a", "/"} {
		if _, err := r.reserve(id, &specs.Spec{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: error %v, want ErrInvalid", id, err)
		}
	}
}

func TestAdoptMappings(t *testing.T) {
	mapping := []specs.LinuxIDMapping{{HostID: 7, Size: 1}}
	owner := &container{id: "owner", ready: true, spec: &specs.Spec{Linux: &specs.Linux{UIDMappings: mapping, GIDMappings: mapping}}}
	r := &Runtime{containers: map[string]*container{"owner": owner}}
	linux := &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.UserNamespace, Path: protocol.ContainerNamespace("owner")}}}
	if err := r.adoptMappings(linux); err != nil || !reflect.DeepEqual(linux.UIDMappings, mapping) || !reflect.DeepEqual(linux.GIDMappings, mapping) {
		t.Errorf("mappings %v, %v, %v", linux.UIDMappings, linux.GIDMappings, err)
	}
	linux = &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.UserNamespace, Path: protocol.ContainerNamespace("nobody")}}}
	if err := r.adoptMappings(linux); !errors.Is(err, ErrNotFound) {
		t.Errorf("of nobody: %v", err)
	}
	// A container without a user namespace has none to share.
	_, _, err := r.openNamespace(t.Context(), specs.LinuxNamespace{Type: specs.UserNamespace, Path: protocol.ContainerNamespace("owner")})
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("of a container without one: %v", err)
	}
}

func TestSysctlsDoNotLeaveTheirDirectory(t *testing.T) {
	for _, name := range []string{"net/../kernel/hostname", "fs.mqueue.//.//.kernel.hostname", "/net/x", ""} {
		linux := &specs.Linux{Sysctl: map[string]string{name: "x"}}
		if err := networkSysctls(linux); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), strconv.Quote(name)) {
			t.Errorf("%q: error %v, want ErrInvalid with the name", name, err)
		}
	}
	// Those of other namespaces are left to the container.
	linux := &specs.Linux{Sysctl: map[string]string{"kernel.shmmax": "1", "network.x": "1"}}
	if err := networkSysctls(linux); err != nil || len(linux.Sysctl) != 2 {
		t.Errorf("left are %v, %v", linux.Sysctl, err)
	}
}

func TestGuestNamespaces(t *testing.T) {
	r := &Runtime{}
	linux := &specs.Linux{Namespaces: []specs.LinuxNamespace{
		{Type: specs.NetworkNamespace, Path: "/var/run/netns/x"},
		{Type: specs.PIDNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
		{Type: specs.CgroupNamespace},
		{Type: specs.TimeNamespace},
	}}
	release, err := r.guestNamespaces(t.Context(), linux)
	if err != nil {
		t.Fatal(err)
	}
	release()
	want := []specs.LinuxNamespace{
		{Type: specs.MountNamespace},
		{Type: specs.PIDNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
		{Type: specs.CgroupNamespace},
		{Type: specs.TimeNamespace},
	}
	if !slices.Equal(linux.Namespaces, want) {
		t.Errorf("namespaces %v, want %v", linux.Namespaces, want)
	}
}

func TestNamespacesThatCannotBeJoined(t *testing.T) {
	for _, test := range []struct {
		kind specs.LinuxNamespaceType
		path string
		want error
	}{
		{specs.UserNamespace, protocol.SandboxNamespace, ErrInvalid},
		{specs.UserNamespace, protocol.ContainerNamespace("c"), ErrNotFound},
		{specs.TimeNamespace, protocol.ContainerNamespace("c"), ErrInvalid},
		{specs.PIDNamespace, protocol.SandboxNamespace, ErrInvalid},
		{specs.PIDNamespace, "/proc/7/ns/pid", ErrInvalid},
		{specs.IPCNamespace, "/proc/7/ns/ipc", ErrInvalid},
		{specs.PIDNamespace, protocol.ContainerNamespace("c"), ErrNotFound},
	} {
		linux := &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: test.kind, Path: test.path}}}
		for _, kind := range []specs.LinuxNamespaceType{specs.IPCNamespace, specs.UTSNamespace} {
			if kind != test.kind {
				linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: kind})
			}
		}
		if _, err := (&Runtime{}).guestNamespaces(t.Context(), linux); !errors.Is(err, test.want) {
			t.Errorf("%s namespace %q: error %v, want %v", test.kind, test.path, err, test.want)
		}
	}
}

func TestBindSysfs(t *testing.T) {
	mounts := []specs.Mount{{Destination: "/proc", Type: "proc"}, {Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro"}}}
	got := bindSysfs(mounts)
	if got[1].Type != "bind" || got[1].Source != "/sys" || !slices.Equal(got[1].Options, []string{"ro", "rbind"}) {
		t.Errorf("mount %+v", got[1])
	}
	if mounts[1].Type != "sysfs" {
		t.Error("the caller's mounts were changed")
	}
}

func TestParseStat(t *testing.T) {
	line := "12 (a) b (c)) S 3 12 12 0 -1 4194560 1 2 3 4 360500 100 0 0 20 0 1 0 5 6 7"
	got, err := parseStat([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	if got.GetPid() != 12 || got.GetPpid() != 3 || got.GetTime() != "01:00:06" || got.GetCommand() != "[a) b (c)]" {
		t.Errorf("parsed %v", got)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S", "x (y) S 1 2 3 4 5 6 7 8 9 10 11 12 13"} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q gives %v", bad, got)
		}
	}
	if _, err := processInfo(os.Getpid()); err != nil {
		t.Error(err)
	}
}

func TestReadOOMKills(t *testing.T) {
	dir := t.TempDir()
	if got := readOOMKills(dir); got != 0 {
		t.Errorf("%d kills without a file", got)
	}
	text := "low 0\nhigh 0\nmax 12\noom 4\noom_kill 3\noom_group_kill 0\n"
	if err := os.WriteFile(filepath.Join(dir, "memory.events"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := readOOMKills(dir); got != 3 {
		t.Errorf("%d kills, want 3", got)
	}
}

func TestOOMWatcherReportsEachRiseOnce(t *testing.T) {
	w, err := newOOMWatcher(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	dir := t.TempDir()
	path := filepath.Join(dir, "memory.events")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("oom_kill 0\n")
	w.add("c", dir)
	for _, count := range []string{"0", "1", "2"} {
		write("oom_kill " + count + "\n")
		if count == "0" {
			continue
		}
		if id, err := w.next(t.Context()); err != nil || id != "c" {
			t.Fatalf("event %q, %v", id, err)
		}
	}
	w.remove("c")
	if len(w.watches) != 0 {
		t.Error("the watch is left")
	}
}

func TestNewProcessConverts(t *testing.T) {
	spec := &specs.Process{
		Args: []string{"a"}, Cwd: "/", User: specs.User{UID: 1, GID: 2, AdditionalGids: []uint32{3}},
		Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1, Hard: 2}},
		Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}},
		ConsoleSize:  &specs.Box{Width: 80, Height: 24}, NoNewPrivileges: true,
	}
	lp, err := newProcess(spec)
	if err != nil {
		t.Fatal(err)
	}
	if lp.UID != 1 || lp.GID != 2 || !slices.Equal(lp.AdditionalGroups, []int{3}) || !*lp.NoNewPrivileges ||
		lp.ConsoleWidth != 80 || lp.ConsoleHeight != 24 || lp.Rlimits[0].Soft != 1 || lp.Capabilities.Bounding[0] != "CAP_CHOWN" {
		t.Errorf("converted %+v", lp)
	}
	spec.Rlimits[0].Type = "RLIMIT_FUN"
	if _, err := newProcess(spec); !errors.Is(err, ErrInvalid) {
		t.Errorf("unknown limit: %v", err)
	}
}

// What somebody has set of the network stays, and only a new user namespace
// changes it.
// No container loads modules of its own, whatever it is given.
func TestDropCapability(t *testing.T) {
	set := func() []string { return []string{"CAP_SYS_MODULE", "CAP_KILL", "CAP_SYS_MODULE"} }
	sets := &specs.LinuxCapabilities{Bounding: set(), Effective: set(), Permitted: set(), Inheritable: set(), Ambient: set()}
	dropCapability(sets, "CAP_SYS_MODULE")
	want := []string{"CAP_KILL"}
	if diff := cmp.Diff(&specs.LinuxCapabilities{Bounding: want, Effective: want, Permitted: want, Inheritable: want, Ambient: want}, sets); diff != "" {
		t.Error(diff)
	}
	dropCapability(nil, "CAP_SYS_MODULE") // a process with none of its own
}

func TestOpenNetwork(t *testing.T) {
	const initial, own = "1024\n|1\t0\n", "80\n|0\t0\n"
	users := func(path string) []specs.LinuxNamespace {
		return []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.UserNamespace, Path: path}}
	}
	for name, test := range map[string]struct {
		namespaces   []specs.LinuxNamespace
		before, want string
	}{
		"new":    {users(""), initial, "0|0\t2147483647"},
		"set":    {users(""), own, own},
		"joined": {users(protocol.ContainerNamespace("sandbox")), initial, initial},
		"none":   {users("")[:1], initial, initial},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "net", "ipv4")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			files := []string{filepath.Join(dir, "ip_unprivileged_port_start"), filepath.Join(dir, "ping_group_range")}
			for i, value := range strings.Split(test.before, "|") {
				if err := os.WriteFile(files[i], []byte(value), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := openNetwork(root, &specs.Linux{Namespaces: test.namespaces}); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, file := range files {
				value, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(value))
			}
			if strings.Join(got, "|") != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// TestHelperLevel: only what the limits may keep from starting pays for it.
func TestHelperLevel(t *testing.T) {
	const most = unix.RLIM_INFINITY
	for _, test := range []struct {
		name   string
		limits []configs.Rlimit
		want   string
	}{
		{"none", nil, plainLevel},
		{"usual", []configs.Rlimit{{Type: unix.RLIMIT_NOFILE, Soft: 100, Hard: 100}, {Type: unix.RLIMIT_NPROC, Soft: 1 << 16, Hard: 1 << 16}}, plainLevel},
		{"unlimited", []configs.Rlimit{{Type: unix.RLIMIT_AS, Soft: most, Hard: most}, {Type: unix.RLIMIT_NPROC, Soft: most, Hard: most}}, plainLevel},
		{"addresses", []configs.Rlimit{{Type: unix.RLIMIT_AS, Soft: 1 << 40, Hard: most}}, roomyLevel},
		{"data", []configs.Rlimit{{Type: unix.RLIMIT_DATA, Soft: 1 << 26, Hard: most}}, roomyLevel},
		{"threads", []configs.Rlimit{{Type: unix.RLIMIT_NPROC, Soft: 10, Hard: most}}, roomyLevel},
	} {
		if got := helperLevel(test.limits); got != test.want {
			t.Errorf("%s: level %q, want %q", test.name, got, test.want)
		}
	}
	// As libcontainer's two readers take it.
	if level, err := strconv.Atoi(roomyLevel); err != nil || strconv.Itoa(level) != plainLevel {
		t.Errorf("level %d, %v", level, err)
	}
}
