//go:build vm

package vm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/test/leak"
)

// confinement is what a process of a pod may be on the host.
type confinement struct {
	// user is the id of it and its group; -1 stands for one of confine_users.
	user int
	// groups tells that it has its caller's supplementary groups.
	groups bool
	// capabilities are the most that a thread may have in any set.
	capabilities uint64
	// own are its namespaces that are not the host's.
	own []string
	// root lists its root file system; nil: it is the host's.
	root []string
	// limits are the most that soft and hard ones may be, by their names in
	// /proc/PID/limits.
	limits map[string]uint64
}

// fileServer are the capabilities that virtiofsd starts with.
const fileServer = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER |
	1<<unix.CAP_FSETID | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID | 1<<unix.CAP_MKNOD | 1<<unix.CAP_SETFCAP |
	1<<unix.CAP_SETPCAP | 1<<unix.CAP_SYS_CHROOT

// supervising are the capabilities that a supervisor has not given up.
const supervising = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER |
	1<<unix.CAP_FSETID | 1<<unix.CAP_KILL | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETPCAP |
	1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_IPC_LOCK |
	1<<unix.CAP_SYS_CHROOT | 1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SYS_NICE |
	1<<unix.CAP_SYS_RESOURCE | 1<<unix.CAP_MKNOD | 1<<unix.CAP_SETFCAP

// confined is the table of docs/security.md, by what names each process.
func confined() map[string]confinement {
	return map[string]confinement{
		"qemu-system": {
			user:   -1,
			own:    []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"},
			root:   []string{"dev", "etc", "lib", "lib64", "usr"},
			limits: map[string]uint64{"Max core file size": 1, "Max open files": 1 << 16, "Max processes": 2048},
		},
		"kata-vsock": {
			user:   -1,
			own:    []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"},
			root:   []string{},
			limits: map[string]uint64{"Max core file size": 1, "Max open files": 4096, "Max processes": 2048},
		},
		"kata-reader": {
			user:   -1,
			own:    []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"},
			root:   []string{},
			limits: map[string]uint64{"Max core file size": 1, "Max open files": 64, "Max processes": 2048},
		},
		"kata-runtime supervisor": {capabilities: supervising, groups: true, own: []string{"mnt"}},
		harness.FileServerRole(): {
			capabilities: fileServer,
			own:          []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"},
			limits:       map[string]uint64{"Max core file size": 1, "Max open files": 200_000},
		},
	}
}

// Each process of a pod that a guest can talk to has on the host what its row of
// the table says.
func TestConfinement(t *testing.T) {
	h := harness.New(t)
	configure(h, "hypervisor.confine_agent = true")
	d := detach(h, bundle.Spec("/bin/sh", "-c", ready))
	h.WaitText(d.output, "ready")
	for name, want := range confined() {
		t.Run(name, func(t *testing.T) {
			found := 0
			for _, p := range h.Processes() {
				program, _, _ := strings.Cut(p.Command, " ")
				if strings.Contains(program, name) || strings.Contains(name, " ") && strings.HasPrefix(p.Command, name) {
					found++
					checkConfinement(t, p, want)
				}
			}
			if found == 0 {
				t.Error("no such process")
			}
		})
	}
	// The kernel's own words above, the command's here.
	checkSecurity(h, d.id, "supervisor", "vmm", harness.FileServerRole(), "reader", "stand-in")
	t.Run("a probe in the VMM's place", func(t *testing.T) { probeVMM(t, h, d) })
	h.Must("kill", d.id, "KILL")
	h.Reap(d.pid)
	h.Must("delete", d.id)
}

func checkConfinement(t *testing.T, p leak.Process, want confinement) {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(p.PID))
	// Of each thread: credentials are a thread's.
	tasks, err := filepath.Glob(filepath.Join(dir, "task", "*"))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("threads of %s: %v", p, err)
	}
	for _, task := range tasks {
		status := statusOf(t, task)
		checkUser(t, status, want.user)
		for _, key := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			set, err := strconv.ParseUint(status[key], 16, 64)
			if err != nil || set&^want.capabilities != 0 {
				t.Errorf("%s: %s %s, want at most %x", task, key, status[key], want.capabilities)
			}
		}
		if status["Groups"] != "" && !want.groups || status["NoNewPrivs"] != "1" {
			t.Errorf("%s: groups %q, no_new_privs %s", task, status["Groups"], status["NoNewPrivs"])
		}
		if status["Seccomp"] != "2" {
			t.Errorf("%s: seccomp %s, want a filter", task, status["Seccomp"])
		}
	}
	checkNamespaces(t, dir, want.own)
	checkRoot(t, dir, want.root)
	checkLimits(t, dir, want.limits)
}

// statusOf reads /proc/PID/status.
func statusOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		t.Fatal(err)
	}
	status := make(map[string]string)
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(line, ":")
		status[key] = strings.TrimSpace(value)
	}
	return status
}

func checkUser(t *testing.T, status map[string]string, want int) {
	t.Helper()
	user, group := strings.Fields(status["Uid"]), strings.Fields(status["Gid"])
	for _, id := range slices.Concat(user, group) {
		number, err := strconv.Atoi(id)
		switch {
		case err != nil || id != user[0]:
			t.Errorf("users %q, groups %q", user, group)
		case want >= 0 && number != want, want < 0 && (number < 2_000_000_000 || number > 2_000_065_535):
			t.Errorf("id %s, want %d", id, want)
		}
	}
}

func checkNamespaces(t *testing.T, dir string, own []string) {
	t.Helper()
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
		theirs, err := os.Readlink(filepath.Join(dir, "ns", name))
		ours, err2 := os.Readlink("/proc/self/ns/" + name)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if slices.Contains(own, name) != (theirs != ours) {
			t.Errorf("%s namespace %s, the host's is %s", name, theirs, ours)
		}
	}
}

func checkRoot(t *testing.T, dir string, want []string) {
	t.Helper()
	if want == nil {
		return
	}
	entries, err := os.ReadDir(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	// The kernel's and the initrd's directories are where the user has them.
	var names []string
	for _, entry := range entries {
		if top := "/" + entry.Name(); !strings.HasPrefix(harness.Repository(t), top+"/") {
			names = append(names, entry.Name())
		}
	}
	if !slices.Equal(names, want) {
		t.Errorf("its root holds %q, want %q", names, want)
	}
	mounts, err := os.ReadFile(filepath.Join(dir, "mountinfo"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if options := strings.Split(fields[5], ","); !slices.Contains(options, "ro") || !slices.Contains(options, "nosuid") {
			t.Errorf("mounted at %s with %s", fields[4], fields[5])
		}
	}
	devices, err := os.ReadDir(filepath.Join(dir, "root/dev"))
	if err != nil && (slices.Contains(want, "dev") || !errors.Is(err, fs.ErrNotExist)) {
		t.Fatal(err)
	}
	for _, device := range devices {
		if !slices.Contains([]string{"null", "urandom", "kvm"}, device.Name()) {
			t.Errorf("device %s", device.Name())
		}
	}
}

func checkLimits(t *testing.T, dir string, want map[string]uint64) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "limits"))
	if err != nil {
		t.Fatal(err)
	}
	for name, most := range want {
		found := false
		for line := range strings.Lines(string(data)) {
			rest, ok := strings.CutPrefix(line, name)
			fields := strings.Fields(rest)
			if !ok || len(fields) < 2 {
				continue
			}
			hard, err := strconv.ParseUint(fields[1], 10, 64)
			found = err == nil && fields[0] == fields[1] && hard <= most
		}
		if !found {
			t.Errorf("%s: not %d or less in\n%s", name, most, data)
		}
	}
}
