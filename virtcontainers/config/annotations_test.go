package config

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// host is a configuration that permits annotations and bounds them.
func host(patterns ...string) *Config {
	c := Default()
	c.Hypervisor.DefaultVCPUs, c.Hypervisor.DefaultMaxVCPUs = 2, 4
	c.Hypervisor.DefaultMemoryMiB, c.Hypervisor.DefaultMaxMemoryMiB = 512, 1024
	c.Hypervisor.KernelParams = "quiet"
	c.Hypervisor.EnableAnnotations = patterns
	return c
}

func TestForPod(t *testing.T) {
	all := []string{".*"}
	tests := map[string]struct {
		patterns    []string
		annotations map[string]string // of AnnotationPrefix, unless they have a "/"
		change      func(*Config)
	}{
		"none":                       {},
		"others":                     {annotations: map[string]string{"/io.kubernetes.cri.container-type": "sandbox", "/io.katacontainers.pkg.oci.bundle_path": "/x"}},
		"vcpus":                      {all, map[string]string{"hypervisor.default_vcpus": "3"}, func(c *Config) { c.Hypervisor.DefaultVCPUs = 3 }},
		"fewer vcpus":                {all, map[string]string{"hypervisor.default_vcpus": "1.0"}, func(c *Config) { c.Hypervisor.DefaultVCPUs = 1 }},
		"a fraction":                 {all, map[string]string{"hypervisor.default_vcpus": "2.25"}, func(c *Config) { c.Hypervisor.DefaultVCPUs = 3 }},
		"as many as may be":          {all, map[string]string{"hypervisor.default_vcpus": "4"}, func(c *Config) { c.Hypervisor.DefaultVCPUs = 4 }},
		"lower bound":                {all, map[string]string{"hypervisor.default_max_vcpus": "2"}, func(c *Config) { c.Hypervisor.DefaultMaxVCPUs = 2 }},
		"memory":                     {all, map[string]string{"hypervisor.default_memory": "1024"}, func(c *Config) { c.Hypervisor.DefaultMemoryMiB = 1024 }},
		"kernel parameters":          {all, map[string]string{"hypervisor.kernel_params": " panic=1  x "}, func(c *Config) { c.Hypervisor.KernelParams = "quiet  panic=1  x" }},
		"no kernel parameters":       {all, map[string]string{"hypervisor.kernel_params": ""}, nil},
		"shared file system":         {all, map[string]string{"hypervisor.shared_fs": "virtio-9p"}, func(c *Config) { c.Hypervisor.SharedFS = SharedFS9P }},
		"cache":                      {all, map[string]string{"hypervisor.virtio_fs_cache": "never"}, func(c *Config) { c.Hypervisor.VirtioFSCache = "never" }},
		"notify":                     {all, map[string]string{"hypervisor.virtio_fs_notify": "true"}, func(c *Config) { c.Hypervisor.VirtioFSNotify = true }},
		"freed memory":               {all, map[string]string{"hypervisor.reclaim_guest_freed_memory": "false"}, func(c *Config) { c.Hypervisor.ReclaimFreedMemory = false }},
		"vhost":                      {all, map[string]string{"hypervisor.disable_vhost_net": "true"}, func(c *Config) { c.Hypervisor.DisableVhostNet = true }},
		"ports":                      {all, map[string]string{"hypervisor.pcie_root_port": "2"}, func(c *Config) { c.Hypervisor.QEMU.PCIeRootPorts = 2 }},
		"network":                    {all, map[string]string{"runtime.internetworking_model": "macvtap"}, func(c *Config) { c.Runtime.NetworkModel = NetworkMacvtap }},
		"network by name":            {[]string{`runtime\..*`}, map[string]string{"runtime.internetworking_model": "none"}, func(c *Config) { c.Runtime.NetworkModel = NetworkNone }},
		"two":                        {[]string{"x", "default_memory|default_vcpus"}, map[string]string{"hypervisor.default_vcpus": "1", "hypervisor.default_memory": "256"}, func(c *Config) { c.Hypervisor.DefaultVCPUs, c.Hypervisor.DefaultMemoryMiB = 1, 256 }},
		"both ends":                  {all, map[string]string{"hypervisor.default_vcpus": "3", "hypervisor.default_max_vcpus": "3"}, func(c *Config) { c.Hypervisor.DefaultVCPUs, c.Hypervisor.DefaultMaxVCPUs = 3, 3 }},
		"a list of Kata Containers'": {[]string{"enable_iommu", "kernel_params"}, map[string]string{"hypervisor.kernel_params": "x"}, func(c *Config) { c.Hypervisor.KernelParams = "quiet x" }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			given, want := host(test.patterns...), host(test.patterns...)
			if test.change != nil {
				test.change(want)
			}
			got, err := given.ForPod(prefixed(test.annotations))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(host(test.patterns...), given); diff != "" {
				t.Errorf("the host's configuration has changed: %s", diff)
			}
		})
	}
}

