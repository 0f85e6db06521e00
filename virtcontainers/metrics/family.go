package metrics

import (
	"slices"

	"kata-runtime/guest/protocol"
)

// Kind is a metric's type, as Prometheus has it.
type Kind int

// The kinds.
const (
	Gauge Kind = iota
	Counter
)

// String returns the kind's name in Prometheus' text.
func (k Kind) String() string {
	if k == Counter {
		return "counter"
	}
	return "gauge"
}

// Family is a metric.
type Family struct {
	Name, Help string
	Kind       Kind
	// Labels are the names of a sample's labels. That of the pod is not among
	// them: whoever asked knows it.
	Labels []string
}

// Sample is one value of a Family.
type Sample struct {
	Name string `json:"n"`
	// Labels are the values of the family's labels, in its order.
	Labels []string `json:"l,omitempty"`
	Value  float64  `json:"v"`
}

// Names of metrics that Collect takes from other places than the guest.
const (
	podStart        = "kata_pod_start_time_seconds"
	podContainers   = "kata_pod_containers"
	stageStart      = "kata_boot_stage_start_seconds"
	stageDuration   = "kata_boot_stage_duration_seconds"
	vmInfo          = "kata_vm_info"
	vmRunning       = "kata_vm_running"
	vmVCPUs         = "kata_vm_vcpus"
	vmMemory        = "kata_vm_memory_bytes"
	vmVCPUTime      = "kata_vm_vcpu_cpu_seconds_total"
	streamsOpened   = "kata_vsock_streams_opened_total"
	processCPU      = "kata_process_cpu_seconds_total"
	processResident = "kata_process_resident_memory_bytes"
	processShare    = "kata_process_proportional_memory_bytes"
	processThreads  = "kata_process_threads"
	processFiles    = "kata_process_open_fds"
	guestUp         = "kata_guest_up"
)

// Families are all metrics of a pod, sorted by name.
func Families() []Family {
	families := []Family{
		{podStart, "When the pod was made, since 1970.", Gauge, nil},
		{podContainers, "Containers of the pod, in whatever state.", Gauge, nil},
		{stageStart, "When a stage of the pod's start began, counted from the pod's making. Stages overlap.", Gauge, []string{"stage"}},
		{stageDuration, "How long a stage of the pod's start took. Of containers: those of the first.", Gauge, []string{"stage"}},
		{vmInfo, "The virtual machine monitor and what runs its vCPUs; always 1.", Gauge, []string{"driver", "version", "accelerator"}},
		{vmRunning, "Whether the virtual machine runs.", Gauge, nil},
		{vmVCPUs, "vCPUs that the virtual machine has.", Gauge, nil},
		{vmMemory, "Memory that the virtual machine has, of which the host has given what the guest has used.", Gauge, nil},
		{vmVCPUTime, "Time on the host's CPUs of the thread of a vCPU.", Counter, []string{"vcpu"}},
		{streamsOpened, "Connections over vsock for standard streams of processes.", Counter, nil},
		{processCPU, "Time on the host's CPUs of a process of the pod, those that it has started included.", Counter, []string{"process", "mode"}},
		{processResident, "Memory that a process of the pod has in use, shared pages counted fully.", Gauge, []string{"process"}},
		{processShare, "Memory that a process of the pod has in use, of shared pages its part (PSS).", Gauge, []string{"process"}},
		{processThreads, "Threads of a process of the pod.", Gauge, []string{"process"}},
		{processFiles, "Open files of a process of the pod.", Gauge, []string{"process"}},
		{guestUp, "Whether the guest's agent answered.", Gauge, nil},
	}
	for _, f := range guestFigures() {
		if !slices.ContainsFunc(families, func(known Family) bool { return known.Name == f.Name }) {
			families = append(families, f.Family)
		}
	}
	slices.SortFunc(families, func(a, b Family) int { return compare(a.Name, b.Name) })
	return families
}

// figure is where a figure of the guest's protocol goes.
type figure struct {
	Family
	of protocol.Figure
	// label is the value of the family's label, for those that the guest's
	// figures differ by; a container's is its id.
	label string
}

// ofContainer tells whether a figure is a container's.
func (f *figure) ofContainer() bool { return slices.Contains(f.Labels, containerLabel) }

const containerLabel = "container_id"

