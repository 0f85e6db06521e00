package protocol

import "math"

// Ceiling is a kernel parameter that bounds what programs can have, for the
// whole machine and not for a namespace: in the guest it would be that of the
// guest's kernel, which knows neither what the host's administrator has set nor
// the memory of the host, from which some defaults are computed.
type Ceiling struct {
	// Name is the path below /proc/sys.
	Name string
	// Max is the most that some kernel takes; more on the host is as much.
	Max uint64
	// Mode: the value is no number but a choice. Those above Max say something
	// else, and do not concern the guest.
	Mode bool
	// ZeroIsNone: zero is no limit.
	ZeroIsNone bool
}

// Ceilings are the parameters that are in the guest at least what they are on the
// host, so that a program that has what it needs on the host has it in the
// guest. Memory remains bounded by the pod's and the containers' limits.
//
// Not here: what a namespace has for itself and sets from the kernel's defaults
// on any host (System V IPC and fs.mqueue in an IPC namespace, most of net in a
// network namespace), and what says how to behave rather than how much there is.
func Ceilings() []Ceiling {
	const (
		intMax  = math.MaxInt32
		longMax = math.MaxInt64
		// MAX_THREADS and PID_MAX_LIMIT of 64-bit kernels.
		threadsMax, pidsMax = 0x3fffffff, 4 << 20
	)
	return []Ceiling{
		// What RLIMIT_NOFILE may be: hosts whose systemd raises it hand it on.
		// The kernel keeps it a multiple of 64 (sysctl_nr_open_max).
		{Name: "fs/nr_open", Max: intMax &^ 63},
		{Name: "fs/file-max", Max: longMax}, // open files in all; from memory
		// Threads and processes in all, and their ids; the first is from the
		// memory with which the machine boots, before more is plugged in.
		{Name: "kernel/threads-max", Max: threadsMax},
		{Name: "kernel/pid_max", Max: pidsMax},
		{Name: "vm/max_map_count", Max: intMax}, // mappings per process: Elasticsearch asks for 262144
		{Name: "fs/aio-max-nr", Max: longMax},   // asynchronous requests in all: databases
		// Watches and queues of programs that follow files.
		{Name: "fs/inotify/max_user_instances", Max: intMax},
		{Name: "fs/inotify/max_user_watches", Max: intMax}, // from memory
		{Name: "fs/inotify/max_queued_events", Max: intMax},
		{Name: "fs/fanotify/max_user_groups", Max: intMax},
		{Name: "fs/fanotify/max_user_marks", Max: intMax}, // from memory
		{Name: "fs/fanotify/max_queued_events", Max: intMax},
		{Name: "fs/epoll/max_user_watches", Max: longMax}, // from memory
		{Name: "fs/pipe-max-size", Max: 1 << 31},          // F_SETPIPE_SZ without privileges
		// Above, a user's pipes get two pages.
		{Name: "fs/pipe-user-pages-soft", Max: longMax, ZeroIsNone: true},
		{Name: "fs/mount-max", Max: intMax},   // mounts in a namespace
		{Name: "kernel/pty/max", Max: intMax}, // terminals in all
		// Keys of a user: Kerberos; each session keyring is one.
		{Name: "kernel/keys/maxkeys", Max: intMax},
		{Name: "kernel/keys/maxbytes", Max: intMax},
		{Name: "kernel/keys/root_maxkeys", Max: intMax},
		{Name: "kernel/keys/root_maxbytes", Max: intMax},
		{Name: "net/core/rmem_max", Max: intMax}, // SO_RCVBUF, SO_SNDBUF: QUIC
		{Name: "net/core/wmem_max", Max: intMax},
		// 1: a mapping may be larger than the machine's memory, which the guest has
		// less of. Kubernetes' nodes have that.
		{Name: "vm/overcommit_memory", Max: 1, Mode: true},
		// Namespaces of a user: containers in a container; from memory.
		{Name: "user/max_cgroup_namespaces", Max: intMax},
		{Name: "user/max_ipc_namespaces", Max: intMax},
		{Name: "user/max_mnt_namespaces", Max: intMax},
		{Name: "user/max_net_namespaces", Max: intMax},
		{Name: "user/max_pid_namespaces", Max: intMax},
		{Name: "user/max_time_namespaces", Max: intMax},
		{Name: "user/max_user_namespaces", Max: intMax},
		{Name: "user/max_uts_namespaces", Max: intMax},
	}
}
