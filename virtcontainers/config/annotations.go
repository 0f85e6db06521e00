package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	// AnnotationPrefix begins the names of the annotations by which a pod
	// changes the configuration of its own VM. They are Kata Containers'.
	AnnotationPrefix = "io.katacontainers.config."
	// pathAnnotation lets a pod of Kata Containers name a configuration file.
	pathAnnotation = "io.katacontainers.config_path"

	hypervisorAnnotations = "hypervisor."
	annotationsKey        = "enable_annotations"
	// maxShownValue bounds what an error repeats of a pod's value.
	maxShownValue = 80
	// maxShownName is the same for names; Kubernetes has shorter ones.
	maxShownName = 320
)

// AnnotationError is why a pod's annotation cannot be followed.
type AnnotationError struct {
	// Annotation is its name.
	Annotation string
	// Reason says what is wrong with it, and what to do.
	Reason string
}

// Error implements error.
func (e *AnnotationError) Error() string {
	name := shown(e.Annotation)
	if quoted := strconv.Quote(e.Annotation); len(e.Annotation) <= maxShownName && len(quoted) == len(e.Annotation)+2 {
		name = e.Annotation // as it is written in a pod's manifest
	}
	return fmt.Sprintf("annotation %s: %s", name, e.Reason)
}

// podSetting is what a pod may set by an annotation, if the configuration permits
// that.
type podSetting struct {
	// name is the annotation's, after AnnotationPrefix.
	name string
	// option is the name of the option that is set.
	option string
	// values says in words what else than the option's values is allowed; empty:
	// nothing.
	values string
	// set returns what is wrong with the text, or "".
	set func(c *Config, value string) string
	// bound holds the pod's configuration against the host's; nil: no bound.
	bound func(host, pod *Config) string
}

// podSettings lists every annotation that is followed. None may name a file or
// a program of the host, or open the host's network.
func podSettings() []podSetting {
	return []podSetting{
		{
			name: "hypervisor.default_vcpus", option: "hypervisor.default_vcpus",
			values: "A fraction is rounded up. At most what the configuration lets a VM grow to (`default_maxvcpus`).",
			set:    func(c *Config, value string) string { return setCPUs(&c.Hypervisor.DefaultVCPUs, value) },
			bound: func(host, pod *Config) string {
				return notAbove(pod.Hypervisor.DefaultVCPUs, host.Hypervisor.MaxVCPUs(), "default_maxvcpus")
			},
		},
		{
			name: "hypervisor.default_max_vcpus", option: "hypervisor.default_maxvcpus",
			values: "At most the configuration's own.",
			set:    func(c *Config, value string) string { return setNumber(&c.Hypervisor.DefaultMaxVCPUs, value) },
			bound: func(host, pod *Config) string {
				wanted := Machine{DefaultMaxVCPUs: pod.Hypervisor.DefaultMaxVCPUs}
				return notAbove(wanted.MaxVCPUs(), host.Hypervisor.MaxVCPUs(), "default_maxvcpus")
			},
		},
		{
			name: "hypervisor.default_memory", option: "hypervisor.default_memory",
			values: "At most what the configuration lets a VM grow to (`default_maxmemory`).",
			set:    func(c *Config, value string) string { return setNumber(&c.Hypervisor.DefaultMemoryMiB, value) },
			bound: func(host, pod *Config) string {
				return notAbove(pod.Hypervisor.DefaultMemoryMiB, host.Hypervisor.MaxMemoryMiB(), "default_maxmemory")
			},
		},
		{
			name: "hypervisor.reclaim_guest_freed_memory", option: "hypervisor.reclaim_guest_freed_memory",
			set: func(c *Config, value string) string { return setBool(&c.Hypervisor.ReclaimFreedMemory, value) },
		},
		{
			name: "hypervisor.kernel_params", option: "hypervisor.kernel_params",
			values: "They are appended to the configuration's. None that begins with `kata.`, which are the runtime's own.",
			set:    addKernelParams,
		},
		{
			name: "hypervisor.shared_fs", option: "hypervisor.shared_fs",
			set: func(c *Config, value string) string { return setText(&c.Hypervisor.SharedFS, value) },
		},
		{
			name: "hypervisor.virtio_fs_cache", option: "hypervisor.virtio_fs_cache",
			set: func(c *Config, value string) string { return setText(&c.Hypervisor.VirtioFSCache, value) },
		},
		{
			name: "hypervisor.virtio_fs_notify", option: "hypervisor.virtio_fs_notify",
			set: func(c *Config, value string) string { return setBool(&c.Hypervisor.VirtioFSNotify, value) },
		},
		{
			name: "hypervisor.disable_vhost_net", option: "hypervisor.disable_vhost_net",
			set: func(c *Config, value string) string { return setBool(&c.Hypervisor.DisableVhostNet, value) },
		},
		{
			name: "hypervisor.pcie_root_port", option: "hypervisor.qemu.pcie_root_port",
			set: func(c *Config, value string) string { return setNumber(&c.Hypervisor.QEMU.PCIeRootPorts, value) },
		},
		{
			name: "runtime.internetworking_model", option: "runtime.internetworking_model",
			set: func(c *Config, value string) string { return setText(&c.Runtime.NetworkModel, value) },
		},
	}
}