func prefixed(annotations map[string]string) map[string]string {
	full := make(map[string]string)
	for name, value := range annotations {
		if other, ok := strings.CutPrefix(name, "/"); ok {
			full[other] = value
		} else {
			full[AnnotationPrefix+name] = value
		}
	}
	return full
}

func TestForPodRefuses(t *testing.T) {
	all := []string{".*"}
	tests := map[string]struct {
		patterns    []string
		name, value string
		want        string
	}{
		"by default":              {nil, "hypervisor.default_vcpus", "1", `hypervisor.enable_annotations in the configuration has to list "default_vcpus"`},
		"another is permitted":    {[]string{"default_memory"}, "hypervisor.default_vcpus", "1", "is not enabled"},
		"a part of the name":      {[]string{"kernel", "params"}, "hypervisor.kernel_params", "x", "is not enabled"},
		"an alternative's part":   {[]string{"x|kernel"}, "hypervisor.kernel_params", "x", "is not enabled"},
		"with the prefix":         {[]string{"hypervisor.default_vcpus"}, "hypervisor.default_vcpus", "1", "is not enabled"},
		"network by default":      {[]string{"internetworking_model"}, "runtime.internetworking_model", "none", `has to list "runtime.internetworking_model"`},
		"pattern that is none":    {[]string{"a)|(.*"}, "hypervisor.default_vcpus", "1", "is not enabled"},
		"unknown":                 {all, "hypervisor.default_vcpu", "1", "is unknown; those after"},
		"unknown to this runtime": {all, "hypervisor.enable_iommu", "true", "is unknown"},
		"unknown agent's":         {all, "agent.kernel_modules", "e1000e", "is unknown"},
		"unknown runtime's":       {all, "runtime.disable_guest_seccomp", "true", "is unknown"},
		"no name":                 {all, "", "", "is unknown"},
		"another case":            {all, "hypervisor.Default_VCPUs", "1", "is unknown"},
		"a newline":               {all, "hypervisor.default_vcpus\n", "1", `default_vcpus\n": is unknown`},
		"a long name":             {all, strings.Repeat("x", 100000), "1", `xxx"...: is unknown`},
		"configuration file":      {all, "/io.katacontainers.config_path", "/tmp/x.toml", "cannot choose files"},
		"host's network":          {all, "runtime.host_network", "passt", "is unknown"},
		"the list itself":         {all, "hypervisor.enable_annotations", ".*", "is unknown"},

		"vcpus above":     {all, "hypervisor.default_vcpus", "5", `is "5", and must not be above 4`},
		"vcpus above all": {all, "hypervisor.default_vcpus", "256", "must be 1-255"},
		"fraction above":  {all, "hypervisor.default_vcpus", "4.1", "must not be above 4"},
		"no vcpus":        {all, "hypervisor.default_vcpus", "0", "must be 1-255"},
		"negative":        {all, "hypervisor.default_vcpus", "-1", "not a number"},
		"not a number":    {all, "hypervisor.default_vcpus", "NaN", "not a number"},
		"infinite":        {all, "hypervisor.default_vcpus", "Inf", "not a number"},
		"exponent":        {all, "hypervisor.default_vcpus", "1e2", "not a number"},
		"dot":             {all, "hypervisor.default_vcpus", "1.", "not a number"},
		"two dots":        {all, "hypervisor.default_vcpus", "1.0.0", "not a number"},
		"overflow":        {all, "hypervisor.default_vcpus", "18446744073709551617", "not a number"},
		"no bound":        {all, "hypervisor.default_max_vcpus", "255", "must not be above 4"},
		"memory above":    {all, "hypervisor.default_memory", "1025", "must not be above 1024"},
		"memory below":    {all, "hypervisor.default_memory", "127", "must be 128-"},
		"memory overflow": {all, "hypervisor.default_memory", "4294967808", "not a number"},
		"memory's unit":   {all, "hypervisor.default_memory", "512Mi", "not a number"},
		"bound below":     {all, "hypervisor.default_max_vcpus", "1", "must not be below default_vcpus, which is 2"},
		"ports":           {all, "hypervisor.pcie_root_port", "33", "must be 0-32"},
		"bool":            {all, "hypervisor.disable_vhost_net", "yes", "not true or false"},
		"file system":     {all, "hypervisor.shared_fs", "none", "must be one of"},
		"cache":           {all, "hypervisor.virtio_fs_cache", "", "must be one of"},
		"network":         {all, "runtime.internetworking_model", "bridged", "must be one of"},
		"control":         {all, "hypervisor.kernel_params", "a\x00b", "printable"},
		"newline":         {all, "hypervisor.kernel_params", "a\nb", "printable"},
		"long":            {all, "hypervisor.kernel_params", strings.Repeat("x", 1020), "at most 1024"},
		"token":           {all, "hypervisor.kernel_params", "x kata.token=0", "the runtime's own"},
		"quoted token":    {all, "hypervisor.kernel_params", `x=" kata.token=0"`, "the runtime's own"},
	}
	for _, name := range hostAnnotations() {
		tests[name] = struct {
			patterns    []string
			name, value string
			want        string
		}{append(all, name, strings.TrimPrefix(name, "hypervisor.")), name, "/tmp/evil", "cannot choose files, programs"}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			annotations := prefixed(map[string]string{test.name: test.value})
			got, err := host(test.patterns...).ForPod(annotations)
			var wrong *AnnotationError
			if !errors.As(err, &wrong) || got != nil {
				t.Fatalf("%v, %v", got, err)
			}
			full := slices.Collect(maps.Keys(annotations))[0]
			if wrong.Annotation != full || !strings.Contains(err.Error(), full) && strings.TrimSpace(full) == full && len(full) < 200 || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q lacks %q", err, test.want)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

// Without a bound in the configuration, the host is the bound.
func TestForPodIsBoundByTheHost(t *testing.T) {
	c := Default()
	c.Hypervisor.EnableAnnotations = []string{".*"}
	for _, name := range []string{"default_vcpus", "default_max_vcpus"} {
		if got, err := c.ForPod(prefixed(map[string]string{"hypervisor." + name: "255"})); err == nil && c.Hypervisor.MaxVCPUs() < 255 {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, err := c.ForPod(prefixed(map[string]string{"hypervisor.default_memory": "16777216"})); err == nil {
		t.Error("16 TiB")
	}
	c.Hypervisor.DefaultMaxVCPUs = 1
	got, err := c.ForPod(prefixed(map[string]string{"hypervisor.default_max_vcpus": "0"}))
	if err == nil && got.Hypervisor.MaxVCPUs() > 1 {
		t.Errorf("0 has raised the bound to %d", got.Hypervisor.MaxVCPUs())
	}
}

// What a pod sets must be an option, and none of the host's.
func TestPodSettingsAreOptions(t *testing.T) {
	known := make(map[string]bool)
	for _, option := range Options() {
		known[option.Name()] = true
	}
	for _, setting := range podSettings() {
		if !known[setting.option] || slices.Contains(hostAnnotations(), setting.name) {
			t.Errorf("%s sets %s", setting.name, setting.option)
		}
	}
}

func FuzzForPod(f *testing.F) {
	for _, setting := range podSettings() {
		for _, value := range []string{"", "0", "1", "4", "1.5", "4096", "true", "virtio-9p", "never", "none", "a=b c", "-1", "1e9"} {
			f.Add(setting.name, value, "default_vcpus", "3")
		}
	}
	for _, name := range hostAnnotations() {
		f.Add(name, "/bin/sh", "kernel_params", "x")
	}
	f.Fuzz(func(t *testing.T, name, value, name2, value2 string) {
		base := host(".*")
		got, err := base.ForPod(prefixed(map[string]string{name: value, "hypervisor." + name2: value2}))
		if diff := cmp.Diff(host(".*"), base); diff != "" {
			t.Fatal(diff)
		}
		if err != nil {
			var wrong *AnnotationError
			if !errors.As(err, &wrong) {
				t.Fatal(err)
			}
			return
		}
		if err := got.validate(nil); err != nil {
			t.Fatal(err)
		}
		if got.Hypervisor.MaxVCPUs() > base.Hypervisor.MaxVCPUs() || got.Hypervisor.MaxMemoryMiB() > base.Hypervisor.MaxMemoryMiB() ||
			!strings.HasPrefix(got.Hypervisor.KernelParams, base.Hypervisor.KernelParams) {
			t.Fatalf("%+v", got)
		}
		// All but what a pod may set is the host's.
		got.Hypervisor.DefaultVCPUs, got.Hypervisor.DefaultMaxVCPUs = base.Hypervisor.DefaultVCPUs, base.Hypervisor.DefaultMaxVCPUs
		got.Hypervisor.DefaultMemoryMiB, got.Hypervisor.KernelParams = base.Hypervisor.DefaultMemoryMiB, base.Hypervisor.KernelParams
		got.Hypervisor.VirtioFSNotify = base.Hypervisor.VirtioFSNotify
		got.Hypervisor.SharedFS, got.Hypervisor.VirtioFSCache = base.Hypervisor.SharedFS, base.Hypervisor.VirtioFSCache
		got.Hypervisor.ReclaimFreedMemory = base.Hypervisor.ReclaimFreedMemory
		got.Hypervisor.DisableVhostNet, got.Hypervisor.QEMU.PCIeRootPorts = base.Hypervisor.DisableVhostNet, base.Hypervisor.QEMU.PCIeRootPorts
		got.Runtime.NetworkModel = base.Runtime.NetworkModel
		var before, after bytes.Buffer
		if err := errors.Join(base.Encode(&before), got.Encode(&after)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before.String(), after.String()); diff != "" {
			t.Fatal(diff)
		}
	})
}
