package config

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// TestOptionsCoverTheStruct walks Config by reflection: each field is an
// option, and each option is a field.
func TestOptionsCoverTheStruct(t *testing.T) {
	want := []string{machineTable + "." + driverKey}
	tables := map[string]reflect.Type{
		machineTable: reflect.TypeFor[Machine](),
		qemuTable:    reflect.TypeFor[QEMU](),
		runtimeTable: reflect.TypeFor[Runtime](),
		agentTable:   reflect.TypeFor[agentTableShape](),
		factoryTable: reflect.TypeFor[Factory](),

		"guest.arm64": reflect.TypeFor[Guest](),
	}
	for table, shape := range tables {
		for i := range shape.NumField() {
			want = append(want, table+"."+shape.Field(i).Tag.Get("toml"))
		}
	}
	var got []string
	for _, option := range Options() {
		got = append(got, option.Name())
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if agent := reflect.TypeFor[Agent](); agent.NumField() != reflect.TypeFor[agentTableShape]().NumField() {
		t.Error("Agent and agentTableShape differ")
	}
	if n := reflect.TypeFor[Config]().NumField(); n != 6 { // and Files
		t.Errorf("Config has %d fields, of which five tables and Files are known", n)
	}
	if n := reflect.TypeFor[Guests]().NumField(); n != 1 {
		t.Errorf("Guests has %d fields, of which one table is known", n)
	}
	if n := reflect.TypeFor[Hypervisor]().NumField(); n != 3 {
		t.Errorf("Hypervisor has %d fields, of which the driver and two tables are known", n)
	}
}

// TestEachOptionIsReadAndWritten sets one option at a time, encodes, loads, and
// expects that option and no other to differ from the default.
func TestEachOptionIsReadAndWritten(t *testing.T) {
	values := map[string]string{
		"hypervisor.driver":                     `"qemu"`,
		"hypervisor.architecture":               `"arm64"`,
		"hypervisor.qemu.path":                  `"/x"`,
		"guest.arm64.path":                      `"/x"`,
		"guest.arm64.modules":                   `"/m"`,
		"hypervisor.kernel_params":              `"quiet \"x\""`,
		"hypervisor.modules":                    `"/m"`,
		"hypervisor.deny_modules":               `["rds", "n_gsm"]`,
		"hypervisor.accelerator":                `"kvm"`,
		"hypervisor.vsock":                      `"vhost"`,
		"hypervisor.default_vcpus":              `3`,
		"hypervisor.default_maxvcpus":           `4`,
		"hypervisor.default_memory":             `1000`,
		"hypervisor.default_maxmemory":          `4000`,
		"hypervisor.qemu.pcie_root_port":        `4`,
		"hypervisor.qemu.default_bridges":       `2`,
		"hypervisor.shared_fs":                  `"virtio-fs"`,
		"hypervisor.virtio_fs_daemon":           `"/v"`,
		"hypervisor.virtio_fs_cache":            `"always"`,
		"hypervisor.virtio_fs_notify":           `true`,
		"hypervisor.virtio_fs_extra_args":       `["a", "b c"]`,
		"agent.kata.dial_timeout":               `9`,
		"agent.kata.debug_console_enabled":      `true`,
		"agent.kata.idle_cache_timeout":         `0`,
		"agent.kata.apparmor_policies":          `"/a"`,
		"agent.kata.selinux_policy":             `"/s"`,
		"runtime.enable_debug":                  `true`,
		"runtime.overhead_memory":               `640`,
		"runtime.overhead_vcpus":                `2`,
		"runtime.boots_at_once":                 `-1`,
		"runtime.static_sandbox_resource_mgmt":  `true`,
		"runtime.disable_socket_relay":          `true`,
		"runtime.internetworking_model":         `"macvtap"`,
		"runtime.host_network":                  `"passt"`,
		"runtime.host_network_tcp_ports":        `"80,8000-8010"`,
		"runtime.host_network_udp_ports":        `"all"`,
		"hypervisor.disable_vhost_net":          `true`,
		"hypervisor.reclaim_guest_freed_memory": `false`,
		"hypervisor.confine":                    `false`,
		"hypervisor.confine_users":              `"70000-70009"`,
		"hypervisor.confine_without":            `["net", "system_calls"]`,
		"hypervisor.confine_agent":              `false`,
		"hypervisor.log_refused_calls":          `true`,
		"hypervisor.enable_annotations":         `["default_.*", "runtime\\\\.x"]`,
		"runtime.loopback_ports":                `["tcp:8080", "udp:127.0.0.11:53"]`,
		"factory.pool_size":                     `3`,
		"factory.template":                      `true`,
		"factory.max_load":                      `0`,
		"factory.min_memory":                    `64`,
		"factory.dir":                           `"/d"`,
	}
	for _, option := range Options() {
		if option.Key == "kernel" || option.Key == "initrd" || option.Key == "image" || option.Key == "kernel_modules" {
			continue // not by itself: TestLoadEveryOption, TestLoadImage
		}
		t.Run(option.Name(), func(t *testing.T) {
			value := values[option.Name()]
			config, err := loadText(t, "["+option.Table+"]\n"+option.Key+" = "+value+"\n")
			if err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer
			if err := config.Encode(&text); err != nil {
				t.Fatal(err)
			}
			again, err := loadText(t, text.String())
			if err != nil {
				t.Fatalf("%v in\n%s", err, &text)
			}
			for _, other := range Options() {
				got, rest := tomlValue(other.get(again)), tomlValue(other.Default)
				if other.Name() == option.Name() {
					rest = value
				}
				if got != rest {
					t.Errorf("%s = %s, want %s", other.Name(), got, rest)
				}
			}
		})
	}
}

func TestOptionsAreDocumented(t *testing.T) {
	for _, option := range Options() {
		if !strings.HasSuffix(option.Meaning, ".") || option.Values == "" {
			t.Errorf("%s: Meaning is no sentence, or Values is empty", option.Name())
		}
		if strings.ContainsAny(option.Meaning+option.Values, "|\n") {
			t.Errorf("%s: its text breaks the table", option.Name())
		}
		if first, _ := utf8.DecodeRuneInString(option.Meaning); unicode.IsSpace(first) {
			t.Errorf("%s: Meaning starts with a space", option.Name())
		}
	}
}

func TestDocumentationIsUpToDate(t *testing.T) {
	var want bytes.Buffer
	if err := Document(&want); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(got)); diff != "" {
		t.Errorf("run go generate ./virtcontainers/config:\n%s", diff)
	}
}