// hostAnnotations are those of Kata Containers that name a file or a program of
// the host, or are arguments of one.
func hostAnnotations() []string {
	return []string{
		"hypervisor.path", "hypervisor.jailer_path", "hypervisor.ctlpath",
		"hypervisor.kernel", "hypervisor.initrd", "hypervisor.image", "hypervisor.firmware", "hypervisor.firmware_volume",
		"hypervisor.virtio_fs_daemon", "hypervisor.virtio_fs_extra_args",
		"hypervisor.entropy_source", "hypervisor.file_mem_backend", "hypervisor.vhost_user_store_path",
	}
}

// ForPod returns the configuration for a pod with these annotations, which are
// its sandbox's: c, changed by those that begin with AnnotationPrefix. Each must
// be one that is followed, match EnableAnnotations, and have a value that the
// configuration itself might have, within its bounds. The error is an
// *AnnotationError.
func (c *Config) ForPod(annotations map[string]string) (*Config, error) {
	if _, ok := annotations[pathAnnotation]; ok {
		return nil, &AnnotationError{pathAnnotation, notOfPods}
	}
	pod := *c
	var settings []podSetting
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		short, ok := strings.CutPrefix(name, AnnotationPrefix)
		if !ok {
			continue
		}
		setting, wrong := c.permitted(short)
		if wrong == "" {
			wrong = setting.set(&pod, annotations[name])
		}
		if wrong != "" {
			return nil, &AnnotationError{name, wrong}
		}
		settings = append(settings, setting)
	}
	for _, setting := range settings {
		if wrong := setting.check(c, &pod); wrong != "" {
			name := AnnotationPrefix + setting.name
			return nil, &AnnotationError{name, fmt.Sprintf("is %s, and %s", shown(annotations[name]), wrong)}
		}
	}
	return &pod, nil
}

// notOfPods is the error's reason for what is the host's.
const notOfPods = "a pod cannot choose files, programs and arguments of the host, whatever " + annotationsKey +
	" says; make a runtime handler that has a configuration of its own"

// permitted finds what an annotation sets, or says why it must not.
func (c *Config) permitted(name string) (_ podSetting, wrong string) {
	settings := podSettings()
	i := slices.IndexFunc(settings, func(s podSetting) bool { return s.name == name })
	switch {
	case slices.Contains(hostAnnotations(), name):
		return podSetting{}, notOfPods
	case i < 0:
		known := make([]string, len(settings))
		for j, s := range settings {
			known[j] = s.name
		}
		return podSetting{}, fmt.Sprintf("is unknown; those after %q are %s", AnnotationPrefix, strings.Join(known, ", "))
	}
	listed := listedName(name)
	if !slices.ContainsFunc(c.Hypervisor.EnableAnnotations, func(pattern string) bool { return matchesWhole(pattern, listed) }) {
		return podSetting{}, fmt.Sprintf("is not enabled; %s.%s in the configuration has to list %q", machineTable, annotationsKey, listed)
	}
	return settings[i], ""
}

