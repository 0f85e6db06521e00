package qemu

import (
	"flag"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/accel"
)

func null(t *testing.T) *os.File {
	t.Helper()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

// regular returns an empty regular file.
func regular(t *testing.T) *os.File {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func minimal() Options {
	return Options{
		Architecture: "amd64", Name: "pod", Accelerator: "tcg", Kernel: "/k/vmlinux",
		Size: hypervisor.Size{VCPUs: 1, MemoryMiB: 2048},
	}
}

func everything(t *testing.T) Options {
	t.Helper()
	o := minimal()
	o.Name, o.Accelerator, o.Initrd = "a,b", "kvm", "/k/initrd.img"
	o.KernelParams = []string{"debug", "kata.token=00ff"}
	o.MaxSize = hypervisor.Size{VCPUs: 4, MemoryMiB: 8192}
	o.ReclaimMemory = true
	o.RootPorts, o.Bridges = 10, 2
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	o.Devices = []hypervisor.Device{
		&hypervisor.Vsock{ID: "vsock0", Backend: null(t)},
		&hypervisor.Share{ID: "share0", Tag: "kata", Socket: null(t)},
		&hypervisor.Disk{ID: "root", File: regular(t), ReadOnly: true, Serial: "s,1"},
		&hypervisor.Disk{ID: "device", File: null(t)},
		&hypervisor.NIC{ID: "eth0", Tap: []*os.File{null(t)}, MAC: mac},
		&hypervisor.NIC{
			ID: "eth1", Tap: []*os.File{null(t), null(t)}, Vhost: []*os.File{null(t), null(t)}, MAC: mac, MTU: 9000,
		},
		&hypervisor.NIC{ID: "eth2", Stream: null(t), MAC: mac},
	}
	return o
}

func TestArguments(t *testing.T) {
	update := flag.Lookup("update") != nil && flag.Lookup("update").Value.String() == "true"
	kernelVsock := minimal()
	kernelVsock.Architecture = "arm64"
	kernelVsock.Devices = []hypervisor.Device{
		&hypervisor.Vsock{ID: "vsock0", CID: 17, Vhost: null(t)},
		&hypervisor.Share{ID: "share0", Tag: "kata", Directory: "/run/a,b"},
	}
	restored := minimal()
	restored.Memory, restored.Incoming = null(t), true
	for name, o := range map[string]Options{
		"restored": restored, "minimal": minimal(), "everything": everything(t), "arm64": kernelVsock,
	} {
		t.Run(name, func(t *testing.T) {
			args, files, err := Arguments(o, Channels{QMP: null(t), Console: null(t)})
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".golden")
			got := render(args)
			if update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-want +got (-update accepts):\n%s", diff)
			}
			checkInherited(t, args, files)
		})
	}
}

// What the host knows of its time stamp counter is of use to a guest whose CPUs are
// emulated and read it, and to no other.
func TestCounterFrequency(t *testing.T) {
	t.Parallel()
	kvm, arm := minimal(), minimal()
	kvm.Accelerator, arm.Architecture = accel.KVM, "arm64"
	for name, test := range map[string]struct {
		options Options
		kHz     int
		want    bool
	}{
		"emulated":             {minimal(), 2_100_000, true},
		"not known":            {minimal(), 0, false},
		"KVM":                  {kvm, 2_100_000, false},
		"another architecture": {arm, 2_100_000, false},
	} {
		o := test.options
		o.counterKHz = test.kHz
		args, _, err := Arguments(o, Channels{QMP: null(t), Console: null(t)})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := strings.Contains(args[slices.Index(args, "-append")+1], " tsc_early_khz=2100000"); got != test.want {
			t.Errorf("%s: the kernel is told the frequency: %v, want %v", name, got, test.want)
		}
	}
}

// render puts each option on a line of its own.
func render(args []string) string {
	var text strings.Builder
	for i, arg := range args {
		switch {
		case i == 0:
		case strings.HasPrefix(arg, "-"):
			text.WriteByte('\n')
		default:
			text.WriteByte(' ')
		}
		text.WriteString(arg)
	}
	return text.String() + "\n"
}

