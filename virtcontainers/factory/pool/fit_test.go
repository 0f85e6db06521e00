package pool

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/virtcontainers/config"
)

func TestFitFollowsWhatAMachineIsMadeFrom(t *testing.T) {
	dir := t.TempDir()
	kernel, program := filepath.Join(dir, "kernel"), filepath.Join(dir, "program")
	for _, path := range []string{kernel, program} {
		if err := os.WriteFile(path, []byte("1"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	settings := config.Default()
	settings.Hypervisor.Kernel = kernel
	describe := func() Fit {
		t.Helper()
		f, err := Describe(Shim, settings, "/proc/self/exe", []string{program, filepath.Join(dir, "none")})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := describe()
	if again := describe(); again != first {
		t.Fatalf("nothing has changed but the fit: %+v, %+v", first, again)
	}
	for _, path := range []string{kernel, program} { // as an installer does
		if err := os.WriteFile(path+".new", []byte("2"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		next := describe()
		if got := first.Misfit(next); got != ReasonFiles {
			t.Errorf("%s is another one: %q", path, got)
		}
		first = next
	}
	// What a pod, or who changes the configuration, may change without another machine.
	settings.Hypervisor.EnableAnnotations = []string{".*"}
	settings.Factory.PoolSize, settings.Runtime.OverheadVCPUs = 7, 3
	if got := first.Misfit(describe()); got != "" {
		t.Errorf("it has nothing to do with the machine: %q", got)
	}
	settings.Hypervisor.DefaultVCPUs++
	if got := first.Misfit(describe()); got != ReasonConfiguration {
		t.Errorf("a vCPU more: %q", got)
	}
}

func TestSurroundings(t *testing.T) {
	text, err := surroundings("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"mnt:[", "net:[", "user:[", "pid:[", "cgroup:[", "CapEff:", "Cpus_allowed:", "nice "} {
		if !strings.Contains(string(text), want) {
			t.Errorf("it lacks %s:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "Cpus_allowed_list") || strings.Contains(string(text), "VmRSS") {
		t.Errorf("it has more than a child has of its parent:\n%s", text)
	}
}

// A root that has logged in and a service of the host can have the same machines.
func TestSurroundingsOfShellsAndServices(t *testing.T) {
	of := func(groups string) string {
		t.Helper()
		dir := t.TempDir()
		err := errors.Join(os.Mkdir(filepath.Join(dir, "ns"), 0o700), os.Symlink("/", filepath.Join(dir, "root")),
			os.WriteFile(filepath.Join(dir, "status"), []byte("Name:\tx\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t"+groups+"\nCapEff:\t1\n"), 0o600),
			os.WriteFile(filepath.Join(dir, "stat"), []byte("1 (x) S"+strings.Repeat(" 0", 50)+"\n"), 0o600))
		if err != nil {
			t.Fatal(err)
		}
		text, err := surroundings(dir)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	service := of("")
	if shell := of("0 "); shell != service {
		t.Errorf("a shell's:\n%sa service's:\n%s", shell, service)
	}
	if member := of("0 27 "); member == service {
		t.Errorf("one of another group:\n%s", member)
	}
}

func TestHostIdle(t *testing.T) {
	for _, c := range []struct {
		name, load, available string
		change                func(*config.Factory)
		want                  bool
	}{
		{"idle", "0.10", "8000000", nil, true},
		{"busy", "1.90", "8000000", nil, false}, // of two CPUs, 80 %
		{"whatever the load is", "99.00", "8000000", func(f *config.Factory) { f.MaxLoadPercent = 0 }, true},
		{"little memory", "0.10", "3000000", nil, false}, // 2048 and 1024 MiB are wanted
		{"content with little", "0.10", "3000000", func(f *config.Factory) { f.MinMemoryMiB = 100 }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			proc := t.TempDir()
			if err := os.WriteFile(filepath.Join(proc, "loadavg"), []byte(c.load+" 0.50 0.40 1/200 1234\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(proc, "meminfo"), []byte("MemTotal: 9000000 kB\nMemAvailable:   "+c.available+" kB\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			settings := config.Default()
			if c.change != nil {
				c.change(&settings.Factory)
			}
			got, err := hostIdle(proc, settings, 2)
			if err != nil || got != c.want {
				t.Errorf("%v, %v, want %v", got, err, c.want)
			}
		})
	}
	if _, err := hostIdle(t.TempDir(), config.Default(), 2); err == nil {
		t.Error("a host that tells nothing is idle")
	}
}
