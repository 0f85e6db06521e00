package sizing

// Overhead is what a pod takes on the host beyond what its containers ask for:
// the overhead of a RuntimeClass.
type Overhead struct {
	MemoryMiB int
	MilliCPUs int
}

const (
	// aroundMiB is the memory of the processes around a guest: the VMM without
	// the guest's memory (PSS 127 MiB when measured, most of it emulation's),
	// supervisor, file server and a stand-in (17 MiB), 3 MiB for each further
	// container; rounded up for 16 of them.
	aroundMiB = 192
	// aroundMilliCPUs is what disks and network of a busy guest take in the VMM
	// and the file server. An idle pod took 17 under emulation.
	aroundMilliCPUs = 250
)

// OverheadOf is that of a pod whose machine has memoryMiB for itself, whatever its
// containers get, and whose VMM takes vmmMiB beyond what any does. It counts
// all of the machine's own memory, and not what an idle guest uses: a guest fills
// its memory with cached files, and the host does not get that back.
func OverheadOf(memoryMiB, vmmMiB int) Overhead {
	return Overhead{MemoryMiB: memoryMiB + aroundMiB + vmmMiB, MilliCPUs: aroundMilliCPUs}
}