func TestDefaultIsValidAndEncodes(t *testing.T) {
	var text bytes.Buffer
	config := Default()
	config.Files = []string{"/a \"b\""}
	if err := config.Encode(&text); err != nil {
		t.Fatal(err)
	}
	dir := write(t, map[string]string{"c.toml": text.String()})
	again, err := Load(context.Background(), filepath.Join(dir, "c.toml"))
	if err != nil {
		t.Fatal(err)
	}
	again.Files = config.Files
	config.Hypervisor.VirtioFSExtraArgs = []string{}
	config.Hypervisor.EnableAnnotations = []string{}
	config.Runtime.LoopbackPorts = []string{}
	if diff := cmp.Diff(config, again); diff != "" {
		t.Error(diff)
	}
}

func TestMaxVCPUs(t *testing.T) {
	h := Machine{DefaultVCPUs: 1, DefaultMaxVCPUs: 7}
	if got := h.MaxVCPUs(); got != 7 {
		t.Errorf("MaxVCPUs() = %d, want the configured 7", got)
	}
	h = Machine{DefaultVCPUs: 200}
	if got := h.MaxVCPUs(); got < 200 || got > maxVCPUs {
		t.Errorf("MaxVCPUs() = %d, want at least the 200 that a VM starts with", got)
	}
}
