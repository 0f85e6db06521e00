package node

import (
	"fmt"
	"path"
	"strings"
)

// DefaultHandler is the handler's name in RuntimeClasses.
const DefaultHandler = "kata"

// DefaultPrefix is what the tree of programs and images is installed below.
const DefaultPrefix = "/usr/local"

// FrontEnd is the program by which a manager starts containers.
type FrontEnd string

// The front ends.
const (
	// FrontEndOCI is kata-runtime, run by the manager's own shim for runc.
	FrontEndOCI FrontEnd = "oci"
	// FrontEndShim is containerd-shim-kata-v2, which containerd and CRI-O's type
	// vm call themselves.
	FrontEndShim FrontEnd = "shim"
)

// The programs' names.
const (
	runtimeProgram = "kata-runtime"
	shimProgram    = "containerd-shim-kata-v2"
	deviceProgram  = "kata-device" // which the two others start where it is beside them
	shimType       = "io.containerd.kata.v2"
	runcType       = "io.containerd.runc.v2"
)

// Handler is what a manager is told.
type Handler struct {
	// Name is the RuntimeClass's handler.
	Name string
	// Prefix is where the programs are: in PREFIX/bin.
	Prefix   string
	FrontEnd FrontEnd
	// SystemdCgroup lets control groups be systemd's. containerd alone needs to
	// be told, for each runtime: CRI-O says it to all of them.
	SystemdCgroup bool
}

func (h Handler) program() string {
	name := runtimeProgram
	if h.FrontEnd == FrontEndShim {
		name = shimProgram
	}
	return path.Join(h.Prefix, "bin", name)
}

// runtimeType is containerd's name of the shim.
func (h Handler) runtimeType() string {
	if h.FrontEnd == FrontEndShim {
		return shimType
	}
	return runcType
}

// The plugin that holds the runtimes in a configuration of containerd.
const (
	pluginVersion2 = "io.containerd.grpc.v1.cri"    // version 2
	pluginVersion3 = "io.containerd.cri.v1.runtime" // versions 3 and 4
)

// table is the name of the handler's table.
func (h Handler) table(version int) string {
	plugin, quote := pluginVersion3, "'"
	if version == 2 {
		plugin, quote = pluginVersion2, `"` // as their defaults are printed
	}
	return "plugins." + quote + plugin + quote + ".containerd.runtimes." + h.Name
}

// Containerd is the handler's part of a configuration of that version, 2 to 4,
// without the version.
func (h Handler) Containerd(version int) string {
	table := h.table(version)
	var b strings.Builder
	fmt.Fprintf(&b, "[%s]\n  runtime_type = %q\n", table, h.runtimeType())
	if h.FrontEnd == FrontEndShim && h.Prefix != DefaultPrefix { // containerd looks in its PATH
		fmt.Fprintf(&b, "  runtime_path = %q\n", h.program())
	}
	fmt.Fprintf(&b, "  pod_annotations = [%q]\n", "io.katacontainers.*")
	if h.FrontEnd == FrontEndShim {
		return b.String()
	}
	fmt.Fprintf(&b, "  [%s.options]\n    BinaryName = %q\n", table, h.program())
	if h.SystemdCgroup {
		b.WriteString("    SystemdCgroup = true\n")
	}
	return b.String()
}

// CRIO is the handler's file for CRI-O.
func (h Handler) CRIO() string {
	kind := "oci"
	if h.FrontEnd == FrontEndShim {
		kind = "vm"
	}
	return fmt.Sprintf("[crio.runtime.runtimes.%s]\nruntime_path = %q\nruntime_type = %q\nruntime_root = %q\n",
		h.Name, h.program(), kind, "/run/kata-runtime")
}
