package qemu

import (
	"flag"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	flag.Bool("update", false, "accept what the golden tests get")
	flag.Parse()
	os.Exit(m.Run())
}
