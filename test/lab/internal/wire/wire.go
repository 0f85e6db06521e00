// Package wire is what the lab's two ends, outside and inside of its machine,
// tell each other: a plan, in a file, and messages, one JSON object each, on a
// virtio console port.
package wire

import "time"

// Port is the name of the port, and Share and Tree are those of the shared
// directories: of what was prepared for one boot, and the source tree.
const (
	Port  = "lab.messages"
	Share = "lab"
	Tree  = "tree"
)

// The share, inside of the machine and seen from its top.
const (
	Mounted  = "/lab"
	PlanFile = "plan.json"
	// Inside is the program that follows the plan, Programs the directory of
	// the programs that tests would compile.
	Inside   = "inside"
	Programs = "programs"
	// Systemd is the archive that make systemd makes.
	Systemd = "systemd.tar"
	// Tools is the directory of what make builds of pinned tools.
	Tools = "tools"
)

// AliveEvery is how often the inside says that it is alive. SilentFor is how
// long nothing may come before the machine is given up: however busy it is, its
// kernel does not run a program any more.
const (
	AliveEvery = 20 * time.Second
	SilentFor  = 4 * time.Minute
)

// NudgeEvery is how often the outside sends a byte, which says nothing, so that the
// machine has an interrupt. QEMU 7.2's emulator may forget that one has come, as the
// machine's KVM enters a guest: both change the same word, one of them without a lock
// (target/i386/tcg/sysemu/svm_helper.c). A timer's is then seen with the next interrupt
// only, and an idle machine whose timer is lost would have no other.
const NudgeEvery = time.Second

// Plan is what the machine does.
type Plan struct {
	// Tree is the source tree's path, the same on both sides.
	Tree string
	// Runs are the test programs, in order.
	Runs []Run
}

// Run is one run of a test program.
type Run struct {
	Name string
	// Program is the test program, below the share's top.
	Program string
	Args    []string
	// Directory is where it runs: its package's, as go test has it.
	Directory string
	Env       []string
}

// Message is one thing that the inside tells. The first is Ready.
type Message struct {
	// Ready tells what the machine is, when it is about to begin.
	Ready string `json:",omitempty"`
	// Run is the index of the run that Output and Exit belong to.
	Run    int
	Output []byte `json:",omitempty"`
	// Exit is the exit code of the run, or 128+N for its end by signal N.
	Exit *int `json:",omitempty"`
	// Failure says why the machine could not do what was planned.
	Failure string `json:",omitempty"`
	// Alive says nothing else: the machine still runs programs.
	Alive bool `json:",omitempty"`
}
