//go:build vm

package cri

import (
	"cmp"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestCritest runs specs of critest, the CRI's own validation suite, whose images
// are the test's: it cannot pull any. KATA_CRITEST_FOCUS is a regular expression
// that names others than those on lack of memory, KATA_CRITEST_HANDLER another
// handler.
func TestCritest(t *testing.T) {
	k := newKubelet(t, containerd(1))
	images := k.h.File("images.yaml")
	k.write(images, "defaultTestContainerImage: "+image+"\nwebServerTestImage: "+image+"\n")
	program := tool(t, "critest", "critest")
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%v (make critest builds it)", err)
	}
	command := exec.CommandContext(t.Context(), program,
		"--runtime-endpoint", "unix://"+k.socket(),
		"--runtime-handler", cmp.Or(os.Getenv("KATA_CRITEST_HANDLER"), shimHandler),
		"--test-images-file", images,
		"--ginkgo.focus", cmp.Or(os.Getenv("KATA_CRITEST_FOCUS"), "OOM"),
		"--ginkgo.no-color")
	command.Env = append(os.Environ(), "TMPDIR="+k.h.Temp)
	output, err := command.CombinedOutput()
	if err != nil || !strings.Contains(string(output), " 0 Failed ") || strings.Contains(string(output), "Ran 0 of ") {
		t.Errorf("critest: %v\n%s", err, output)
	}
}
