package pool

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/config"
)

// Kind is the front end whose process has prepared a machine, and is to own it.
type Kind string

// The front ends.
const (
	Supervisor Kind = "supervisor" // of the OCI commands
	Shim       Kind = "shim"       // containerd's
)

// Fit is what has to be the same in a machine and for the pod that takes it.
type Fit struct {
	Kind Kind `json:"kind"`
	// Source is where the configuration comes from. Machines of another one are
	// another pool's.
	Source string `json:"source"`
	// Config is a digest of what the configuration says of a machine.
	Config string `json:"config"`
	// Files is a digest of which files a machine is made from: programs, kernel, image,
	// and devices of the host.
	Files string `json:"files"`
	// Surroundings is a digest of what a process has of its parent, and a process that
	// has none of it cannot get later: namespaces, capabilities, CPUs.
	Surroundings string `json:"surroundings"`
}

// Describe tells what fits a pod with this configuration, whose kernel and image are
// known. program is the front end's, programs are the paths of those that a machine
// consists of.
func Describe(kind Kind, settings *config.Config, program string, programs []string) (Fit, error) {
	digest, err := DigestConfig(settings)
	if err != nil {
		return Fit{}, err
	}
	surroundings, err := surroundings("/proc/self")
	if err != nil {
		return Fit{}, fmt.Errorf("find what this process has of its parent: %w", err)
	}
	paths := append([]string{
		settings.Hypervisor.Kernel, cmp.Or(settings.Hypervisor.Initrd, settings.Hypervisor.Image),
		"/dev/kvm", "/dev/vhost-vsock", "/dev/vhost-net", "/dev/net/tun",
	}, programs...)
	if program, err = filepath.EvalSymlinks(program); err != nil {
		return Fit{}, fmt.Errorf("find the program of prepared machines: %w", err)
	}
	files, err := identities(append(paths, program))
	if err != nil {
		return Fit{}, err
	}
	return Fit{
		Kind: kind, Source: strings.Join(settings.Files, ","), Config: digest, Files: digestOf(files), Surroundings: digestOf(surroundings),
	}, nil
}

// DigestConfig is Fit.Config of a configuration: of what a machine is made from. The
// rest a pod may have of its own.
func DigestConfig(settings *config.Config) (string, error) {
	of := struct {
		Hypervisor config.Hypervisor
		Network    string
		Debug      bool
	}{settings.Hypervisor, settings.Runtime.NetworkModel, settings.Runtime.Debug}
	of.Hypervisor.EnableAnnotations = nil
	data, err := json.Marshal(of)
	if err != nil {
		return "", fmt.Errorf("encode the configuration: %w", err)
	}
	return digestOf(data), nil
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}

// identities tells files apart from what they were before an update.
func identities(paths []string) ([]byte, error) {
	var text bytes.Buffer
	for _, path := range paths {
		var stat unix.Stat_t
		err := unix.Stat(path, &stat)
		switch {
		case err == nil && stat.Mode&unix.S_IFMT != unix.S_IFREG: // times of a device change with its use
			fmt.Fprintf(&text, "%s mode %o device %d\n", path, stat.Mode, stat.Rdev)
		case err == nil:
			fmt.Fprintf(&text, "%s %d:%d %d %v %v\n", path, stat.Dev, stat.Ino, stat.Size, stat.Mtim, stat.Ctim)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			fmt.Fprintf(&text, "%s none\n", path)
		default:
			return nil, &os.PathError{Op: "stat", Path: path, Err: err}
		}
	}
	return text.Bytes(), nil
}

// surroundings lists what a process has of its parent, in dir of proc(5).
func surroundings(dir string) ([]byte, error) {
	var text bytes.Buffer
	namespaces, err := os.ReadDir(filepath.Join(dir, "ns"))
	if err != nil {
		return nil, err
	}
	for _, n := range namespaces {
		if strings.HasSuffix(n.Name(), "_for_children") {
			continue
		}
		target, err := os.Readlink(filepath.Join(dir, "ns", n.Name()))
		if err != nil {
			return nil, err
		}
		fmt.Fprintln(&text, target)
	}
	root, err := os.Readlink(filepath.Join(dir, "root"))
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(&text, "root", root)
	label, err := os.ReadFile(filepath.Join(dir, "attr", "current"))
	if err == nil { // a kernel without security modules has none
		fmt.Fprintln(&text, "label", strings.TrimRight(string(label), "\n\x00"))
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return nil, err
	}
	inherited := []string{"Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:", "Cpus_allowed:", "Mems_allowed:"}
	lines := bufio.NewScanner(bytes.NewReader(status))
	var group string // the effective one
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "\t")
		fields := strings.Fields(value)
		switch {
		case !slices.Contains(inherited, name):
			continue
		case name == "Gid:" && len(fields) > 1:
			group = fields[1]
		case name == "Groups:": // a root that has logged in has its own once more, a service does not
			fields = slices.DeleteFunc(fields, func(g string) bool { return g == group })
		}
		fmt.Fprintln(&text, name, strings.Join(fields, " "))
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return nil, err
	}
	// Those behind the name in parentheses begin with the third, see proc_pid_stat(5).
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const nice, policy = 19 - 3, 41 - 3
	if len(fields) <= policy {
		return nil, fmt.Errorf("malformed process status %q", stat)
	}
	fmt.Fprintln(&text, "nice", fields[nice], "policy", fields[policy])
	return text.Bytes(), lines.Err()
}

// Misfit tells which part of a machine does not fit; "" for one that does.
func (f Fit) Misfit(pod Fit) Reason {
	switch {
	case f.Kind != pod.Kind:
		return ReasonKind
	case f.Source != pod.Source, f.Config != pod.Config:
		return ReasonConfiguration
	case f.Files != pod.Files:
		return ReasonFiles
	case f.Surroundings != pod.Surroundings:
		return ReasonSurroundings
	default:
		return ""
	}
}

// Reason is why a pod starts cold, or why a machine was thrown away.
type Reason string

// The reasons.
const (
	// ReasonEmpty: no machine is there.
	ReasonEmpty Reason = "empty"
	// ReasonKind: those that are there are the other front end's.
	ReasonKind Reason = "kind"
	// ReasonPreparing: one is there, and not ready yet.
	ReasonPreparing Reason = "preparing"
	// ReasonTaken: another pod was faster.
	ReasonTaken Reason = "taken"
	// ReasonDied: its process or its VM has ended.
	ReasonDied Reason = "died"
	// ReasonFiles: a program, the kernel or the image was changed.
	ReasonFiles Reason = "files"
	// ReasonConfiguration: it was made from another configuration, or the pod has one
	// of its own, by annotations.
	ReasonConfiguration Reason = "configuration"
	// ReasonSurroundings: the caller lives in other namespaces, or with other
	// privileges.
	ReasonSurroundings Reason = "surroundings"
	// ReasonDirectory: the process sees another directory under the path of the pod's.
	ReasonDirectory Reason = "directory"
	// ReasonHostNetwork: the pod shares the host's network, for which a machine is made.
	ReasonHostNetwork Reason = "host_network"
	// ReasonSize: the machine's size is settled, and is not the pod's.
	ReasonSize Reason = "size"
	// ReasonScheduling: the pod is to have CPUs for itself (SCHED_CORE), from its first
	// process on.
	ReasonScheduling Reason = "scheduling"
	// ReasonFailed: the machine could not be taken; the log says why.
	ReasonFailed Reason = "failed"
)
