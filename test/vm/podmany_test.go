//go:build vm

package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// fileRequests is how many requests of each kind a pod's file server has had. The pod is
// one whose configuration asks for debugging.
func fileRequests(h *harness.Host, pod detached) map[string]int {
	h.T.Helper()
	dir := filepath.Join(h.Root, pod.id)
	path := filepath.Join(dir, "kata.supervisor.log")
	answers := func() []string {
		text, err := os.ReadFile(path)
		if err != nil {
			h.T.Fatal(err)
		}
		return strings.Split(string(text), `counts=\"`)[1:]
	}
	known := len(answers())
	if err := unix.Kill(process(h, "kata-fs ").PID, unix.SIGUSR1); err != nil {
		h.T.Fatal(err)
	}
	h.WaitFile(dir, func() bool {
		all := answers()
		return len(all) > known && strings.Contains(all[known], `\"`)
	})
	counts, _, _ := strings.Cut(answers()[known], `\"`)
	requests := map[string]int{}
	for field := range strings.FieldsSeq(counts) {
		opcode, count, _ := strings.Cut(field, ":")
		n, err := strconv.Atoi(count)
		if err != nil {
			h.T.Fatalf("counts of requests %q: %v", counts, err)
		}
		requests[opcode] = n
		requests[allRequests] += n
	}
	return requests
}

// What fileRequests counts.
const (
	allRequests  = ""
	syncRequests = "50" // FUSE_SYNCFS
)

// manyVariable asks, in the environment, for as many containers in one pod as
// a busy one has.
const manyVariable = "KATA_TEST_FULL"

func TestManyContainersInOnePod(t *testing.T) {
	n := 4
	if os.Getenv(manyVariable) != "" {
		n = 20
	}
	h := harness.New(t)
	configure(h, `hypervisor.virtio_fs_daemon = "kata-fs"`, "runtime.enable_debug = true")
	pod := detach(h, sandbox(bundle.Spec("/bin/sleep", "100000")))
	volume := h.File("volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	var all []detached
	before := 0
	for i := range n {
		spec := member(bundle.Spec("/bin/sh", "-c", "echo container "+strconv.Itoa(i)+"; exec sleep 100000"), pod, podNamespaces()...)
		bindMount(spec, volume, "/volume")
		before = fileRequests(h, pod)[allRequests]
		all = append(all, detach(h, spec))
	}
	// The way to its files is long and taken often: it is not asked for each time. That
	// takes 57 requests; if it were, 198.
	if took := fileRequests(h, pod)[allRequests] - before; took > 120 {
		t.Errorf("the start of a container took %d requests to the file server", took)
	}
	if ids := strings.Fields(h.Must("list", "-q")); len(ids) != n+1 {
		t.Errorf("list: %q", ids)
	}
	for i, c := range all {
		if output := h.WaitText(c.output, "container"); output != "container "+strconv.Itoa(i)+"\n" {
			t.Errorf("output of container %d: %q", i, output)
		}
	}
	h.Must("exec", all[0].id, "/bin/sh", "-c", "echo written > /file")
	for _, c := range all {
		h.Must("delete", "--force", c.id)
		h.Reap(c.pid)
	}
	// The host would write to its disk what everybody has written.
	if n := fileRequests(h, pod)[syncRequests]; n > 0 {
		t.Errorf("the end of %d containers had the host write its file system to its disk %d times", len(all), n)
	}
	wantNothingOfCycles(h, pod)
	h.Must("delete", "--force", pod.id)
	h.Reap(pod.pid)
}

// wantNothingOfCycles creates and removes containers of a pod one after the other: neither
// the guest nor the supervisor has more afterwards. A control group of the guest stays as
// long as there is memory that was charged to it, such as what is cached of a root file
// system where nobody can go any more.
func wantNothingOfCycles(h *harness.Host, pod detached) {
	h.T.Helper()
	dir := h.Bundle(member(bundle.Spec("/bin/true"), pod, podNamespaces()...))
	cycles := func(n int) {
		for range n {
			h.Must("run", "-b", dir, h.ID())
		}
	}
	counts := func() (groups, files int) {
		groups, err := strconv.Atoi(strings.TrimSpace(h.Must("exec", pod.id, "/bin/sh", "-c", "awk '$1==\"memory\"{print $3}' /proc/cgroups")))
		if err != nil {
			h.T.Fatal(err)
		}
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", supervisorOf(h, pod)))
		if err != nil {
			h.T.Fatal(err)
		}
		return groups, len(open)
	}
	cycles(2)
	groups, files := counts()
	n := size(8, 300)
	cycles(n)
	moreGroups, moreFiles := counts()
	if moreGroups-groups >= n || moreFiles-files >= n {
		h.T.Errorf("after %d containers there are %d control groups in the guest, %d before; the supervisor has %d files open, %d before",
			n, moreGroups, groups, moreFiles, files)
	}
}
