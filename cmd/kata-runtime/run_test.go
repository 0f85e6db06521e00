package main

import (
	"strings"
	"testing"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/store"
)

// Who waits for a container is told why its machine has ended under it, and nothing of an
// end of its own, or of another's container.
func TestMachineEnd(t *testing.T) {
	root := t.TempDir()
	alive, dead := self(t), deadProcess(t)
	for name, test := range map[string]struct {
		supervisor, own process
		reason, want    string
	}{
		"its own end":          {alive, alive, "", ""},
		"QEMU's end":           {alive, alive, "QEMU ended", "QEMU ended"},
		"the supervisor's end": {dead, dead, "", "the pod's supervisor, process "},
		"another's":            {dead, alive, "QEMU ended", ""},
	} {
		id := strings.Map(func(r rune) rune {
			if r == ' ' || r == '\'' {
				return '-'
			}
			return r
		}, name)
		entry := recorded(t, root, id, id, virtcontainers.StatusStopped, test.supervisor, process{})
		if err := entry.Update(func(s *store.State) error { s.Reason = test.reason; return nil }); err != nil {
			t.Fatal(err)
		}
		n := &creation{root: root, id: id, sandbox: id, supervisor: test.own}
		if got := n.machineEnd(); !strings.HasPrefix(got, test.want) || (test.want == "") != (got == "") {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	if got := (&creation{root: root, id: "deleted"}).machineEnd(); got != "" {
		t.Errorf("a container that was deleted: %q", got)
	}
}

// Who starts a container, or a process in one, whose machine has ended meanwhile is told why.
func TestStoppedWithItsMachine(t *testing.T) {
	root := t.TempDir()
	for id, test := range map[string]struct {
		supervisor   process
		reason, want string
	}{
		"its-own-end": {self(t), "", ""},
		"qemus-end":   {self(t), "QEMU ended", "(QEMU ended)"},
		"supervisors": {deadProcess(t), "", "supervisor, process "},
		"ambiguous":   {self(t), "QEMU ended: No such file or directory", ""},
	} {
		entry := recorded(t, root, id, id, virtcontainers.StatusStopped, test.supervisor, process{})
		if err := entry.Update(func(s *store.State) error { s.Reason = test.reason; return nil }); err != nil {
			t.Fatal(err)
		}
		for _, command := range [][]string{{"start", id}, {"exec", id, "/bin/true"}} {
			code, text := run(t, root, command...)
			if code == 0 || !strings.Contains(text, "stopped") || !strings.Contains(text, test.want) || strings.Contains(text, "(") != (test.want != "") {
				t.Errorf("%s: %d, %s", command, code, text)
			}
		}
	}
}
