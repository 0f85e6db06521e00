package qemu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/accel"
)

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]string{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright\n": "7.2.22",
		"QEMU emulator version 11.0.1\n":                                              "11.0.1",
		"qemu-img version 7.2.22\n":                                                   "",
		"":                                                                            "",
	} {
		if got, err := parseVersion(text); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// startable are options that New accepts, with a program instead of QEMU.
func startable(t *testing.T, script string) Options {
	t.Helper()
	dir := t.TempDir()
	o := minimal()
	o.Architecture = ""
	o.Path = filepath.Join(dir, "qemu")
	o.Kernel = filepath.Join(dir, "vmlinux")
	for path, text := range map[string]string{o.Path: "#!/bin/sh\n" + script, o.Kernel: "kernel"} {
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func TestNewErrors(t *testing.T) {
	o := startable(t, "")
	o.Path = "/no/such/qemu"
	if _, err := New(o); !errors.Is(err, ErrNoQEMU) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing QEMU: %v", err)
	}
	o = startable(t, "")
	o.Initrd = "/no/such/initrd"
	if _, err := New(o); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "initrd") {
		t.Errorf("missing initrd: %v", err)
	}
	o.Initrd = t.TempDir()
	if _, err := New(o); err == nil {
		t.Error("a directory was taken for an initrd")
	}
	o = startable(t, "")
	if err := os.Truncate(o.Kernel, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "an empty file") {
		t.Errorf("an empty kernel: %v", err)
	}
	closed := null(t)
	closed.Close()
	o = startable(t, "")
	o.Devices = []hypervisor.Device{&hypervisor.Disk{ID: "disk", File: closed}}
	if _, err := New(o); err == nil {
		t.Error("a closed disk was taken")
	}
}

// TestProgramsThatAreNoQEMU starts what ends at once or talks nonsense.
func TestOverheadIsTheEmulators(t *testing.T) {
	for accelerator, want := range map[string]int{accel.TCG: translationMiB, accel.KVM: 0} {
		o := startable(t, "")
		o.Accelerator = accelerator
		vm, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if got := vm.Info().OverheadMiB; got != want {
			t.Errorf("with %s: %d MiB, want %d", accelerator, got, want)
		}
		if err := vm.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestProgramsThatAreNoQEMU(t *testing.T) {
	for name, c := range map[string]struct{ script, status string }{
		"fails":         {"echo 'kernel \033[31mtoo old' >&2; exit 1", "exit status 1"},
		"ends well":     {"echo bye >&2", "exit status 0"},
		"kills itself":  {"echo ouch >&2; kill -9 $$", "signal: killed"},
		"nonsense":      {"echo nonsense >&3; echo said it >&2; exit 2", "exit status 2"},
		"dies mid-line": {`printf '{"QMP": {' >&3; echo cut >&2; exit 3`, "exit status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			vm, err := New(startable(t, c.script))
			if err != nil {
				t.Fatal(err)
			}
			err = vm.Start(t.Context())
			var exit *hypervisor.ExitError
			if !errors.As(err, &exit) || exit.Status != c.status || exit.Stderr == "" {
				t.Errorf("Start: %v", err)
			}
			if strings.Contains(err.Error(), "\033") {
				t.Errorf("control characters: %q", err)
			}
			if waitErr := vm.Wait(t.Context()); !errors.As(waitErr, &exit) {
				t.Errorf("Wait: %v", waitErr)
			}
			if err := vm.Stop(t.Context()); err != nil {
				t.Errorf("Stop: %v", err)
			}
		})
	}
}

// What a program complains of that is asked for its version is told, and of one that does
// not answer, why it waits no longer.
func TestQuestionsThatQEMUDoesNotAnswer(t *testing.T) {
	_, err := Version(t.Context(), startable(t, "echo 'no dancing bears' >&2; exit 1").Path)
	if err == nil || !strings.Contains(err.Error(), "no dancing bears") {
		t.Errorf("one that complains: %v", err)
	}
	enough := errors.New("it took too long")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, enough)
	defer cancel()
	if _, err := Version(ctx, startable(t, "exec sleep 1000").Path); !errors.Is(err, enough) {
		t.Errorf("one that does not answer: %v", err)
	}
}

// TestFilesAreReleased counts descriptors around a VM that fails.
func TestFilesAreReleased(t *testing.T) {
	o := startable(t, "exit 1")
	o.Devices = []hypervisor.Device{&hypervisor.Disk{ID: "disk", File: regular(t)}}
	run := func() {
		vm, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := vm.Start(t.Context()); err == nil {
			t.Error("started")
		}
	}
	// The first run opens what the Go runtime keeps.
	run()
	before := descriptors(t)
	for range 5 {
		run()
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors became %d", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestNewNeverStarted(t *testing.T) {
	o := startable(t, "")
	o.Devices = []hypervisor.Device{&hypervisor.Disk{ID: "disk", File: regular(t)}}
	before := descriptors(t)
	vm, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors became %d", before, after)
	}
	if _, err := vm.Listen(1); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("Listen without vsock: %v", err)
	}
}

