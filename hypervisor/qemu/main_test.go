package qemu

import (
	"flag"
	"os"
	"testing"

	"kata-runtime/hypervisor/jail"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == jail.Command {
		os.Exit(jail.Become(os.Args[2:]))
	}
	flag.Bool("update", false, "accept what the golden tests get")
	flag.Parse()
	os.Exit(m.Run())
}
