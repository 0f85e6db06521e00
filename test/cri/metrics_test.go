//go:build vm

package cri

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"kata-runtime/test/harness"
)

// monitor runs a command of kata-runtime for pods of every front end, as an
// administrator does.
func (k *kubelet) monitor(args ...string) (output []byte, err error) {
	k.t.Helper()
	command := exec.CommandContext(k.t.Context(), filepath.Join(harness.Repository(k.t), "bin", "kata-runtime"), args...)
	command.Env = append(os.Environ(), "KATA_SHIM_ROOT="+filepath.Join(k.dir, "shim"))
	return command.CombinedOutput()
}

// measured: the runtime tells of a pod with so many containers or more, whoever owns
// it, under its names in Kubernetes, and lets programs run in its guest.
func (p *pod) measured(least int) {
	p.t.Helper()
	const stateDir = "--state-dir=/run/containerd/runc/k8s.io" // as deploy/metrics.yaml has it
	output, err := p.monitor("metrics", stateDir, p.id[:13])   // as crictl prints it
	if err != nil {
		p.t.Fatalf("metrics: %v: %s", err, output)
	}
	for _, want := range []string{
		fmt.Sprintf(`kata_up{sandbox_id=%q} 1`, p.id),
		fmt.Sprintf(`kata_guest_up{sandbox_id=%q} 1`, p.id),
		fmt.Sprintf(`kata_pod_info{sandbox_id=%q,pod_namespace="default",pod_name=%q} 1`, p.id, p.config.Metadata.Name),
	} {
		if !strings.Contains(string(output), "\n"+want+"\n") {
			p.t.Errorf("the metrics have no %s:\n%s", want, output)
		}
	}
	tasks := regexp.MustCompile(`(?m)^kata_container_tasks\{.*\} [1-9]`)
	if containers := len(tasks.FindAll(output, -1)); containers < least {
		p.t.Errorf("%d containers have processes:\n%s", containers, output)
	}
	// Nothing has needed the sandbox's yet.
	if regexp.MustCompile(`(?m)^kata_container_tasks\{[^}]*container_id="` + p.id + `"[^}]*\} [1-9]`).Match(output) {
		p.t.Errorf("the sandbox's container has a process:\n%s", output)
	}
	output, err = p.monitor("check", "--security", p.id, stateDir)
	for _, want := range []string{"vmm, process ", harness.FileServerRole() + ", process ", "every process is what docs/security.md promises\n"} {
		if err != nil || !strings.Contains(string(output), want) {
			p.t.Errorf("check --security: %v: %q is not in\n%s", err, want, output)
		}
	}
	output, err = p.monitor("exec", "--guest", stateDir, p.id, "/bin/nothing")
	if err == nil || !strings.Contains(string(output), `the guest: its image has no program "/bin/nothing"`) {
		p.t.Errorf("a program in the guest: %v: %s", err, output)
	}
}