// listedName is what EnableAnnotations has to match. Kata Containers' list has the
// names of the hypervisor's without a prefix, and none of other annotations, which
// it lets pass.
func listedName(name string) string { return strings.TrimPrefix(name, hypervisorAnnotations) }

// matchesWhole tells whether a regular expression matches all of a text: one that
// permits "kernel" does not permit "kernel_params".
func matchesWhole(pattern, text string) bool {
	if annotationPatterns([]string{pattern}) != "" {
		return false
	}
	return regexp.MustCompile(`\A(?:` + pattern + `)\z`).MatchString(text)
}

// check validates what a setting has set as a file's value is, and against the
// host's configuration.
func (s *podSetting) check(host, pod *Config) string {
	for _, option := range Options() {
		if option.Name() == s.option {
			if wrong := option.check(pod); wrong != "" {
				return wrong
			}
		}
	}
	if s.bound == nil {
		return ""
	}
	return s.bound(host, pod)
}

func podOptions() []Option {
	return []Option{{
		Table: machineTable, Key: annotationsKey,
		Values: "a list of regular expressions",
		Meaning: "By which annotations pods may change the configuration of their own VM: see [Pod annotations](#pod-annotations). " +
			"Each expression has to match a whole name.",
		get:   func(c *Config) any { return c.Hypervisor.EnableAnnotations },
		check: func(c *Config) string { return annotationPatterns(c.Hypervisor.EnableAnnotations) },
	}}
}

func annotationPatterns(patterns []string) string {
	for _, pattern := range patterns {
		if _, err := regexp.Compile(pattern); err != nil {
			return "must hold regular expressions: " + err.Error()
		}
	}
	return ""
}

func notAbove(value, bound int, key string) string {
	if value > bound {
		return fmt.Sprintf("must not be above %d, what the configuration lets a VM have (%s)", bound, key)
	}
	return ""
}

func setNumber(field *int, value string) string {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return fmt.Sprintf("is %s, not a number", shown(value))
	}
	*field = int(n)
	return ""
}

// setCPUs reads what Kata Containers reads there, such as "1.5": a VM has whole
// ones.
func setCPUs(field *int, value string) string {
	whole, fraction, pointed := strings.Cut(value, ".")
	n, err := strconv.ParseUint(whole, 10, 30)
	if err != nil || pointed && strings.Trim(fraction, "0123456789") != "" || pointed && fraction == "" {
		return fmt.Sprintf("is %s, not a number", shown(value))
	}
	if strings.Trim(fraction, "0") != "" {
		n++
	}
	*field = int(n)
	return ""
}

func setText(field *string, value string) string {
	*field = value
	return ""
}

func setBool(field *bool, value string) string {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return fmt.Sprintf("is %s, not true or false", shown(value))
	}
	*field = b
	return ""
}

func addKernelParams(c *Config, value string) string {
	for param := range strings.FieldsSeq(value) {
		if strings.HasPrefix(param, "kata.") {
			return fmt.Sprintf("has %s, but parameters that begin with kata. are the runtime's own", shown(param))
		}
	}
	c.Hypervisor.KernelParams = strings.TrimSpace(c.Hypervisor.KernelParams + " " + value)
	return ""
}

// shown quotes a pod's text for a message.
func shown(value string) string {
	if len(value) > maxShownValue {
		return strconv.Quote(value[:maxShownValue]) + "..."
	}
	return strconv.Quote(value)
}