func TestDIMMSize(t *testing.T) {
	for _, test := range []struct{ now, wanted, most, used, want int }{
		{2048, 2049, 65536, 0, 256}, // an eighth
		{2304, 2305, 65536, 1, 640}, // a quarter, in blocks
		{2944, 2945, 65536, 3, 2944},
		{2048, 8192, 65536, 0, 6144}, // what is wanted
		{768, 770, 1024, 3, 256},     // the maximum
		{1000, 1020, 1024, 0, 128},
	} {
		if got := dimmSize(test.now, test.wanted, test.most, test.used); got != test.want {
			t.Errorf("dimmSize(%d, %d, %d, %d) = %d, want %d", test.now, test.wanted, test.most, test.used, got, test.want)
		}
	}
}

func TestSlots(t *testing.T) {
	all := slots(&Options{RootPorts: 2, Bridges: 2})
	if len(all) != 2*bridgeSlots+2 {
		t.Fatalf("%d slots", len(all))
	}
	seen := make(map[slot]bool)
	for _, s := range all {
		if seen[*s] {
			t.Errorf("%+v is there twice", *s)
		}
		seen[*s] = true
	}
	first := diskProperties(&hypervisor.Disk{ID: "d"}, "node").arguments(all[bridgeSlots-1])
	if first["bus"] != "bridge0" || first["addr"] != "0x1f" {
		t.Errorf("the last slot of the first bridge is %v, %v", first["bus"], first["addr"])
	}
	if last := all[len(all)-1]; last.bus != "port1" || last.address != 0 {
		t.Errorf("the last slot is %+v", *last)
	}
}

// A machine of a foreign architecture is emulated, and has the size of its start.
func TestForeignArchitecture(t *testing.T) {
	dir := t.TempDir()
	kernel := filepath.Join(dir, "kernel")
	if err := os.WriteFile(kernel, []byte("kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := "arm64"
	if runtime.GOARCH == foreign {
		foreign = "amd64"
	}
	o := Options{
		Path: "/bin/sh", Architecture: foreign, Name: "pod", Accelerator: accel.KVM, Kernel: kernel,
		Size: hypervisor.Size{VCPUs: 1, MemoryMiB: 128},
	}
	if _, err := New(o); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("a foreign guest by KVM: %v", err)
	}
	o.Architecture, o.Accelerator = "arm64", accel.TCG
	o.MaxSize, o.Bridges = hypervisor.Size{VCPUs: 8, MemoryMiB: 4096}, 1
	vm, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if vm.opts.MaxSize != o.Size || vm.opts.Bridges != 0 || vm.opts.RootPorts != portsForBridge {
		t.Errorf("an arm64 machine has room for %+v, %d bridges and %d ports", vm.opts.MaxSize, vm.opts.Bridges, vm.opts.RootPorts)
	}
	if err := vm.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
