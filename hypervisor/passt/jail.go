package passt

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/jail"
)

const (
	// nobody is whom passt becomes by itself.
	nobody = 65534
	// maxFiles is more than passt takes: two for each of the 128 Ki connections that
	// it knows at most would be more than a host has for one pod.
	maxFiles = 1 << 15
	// maxThreads: it has one.
	maxThreads = 16
)

// confine makes cmd, which starts passt, one of a jailed passt. It keeps the network
// namespace, which it serves, and nothing else of the host's; no capability but for
// ports that others may not bind to.
//
// Before it hears from the guest, passt makes a user namespace of its own and an empty
// mount namespace in it, gives up the capabilities that it has there, and lets the
// kernel filter its system calls by a list. No filter of the jail's comes before, which
// would forbid those steps.
func confine(ctx context.Context, cmd *exec.Cmd, o *Options) error {
	if o.Jail == nil {
		return nil
	}
	program := cmd.Path
	// What passt becomes on a processor with AVX2, if its package has it.
	fast := program + ".avx2"
	files, err := jail.Remember(o.Jail.Dir, program, func() ([]string, error) { return []string{fast}, nil }, func() ([]string, error) {
		libraries, err := jail.Libraries(ctx, program)
		files := slices.Concat(libraries, []string{program})
		if _, statErr := os.Stat(fast); statErr == nil {
			files = append(files, fast)
		}
		return files, err
	})
	if err != nil {
		return err
	}
	spec := jail.Spec{
		Namespaces: jail.Names | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		// It looks at itself in /proc, and mounts its empty root on /tmp.
		Root: &jail.Root{Files: files, Self: true, Directories: []string{"/tmp"}},
		User: o.Jail.User, MaxFiles: maxFiles, MaxThreads: maxThreads,
		Without: o.Jail.Without, Step: o.Jail.Step,
	}
	if spec.User == 0 {
		spec.User, spec.MaxThreads = nobody, 0 // which counts those of all who are nobody
	}
	if first := firstUnprivileged(); bindsBelow(o.TCPPorts, first) || bindsBelow(o.UDPPorts, first) {
		spec.Capabilities = []uintptr{unix.CAP_NET_BIND_SERVICE}
	}
	return jail.Confine(cmd, spec)
}

// firstUnprivileged is the first port that everybody may bind to.
func firstUnprivileged() int {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return 1024
	}
	first, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 1024
	}
	return first
}

// bindsBelow tells whether a list of ports, as passt takes it, may have one below
// another. It need not understand all that passt does: what it cannot read has one.
func bindsBelow(ports string, first int) bool {
	if ports == "none" || ports == "" {
		return false
	}
	for part := range strings.SplitSeq(ports, ",") {
		lowest, _, _ := strings.Cut(part, ":") // the guest's port follows
		lowest, _, _ = strings.Cut(lowest, "-")
		if port, err := strconv.Atoi(lowest); err != nil || port < first {
			return true
		}
	}
	return false
}