// checkInherited demands a use of every file that is inherited.
func checkInherited(t *testing.T, args []string, files []*os.File) {
	t.Helper()
	line := strings.Join(args, " ")
	for i, file := range files {
		if file == nil {
			t.Fatalf("file %d is nil", i)
		}
		fd := string(rune('0' + firstInherited + i))
		if firstInherited+i > 9 {
			fd = "1" + string(rune('0'+firstInherited+i-10))
		}
		if !strings.Contains(line, "fd="+fd) && !strings.Contains(line, "fds="+fd) && !strings.Contains(line, "str="+fd) && !strings.Contains(line, "/proc/self/fd/"+fd) && !strings.Contains(line, ":"+fd) {
			t.Errorf("descriptor %s is not used", fd)
		}
	}
}

func TestOptionsOutOfRange(t *testing.T) {
	disk := &hypervisor.Disk{ID: "disk", File: null(t)}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for name, spoil := range map[string]func(*Options){
		"restored of nothing": func(o *Options) { o.Incoming = true },
		"architecture":        func(o *Options) { o.Architecture = "riscv64" },
		"no name":             func(o *Options) { o.Name = "" },
		"control character":   func(o *Options) { o.Name = "a\nb" },
		"accelerator":         func(o *Options) { o.Accelerator = "auto" },
		"no kernel":           func(o *Options) { o.Kernel = "" },
		"no vCPU":             func(o *Options) { o.Size.VCPUs = 0 },
		"no memory":           func(o *Options) { o.Size.MemoryMiB = 8 },
		"root ports":          func(o *Options) { o.RootPorts = 33 },
		"negative ports":      func(o *Options) { o.RootPorts = -1 },
		"bridges":             func(o *Options) { o.Bridges = 5 },
		"negative bridges":    func(o *Options) { o.Bridges = -1 },
		"long parameters":     func(o *Options) { o.KernelParams = []string{strings.Repeat("x", 2048)} },
		"nil device":          func(o *Options) { o.Devices = []hypervisor.Device{nil} },
		"same id":             func(o *Options) { o.Devices = []hypervisor.Device{disk, disk} },
		"bad id":              func(o *Options) { o.Devices = []hypervisor.Device{&hypervisor.Disk{ID: "a,b", File: null(t)}} },
		"long id": func(o *Options) {
			o.Devices = []hypervisor.Device{&hypervisor.Disk{ID: strings.Repeat("x", 32), File: null(t)}}
		},
		"disk without file": func(o *Options) { o.Devices = []hypervisor.Device{&hypervisor.Disk{ID: "d"}} },
		"long serial": func(o *Options) {
			o.Devices = []hypervisor.Device{&hypervisor.Disk{ID: "d", File: null(t), Serial: strings.Repeat("x", 21)}}
		},
		"NIC without tap": func(o *Options) { o.Devices = []hypervisor.Device{&hypervisor.NIC{ID: "n", MAC: mac}} },
		"NIC with nil tap": func(o *Options) {
			o.Devices = []hypervisor.Device{&hypervisor.NIC{ID: "n", MAC: mac, Tap: []*os.File{nil}}}
		},
		"NIC with a tap and a stream": func(o *Options) {
			o.Devices = []hypervisor.Device{&hypervisor.NIC{ID: "n", MAC: mac, Tap: []*os.File{null(t)}, Stream: null(t)}}
		},
		"NIC with half of its vhosts": func(o *Options) {
			o.Devices = []hypervisor.Device{&hypervisor.NIC{
				ID: "n", MAC: mac, Tap: []*os.File{null(t), null(t)}, Vhost: []*os.File{null(t)},
			}}
		},
		"NIC without MAC": func(o *Options) {
			o.Devices = []hypervisor.Device{&hypervisor.NIC{ID: "n", Tap: []*os.File{null(t)}}}
		},
		"share without tag": func(o *Options) {
			o.Devices = []hypervisor.Device{&hypervisor.Share{ID: "s", Directory: "/"}}
		},
		"relative share": func(o *Options) {
			o.Devices = []hypervisor.Device{&hypervisor.Share{ID: "s", Tag: "t", Directory: "x"}}
		},
		"vsock without back end": func(o *Options) { o.Devices = []hypervisor.Device{&hypervisor.Vsock{ID: "v", CID: 3}} },
		"host's CID": func(o *Options) {
			o.Devices = []hypervisor.Device{&hypervisor.Vsock{ID: "v", CID: 2, Vhost: null(t)}}
		},
	} {
		o := minimal()
		spoil(&o)
		if args, _, err := Arguments(o, Channels{QMP: null(t), Console: null(t)}); err == nil {
			t.Errorf("%s: taken as %q", name, args)
		}
	}
}
