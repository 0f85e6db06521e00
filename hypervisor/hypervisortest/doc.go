// Package hypervisortest holds what tests need of VMs: the conformance suite
// that every driver passes (Run), a driver without a VMM for the unit tests of
// whoever uses VMs (Fake), and the guest of the suite (BuildGuest).
//
// The suite's guest dials ReadyPort of the host when it is up, echoes on
// EchoPort, and answers questions on CommandPort: a line with a verb and its
// argument, answered by a line. A question about something that may still come
// is answered when it has come.
//
//	cpus N, memory N        the number of vCPUs, or of MiB of memory, once it is at least N
//	disk SERIAL             "ro" or "rw" and the disk's first line
//	gone SERIAL             "gone", once the disk is not there
//	nic MAC                 the interface's MTU
//	share FSTYPE TAG        what the file "hello" in the share says
//	print TEXT              "printed"; the text goes to the console
//	dial PORT               what the host answers to a line on this port
//	poweroff, panic         nothing
package hypervisortest

// Ports of the suite's guest and host.
const (
	// ReadyPort is the host's port that the guest dials when it is up.
	ReadyPort = 2000
	// EchoPort and CommandPort are the guest's.
	EchoPort    = 3000
	CommandPort = 3001
)

// UpLine is what the guest writes to its console before it dials ReadyPort.
const UpLine = "guest: up"
