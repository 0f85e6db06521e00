package config

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// write makes files below a new directory and returns it.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func loadText(t *testing.T, text string) (*Config, error) {
	t.Helper()
	dir := write(t, map[string]string{"configuration.toml": text})
	return Load(context.Background(), filepath.Join(dir, "configuration.toml"))
}

func TestLoadEveryOption(t *testing.T) {
	got, err := loadText(t, `
[hypervisor]
driver = "qemu"
kernel = "/k"
initrd = "/i"
image = ""
modules = "/m"
deny_modules = ["rds", "n_gsm"]
architecture = "arm64"
kernel_params = "a=b c"
accelerator = "tcg"
vsock = "user"
default_vcpus = 2
default_maxvcpus = 4
default_memory = 256
default_maxmemory = 512
reclaim_guest_freed_memory = false
shared_fs = "virtio-9p"
virtio_fs_daemon = "/opt/virtiofsd"
virtio_fs_cache = "never"
virtio_fs_notify = true
virtio_fs_extra_args = ["--thread-pool-size=1", "-o", "x"]
disable_vhost_net = true
confine = false
confine_users = "70000-70009"
confine_without = ["pid"]
confine_agent = true
log_refused_calls = true
enable_annotations = ["kernel_params", "default_.*"]
[hypervisor.qemu]
path = "/opt/qemu"
pcie_root_port = 3
default_bridges = 2
[guest.arm64]
path = "/opt/qemu-arm"
kernel = "/ak"
image = "/aimg"
modules = "/am"
[agent.kata]
dial_timeout = 5
idle_cache_timeout = 7
kernel_modules = ["br_netfilter", "loop max_loop=8"]
[runtime]
overhead_memory = 700
overhead_vcpus = 2
boots_at_once = 3
enable_debug = true
static_sandbox_resource_mgmt = true
disable_socket_relay = true
internetworking_model = "macvtap"
host_network = "passt"
host_network_tcp_ports = "80"
host_network_udp_ports = "all"
[factory]
pool_size = 2
template = true
max_load = 50
min_memory = 512
dir = "/run/machines"
`)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Hypervisor: Hypervisor{
			Driver: DriverQEMU,
			Machine: Machine{
				Architecture: "arm64",
				Kernel:       "/k", Initrd: "/i", Modules: "/m", DenyModules: []string{"rds", "n_gsm"}, KernelParams: "a=b c", Accelerator: "tcg", Vsock: "user",
				DefaultVCPUs: 2, DefaultMaxVCPUs: 4, DefaultMemoryMiB: 256, DefaultMaxMemoryMiB: 512,
				SharedFS: "virtio-9p", VirtioFSDaemon: "/opt/virtiofsd", VirtioFSCache: "never", VirtioFSNotify: true,
				VirtioFSExtraArgs: []string{"--thread-pool-size=1", "-o", "x"}, DisableVhostNet: true,
				ConfineUsers: "70000-70009", LogRefusedCalls: true, ConfineWithout: []string{"pid"}, ConfineAgent: true, EnableAnnotations: []string{"kernel_params", "default_.*"},
			},
			QEMU: QEMU{Path: "/opt/qemu", PCIeRootPorts: 3, Bridges: 2},
		},
		Guest: Guests{ARM64: Guest{Path: "/opt/qemu-arm", Kernel: "/ak", Image: "/aimg", Modules: "/am"}},
		Agent: Agent{DialTimeout: 5 * time.Second, KernelModules: []string{"br_netfilter", "loop max_loop=8"}, IdleCacheTimeout: 7},
		Runtime: Runtime{
			Debug: true, StaticSandboxResources: true, OverheadMemoryMiB: 700, OverheadVCPUs: 2, BootsAtOnce: 3,
			DisableSocketRelay: true, NetworkModel: NetworkMacvtap,
			HostNetwork: HostNetworkPasst, HostTCPPorts: "80", HostUDPPorts: "all",
		},
		Factory: Factory{PoolSize: 2, Template: true, MaxLoadPercent: 50, MinMemoryMiB: 512, Dir: "/run/machines"},
		Files:   got.Files,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoadImage(t *testing.T) {
	got, err := loadText(t, "[hypervisor]\nkernel = '/k'\nimage = '/guest.img'\n")
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := got.Encode(&text); err != nil {
		t.Fatal(err)
	}
	again, err := loadText(t, text.String())
	if err != nil {
		t.Fatalf("%v in\n%s", err, &text)
	}
	if again.Hypervisor.Image != "/guest.img" || again.Hypervisor.Initrd != "" {
		t.Errorf("got %q and %q", again.Hypervisor.Image, again.Hypervisor.Initrd)
	}
	if err := again.ResolveAssets("/nowhere/kata-runtime"); err != nil || again.Hypervisor.Kernel != "/k" || again.Hypervisor.Initrd != "" {
		t.Errorf("resolved %q and %q, %v", again.Hypervisor.Kernel, again.Hypervisor.Initrd, err)
	}
	// An initrd may be what mounts it.
	both, err := loadText(t, "[hypervisor]\nkernel = '/k'\ninitrd = '/i'\nimage = '/guest.img'\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := both.ResolveAssets("/nowhere/kata-runtime"); err != nil || both.Hypervisor.Initrd != "/i" || both.Hypervisor.Image != "/guest.img" {
		t.Errorf("resolved %q and %q, %v", both.Hypervisor.Initrd, both.Hypervisor.Image, err)
	}
}

// TestLoadKatasKeys loads one file as Kata Containers has it, with all of a VM's
// keys in the driver's table, and the same in the tables that they have here.
func TestLoadKatasKeys(t *testing.T) {
	shared := `
kernel = "/k"
initrd = "/i"
image = ""
modules = "/m"
deny_modules = ["rds", "n_gsm"]
architecture = "arm64"
kernel_params = "a=b c"
accelerator = "tcg"
vsock = "user"
default_vcpus = 2
default_maxvcpus = 4
default_memory = 256
default_maxmemory = 512
reclaim_guest_freed_memory = false
shared_fs = "virtio-9p"
virtio_fs_daemon = "/opt/virtiofsd"
virtio_fs_cache = "never"
virtio_fs_notify = true
virtio_fs_extra_args = ["--thread-pool-size=1", "-o", "x"]
disable_vhost_net = true
confine = false
confine_users = "70000-70009"
confine_without = ["pid"]
confine_agent = true
log_refused_calls = true
enable_annotations = ["enable_iommu", "kernel_params"]
`
	for _, option := range Options() {
		if option.KataName() != "" && !strings.Contains(shared, "\n"+option.Key+" = ") {
			t.Errorf("the file lacks %s", option.Key)
		}
	}
	own := "path = \"/opt/qemu\"\npcie_root_port = 3\ndefault_bridges = 2\n"
	old, err := loadText(t, "[hypervisor.qemu]"+shared+own)
	if err != nil {
		t.Fatal(err)
	}
	current, err := loadText(t, "[hypervisor]"+shared+"[hypervisor.qemu]\n"+own)
	if err != nil {
		t.Fatal(err)
	}
	old.Files, current.Files = nil, nil
	if diff := cmp.Diff(current, old); diff != "" {
		t.Error(diff)
	}
}

// Of two files the later one wins, by whichever name each has the key.
func TestDropInsSetKatasKeys(t *testing.T) {
	for _, names := range [][2]string{{"hypervisor", "hypervisor.qemu"}, {"hypervisor.qemu", "hypervisor"}} {
		dir := write(t, map[string]string{
			"configuration.toml": "[" + names[0] + "]\ndefault_memory = 300\n",
			"config.d/x.toml":    "[" + names[1] + "]\ndefault_memory = 400\n",
		})
		got, err := Load(t.Context(), filepath.Join(dir, "configuration.toml"))
		if err != nil || got.Hypervisor.DefaultMemoryMiB != 400 {
			t.Errorf("%v: %+v, %v", names, got, err)
		}
	}
}

func TestLoadDropIns(t *testing.T) {
	dir := write(t, map[string]string{
		"configuration.toml":       "[hypervisor.qemu]\ndefault_vcpus = 2\ndefault_memory = 300\nvirtio_fs_extra_args = ['a', 'b']\n",
		"config.d/20-later.toml":   "[hypervisor.qemu]\ndefault_memory = 500\n",
		"config.d/10-earlier.toml": "[hypervisor.qemu]\ndefault_memory = 400\nvirtio_fs_extra_args = ['c']\n[runtime]\nenable_debug = true\n",
		"config.d/readme.txt":      "not TOML",
		"config.d/.hidden.toml":    "not TOML",
	})
	got, err := Load(context.Background(), filepath.Join(dir, "configuration.toml"))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Hypervisor.DefaultVCPUs = 2
	want.Hypervisor.DefaultMemoryMiB = 500
	want.Hypervisor.VirtioFSExtraArgs = []string{"c"}
	want.Runtime.Debug = true
	want.Files = []string{
		filepath.Join(dir, "configuration.toml"),
		filepath.Join(dir, "config.d/10-earlier.toml"),
		filepath.Join(dir, "config.d/20-later.toml"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoadSearch(t *testing.T) {
	dir := write(t, map[string]string{
		"second/configuration.toml": "[runtime]\nenable_debug = true\n",
		"third/config.d/a.toml":     "[agent.kata]\ndial_timeout = 7\n",
		"fourth/configuration.toml": "[agent.kata]\ndial_timeout = 8\n",
	})
	in := func(name string) string { return filepath.Join(dir, name, "configuration.toml") }
	tests := []struct {
		name   string
		path   string
		search []string
		files  []string
	}{
		{"first that exists", "", []string{in("first"), in("second"), in("fourth")}, []string{in("second")}},
		{"none", "", []string{in("first"), in("zeroth")}, nil},
		{"drop-ins alone", "", []string{in("third"), in("first")}, []string{filepath.Join(dir, "third/config.d/a.toml")}},
		{"named", in("fourth"), []string{in("second")}, []string{in("fourth")}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := load(context.Background(), test.path, test.search)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.files, got.Files); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLoadEnvironment(t *testing.T) {
	dir := write(t, map[string]string{"a.toml": "[runtime]\nenable_debug = true\n", "b.toml": ""})
	t.Setenv(PathVariable, filepath.Join(dir, "a.toml"))
	got, err := Load(context.Background(), "")
	if err != nil || !got.Runtime.Debug {
		t.Errorf("Load from %s = %+v, %v", PathVariable, got, err)
	}
	got, err = Load(context.Background(), filepath.Join(dir, "b.toml"))
	if err != nil || got.Runtime.Debug {
		t.Errorf("Load of a named file = %+v, %v; the environment must not win", got, err)
	}
}

func TestLoadErrors(t *testing.T) {
	qemu := "[hypervisor.qemu]\n"
	tests := []struct {
		name, text string
		want       []string
	}{
		{"unknown key", qemu + "default_vcpu = 2", []string{"unknown key hypervisor.qemu.default_vcpu", "did you mean hypervisor.qemu.default_vcpus?"}},
		{"key that is like none", "foo = 1", []string{"unknown key foo; kata-runtime env lists"}},
		{"key of another case", qemu + "Default_VCPUs = 2", []string{"unknown key", "hypervisor.qemu.default_vcpus?"}},
		{"wrong table", "[runtime]\ndial_timeout = 2", []string{"unknown key runtime.dial_timeout", "agent.kata.dial_timeout?"}},
		{"unknown table", "[hypervisor.qmu]\npath = '/x'", []string{"unknown key hypervisor.qmu", "hypervisor.qemu"}},
		{"driver", "[hypervisor]\ndriver = 'bochs'", []string{`hypervisor.driver = "bochs"`, `"qemu"`}},
		{"driver in a driver's table", qemu + "driver = 'qemu'", []string{"unknown key hypervisor.qemu.driver", "hypervisor.driver?"}},
		{"two names", "[hypervisor]\nvsock = 'user'\n" + qemu + "vsock = 'user'", []string{"hypervisor.vsock and hypervisor.qemu.vsock", "set one of them"}},
		{"a driver's key", "[hypervisor]\npath = '/x'", []string{"unknown key hypervisor.path", "hypervisor.qemu.path?"}},
		{"value of every driver", "[hypervisor]\ndefault_vcpus = 0", []string{"hypervisor.default_vcpus = 0", "must be 1-255"}},
		{"syntax", qemu + "path = '/x", []string{"line 2"}},
		{"type", qemu + "\ndefault_vcpus = 'two'", []string{"line 3", "default_vcpus", "string", "integer"}},
		{"table for a value", "runtime = 3", []string{"runtime"}},
		{"vcpus low", qemu + "default_vcpus = 0", []string{"hypervisor.qemu.default_vcpus = 0", "must be 1-255"}},
		{"vcpus high", qemu + "default_vcpus = 256", []string{"default_vcpus = 256", "must be 1-255"}},
		{"vcpus above bound", qemu + "default_vcpus = 5\ndefault_maxvcpus = 4", []string{"default_maxvcpus = 4", "must not be below default_vcpus, which is 5"}},
		{"maxvcpus", qemu + "default_maxvcpus = -1", []string{"default_maxvcpus = -1", "must be 0-255"}},
		{"memory low", qemu + "default_memory = 64", []string{"default_memory = 64", "must be 128-"}},
		{"memory above bound", qemu + "default_memory = 512\ndefault_maxmemory = 256", []string{"default_maxmemory = 256: must not be below default_memory, which is 512"}},
		{"maxmemory", qemu + "default_maxmemory = 3", []string{"default_maxmemory = 3", "must be 128-"}},
		{"bridges", qemu + "default_bridges = 5", []string{"default_bridges = 5", "must be 0-4"}},
		{"ports", qemu + "pcie_root_port = 33", []string{"pcie_root_port = 33", "must be 0-32"}},
		{"accelerator", qemu + "accelerator = 'hax'", []string{`accelerator = "hax"`, `"kvm"`, `"tcg"`}},
		{"vsock", qemu + "vsock = ''", []string{`vsock = ""`, `"vhost"`}},
		{"shared_fs", qemu + "shared_fs = 'none'", []string{`shared_fs = "none"`, `"virtio-9p"`}},
		{"cache", qemu + "virtio_fs_cache = 'none'", []string{`virtio_fs_cache = "none"`, `"never"`}},
		{"relative path", qemu + "path = 'qemu'", []string{`path = "qemu"`, "absolute"}},
		{"relative daemon", qemu + "virtio_fs_daemon = 'v'", []string{"virtio_fs_daemon", "absolute"}},
		{"kernel alone", qemu + "kernel = '/k'", []string{"kernel = \"/k\"", "initrd or image must be set too"}},
		{"image alone", qemu + "image = '/k'", []string{"image = \"/k\"", "kernel must be set too"}},
		{"initrd alone", qemu + "initrd = '/k'", []string{"initrd = \"/k\"", "kernel must be set too"}},
		{"kernel params", qemu + "kernel_params = \"a\\nb\"", []string{"kernel_params", "printable"}},
		{"long kernel params", qemu + "kernel_params = '" + strings.Repeat("x", 1025) + "'", []string{"at most 1024"}},
		{"empty argument", qemu + "virtio_fs_extra_args = ['']", []string{"virtio_fs_extra_args", "empty"}},
		{"annotation's pattern", qemu + "enable_annotations = ['kernel_params', 'a)|(b']", []string{"hypervisor.qemu.enable_annotations", "regular expressions", "a)|(b"}},
		{"port off loopback", "[runtime]\nloopback_ports = ['tcp:10.0.0.1:80']", []string{"loopback_ports", "tcp:10.0.0.1:80"}},
		{"users backwards", qemu + "confine_users = '9-8'", []string{`confine_users = "9-8"`, "a range of user ids"}},
		{"root among the users", qemu + "confine_users = '0-8'", []string{"a range of user ids"}},
		{"a part that is none", qemu + "confine_without = ['net', 'nets']", []string{`"nets", which is none of`}},
		{"one user", qemu + "confine_users = '8'", []string{"a range of user ids"}},
		{"boots", "[runtime]\nboots_at_once = -2", []string{"runtime.boots_at_once = -2", "must be -1 to 4096"}},
		{"timeout zero", "[agent.kata]\ndial_timeout = 0", []string{"agent.kata.dial_timeout = 0", "must be 1-3600"}},
		{"timeout overflow", "[agent.kata]\ndial_timeout = 9223372036854775807", []string{"dial_timeout", "must be 1-3600"}},
		{"idle for too long", "[agent.kata]\nidle_cache_timeout = 86401", []string{"idle_cache_timeout = 86401", "0-86400"}},
		{"template of a machine on a disk", "[hypervisor]\nkernel = '/k'\nimage = '/i'\n[factory]\ntemplate = true", []string{"factory.template = true", "must be false with hypervisor.image"}},
		{"timeout negative", "[agent.kata]\ndial_timeout = -5", []string{"dial_timeout = -5", "must be 1-3600"}},
		{"too large", strings.Repeat("#", maxFileSize+1), []string{"larger than"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadText(t, test.text)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range append(test.want, "configuration.toml") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

func TestLoadErrorNamesTheDropIn(t *testing.T) {
	dir := write(t, map[string]string{
		"configuration.toml": "[hypervisor.qemu]\ndefault_vcpus = 2\n",
		"config.d/x.toml":    "[hypervisor.qemu]\ndefault_vcpus = 999\n",
	})
	_, err := Load(context.Background(), filepath.Join(dir, "configuration.toml"))
	if err == nil || !strings.Contains(err.Error(), "config.d/x.toml: hypervisor.qemu.default_vcpus = 999") {
		t.Errorf("error = %v", err)
	}
}

func TestLoadMissingFile(t *testing.T) {
	_, err := Load(context.Background(), filepath.Join(t.TempDir(), "none.toml"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error = %v", err)
	}
}

func TestLoadCancelled(t *testing.T) {
	dir := write(t, map[string]string{"a.toml": ""})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Load(ctx, filepath.Join(dir, "a.toml")); err == nil {
		t.Error("a cancelled Load succeeded")
	}
}