// guestFigures are what is taken of a guest.
func guestFigures() []figure {
	gauge := func(of protocol.Figure, name, help string) figure {
		return figure{Family{name, help, Gauge, nil}, of, ""}
	}
	counter := func(of protocol.Figure, name, help string) figure {
		return figure{Family{name, help, Counter, nil}, of, ""}
	}
	by := func(label, value string, f figure) figure {
		f.Labels, f.label = []string{label}, value
		return f
	}
	cpu := func(of protocol.Figure, mode string) figure {
		return by("mode", mode, counter(of, "kata_guest_cpu_seconds_total", "Time that the guest's CPUs spent, by mode."))
	}
	waiting := func(of protocol.Figure, resource string) figure {
		return by("resource", resource, counter(of, "kata_guest_pressure_waiting_seconds_total", "Time that some process of the guest has waited for a resource (PSI)."))
	}
	stalled := func(of protocol.Figure, resource string) figure {
		return by("resource", resource, counter(of, "kata_guest_pressure_stalled_seconds_total", "Time that all processes of the guest have waited for a resource (PSI)."))
	}
	container := func(f figure) figure { return by(containerLabel, "", f) }
	containerCPU := func(of protocol.Figure, mode string) figure {
		f := counter(of, "kata_container_cpu_seconds_total", "Time that a container's processes spent on the guest's CPUs, by mode.")
		f.Labels, f.label = []string{containerLabel, "mode"}, mode
		return f
	}
	return []figure{
		gauge(protocol.Figure_MEMORY_SIZE_BYTES, "kata_guest_memory_size_bytes", "Memory that the guest's kernel has."),
		gauge(protocol.Figure_MEMORY_FREE_BYTES, "kata_guest_memory_free_bytes", "Memory of the guest that nobody uses."),
		gauge(protocol.Figure_MEMORY_AVAILABLE_BYTES, "kata_guest_memory_available_bytes", "Memory of the guest that processes could get."),
		gauge(protocol.Figure_MEMORY_BUFFERS_BYTES, "kata_guest_memory_buffers_bytes", "Memory of the guest that holds blocks of disks."),
		gauge(protocol.Figure_MEMORY_CACHED_BYTES, "kata_guest_memory_cached_bytes", "Memory of the guest that holds content of files."),
		gauge(protocol.Figure_MEMORY_SHARED_BYTES, "kata_guest_memory_shared_bytes", "Memory of the guest in tmpfs and shared memory."),
		gauge(protocol.Figure_MEMORY_SLAB_BYTES, "kata_guest_memory_slab_bytes", "Memory of the guest's kernel for its own objects."),
		gauge(protocol.Figure_LOAD_1, "kata_guest_load1", "Load of the guest over one minute."),
		gauge(protocol.Figure_LOAD_5, "kata_guest_load5", "Load of the guest over five minutes."),
		gauge(protocol.Figure_LOAD_15, "kata_guest_load15", "Load of the guest over fifteen minutes."),
		cpu(protocol.Figure_CPU_USER_SECONDS, "user"),
		cpu(protocol.Figure_CPU_NICE_SECONDS, "nice"),
		cpu(protocol.Figure_CPU_SYSTEM_SECONDS, "system"),
		cpu(protocol.Figure_CPU_IDLE_SECONDS, "idle"),
		cpu(protocol.Figure_CPU_IOWAIT_SECONDS, "iowait"),
		cpu(protocol.Figure_CPU_IRQ_SECONDS, "irq"),
		cpu(protocol.Figure_CPU_SOFTIRQ_SECONDS, "softirq"),
		cpu(protocol.Figure_CPU_STEAL_SECONDS, "steal"),
		gauge(protocol.Figure_UPTIME_SECONDS, "kata_guest_uptime_seconds", "Time since the guest's kernel began."),
		gauge(protocol.Figure_PROCESSES, "kata_guest_tasks", "Processes and threads in the guest, the kernel's included."),
		gauge(protocol.Figure_PROCESSES_RUNNABLE, "kata_guest_tasks_runnable", "Processes and threads of the guest that run or could."),
		gauge(protocol.Figure_PROCESSES_BLOCKED, "kata_guest_tasks_blocked", "Processes and threads of the guest that wait for input or output."),
		counter(protocol.Figure_FORKS, "kata_guest_forks_total", "Processes and threads that were made in the guest."),
		counter(protocol.Figure_CONTEXT_SWITCHES, "kata_guest_context_switches_total", "Context switches of the guest's CPUs."),
		waiting(protocol.Figure_PRESSURE_CPU_SOME_SECONDS, "cpu"),
		waiting(protocol.Figure_PRESSURE_MEMORY_SOME_SECONDS, "memory"),
		waiting(protocol.Figure_PRESSURE_IO_SOME_SECONDS, "io"),
		stalled(protocol.Figure_PRESSURE_MEMORY_FULL_SECONDS, "memory"),
		stalled(protocol.Figure_PRESSURE_IO_FULL_SECONDS, "io"),
		counter(protocol.Figure_NETWORK_RECEIVE_BYTES, "kata_guest_network_receive_bytes_total", "Bytes that the guest's interfaces, without loopback, received."),
		counter(protocol.Figure_NETWORK_RECEIVE_PACKETS, "kata_guest_network_receive_packets_total", "Packets that the guest's interfaces received."),
		counter(protocol.Figure_NETWORK_RECEIVE_ERRORS, "kata_guest_network_receive_errors_total", "Packets that the guest's interfaces received with errors."),
		counter(protocol.Figure_NETWORK_RECEIVE_DROPS, "kata_guest_network_receive_drops_total", "Packets that the guest's interfaces received and dropped."),
		counter(protocol.Figure_NETWORK_TRANSMIT_BYTES, "kata_guest_network_transmit_bytes_total", "Bytes that the guest's interfaces, without loopback, sent."),
		counter(protocol.Figure_NETWORK_TRANSMIT_PACKETS, "kata_guest_network_transmit_packets_total", "Packets that the guest's interfaces sent."),
		counter(protocol.Figure_NETWORK_TRANSMIT_ERRORS, "kata_guest_network_transmit_errors_total", "Packets that the guest's interfaces failed to send."),
		counter(protocol.Figure_NETWORK_TRANSMIT_DROPS, "kata_guest_network_transmit_drops_total", "Packets that the guest's interfaces dropped instead of sending them."),
		counter(protocol.Figure_DISK_READS, "kata_guest_disk_reads_total", "Reads of the guest's disks."),
		counter(protocol.Figure_DISK_READ_BYTES, "kata_guest_disk_read_bytes_total", "Bytes that were read from the guest's disks."),
		counter(protocol.Figure_DISK_WRITES, "kata_guest_disk_writes_total", "Writes to the guest's disks."),
		counter(protocol.Figure_DISK_WRITTEN_BYTES, "kata_guest_disk_written_bytes_total", "Bytes that were written to the guest's disks."),
		counter(protocol.Figure_DISK_BUSY_SECONDS, "kata_guest_disk_io_time_seconds_total", "Time that the guest's disks were busy."),
		gauge(protocol.Figure_AGENT_RESIDENT_BYTES, "kata_agent_resident_memory_bytes", "Memory that the guest's agent has in use."),
		gauge(protocol.Figure_AGENT_HEAP_BYTES, "kata_agent_heap_bytes", "Memory of the objects on the heap of the guest's agent."),
		counter(protocol.Figure_AGENT_CPU_SECONDS, "kata_agent_cpu_seconds_total", "Time that the guest's agent spent on the guest's CPUs."),
		gauge(protocol.Figure_AGENT_GOROUTINES, "kata_agent_goroutines", "Goroutines of the guest's agent."),
		gauge(protocol.Figure_AGENT_THREADS, "kata_agent_threads", "Threads of the guest's agent."),
		gauge(protocol.Figure_AGENT_OPEN_FILES, "kata_agent_open_fds", "Open files of the guest's agent."),
		containerCPU(protocol.Figure_CONTAINER_CPU_USER_SECONDS, "user"),
		containerCPU(protocol.Figure_CONTAINER_CPU_SYSTEM_SECONDS, "system"),
		container(counter(protocol.Figure_CONTAINER_CPU_THROTTLED_SECONDS, "kata_container_cpu_throttled_seconds_total", "Time that a container was kept from the CPU by its limit.")),
		container(gauge(protocol.Figure_CONTAINER_MEMORY_BYTES, "kata_container_memory_usage_bytes", "Memory that a container uses, its files' content included.")),
		container(gauge(protocol.Figure_CONTAINER_MEMORY_INACTIVE_FILE_BYTES, "kata_container_memory_inactive_file_bytes", "Memory that holds content of files which a container has not used lately. Usage less this is the working set.")),
		container(gauge(protocol.Figure_CONTAINER_MEMORY_LIMIT_BYTES, "kata_container_memory_limit_bytes", "Memory that a container may use; absent without a limit.")),
		container(counter(protocol.Figure_CONTAINER_OOM_KILLS, "kata_container_oom_kills_total", "Processes of a container that were killed for lack of memory.")),
		container(gauge(protocol.Figure_CONTAINER_PIDS, "kata_container_tasks", "Processes and threads of a container.")),
		container(gauge(protocol.Figure_CONTAINER_PIDS_LIMIT, "kata_container_tasks_limit", "Processes and threads that a container may have; absent without a limit.")),
		container(counter(protocol.Figure_CONTAINER_READ_BYTES, "kata_container_disk_read_bytes_total", "Bytes that a container read from disks of the guest.")),
		container(counter(protocol.Figure_CONTAINER_WRITTEN_BYTES, "kata_container_disk_written_bytes_total", "Bytes that a container wrote to disks of the guest.")),
	}
}
