//go:build inguest

package inside

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
)

// quickPath and slowPath find the same programs, but a directory that is not
// absolute is libcontainer's business.
const quickPath, slowPath = "PATH=/bin:/secret", "PATH=/bin:/secret:x"

// everything prints what a process has been given. The first number is how many
// page faults its making took.
const everything = `cut -d ' ' -f 10 /proc/$$/stat
grep -vE '^(Pid|Tgid|PPid|Ngid|NS|Vm|Rss|Hugetlb|.*ctxt_switches)' /proc/$$/status
cat /proc/self/limits /proc/self/cgroup /proc/self/timerslack_ns /proc/self/oom_score_adj /proc/self/attr/current
sed 's/.*keyring *//' /proc/keys | sort
cut -d ' ' -f 7,18,19,40,41 /proc/$$/stat
test $(cut -d ' ' -f 6 /proc/$$/stat) = $(cut -d ' ' -f 5 /proc/$$/stat) && echo session and group are one
env | grep -v PATH=; pwd; umask; id
for ns in /proc/self/ns/*; do readlink $ns; done
for fd in /proc/$$/fd/*; do echo ${fd##*/} $(readlink $fd | sed 's/[0-9]//g'); done
echo "$0" "$@"`

// TestQuickExecIsLibcontainers: a process that the agent makes without Go has all
// that libcontainer gives one, and nothing else.
func TestQuickExecIsLibcontainers(t *testing.T) {
	a := startAgent(t)
	spec := newSpec(t, "sh", "-c", "mkdir -m 700 /secret; cp /bin/busybox /secret/prog; echo true >/tmp/text; chmod 755 /tmp/text; echo up; exec sleep 100000")
	spec.Linux.MaskedPaths = nil
	spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 5, Hard: 6}}
	s, err := a.create("quick", spec, false)
	if err != nil {
		t.Fatal(err)
	}
	a.start("quick")
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	names := 0
	run := func(process specs.Process, path string) string {
		t.Helper()
		names++
		process.Env = append(slices.Clone(process.Env), path)
		document, err := json.Marshal(process)
		if err != nil {
			t.Fatal(err)
		}
		name := "e" + strconv.Itoa(names)
		s := a.connect("quick", name, false, false)
		_, err = a.client.ExecProcess(t.Context(), &protocol.ExecProcessRequest{
			ContainerId: "quick", ProcessId: name, ProcessJson: document, Stdout: true, Stderr: true,
		})
		if err != nil {
			return err.Error()
		}
		exit := a.wait("quick", name)
		s.readers.Wait()
		return s.stdout.String() + s.stderr.String() + "exit " + strconv.Itoa(int(exit.GetExitCode()))
	}
	for run(specs.Process{Args: []string{"test", "-x", "/tmp/text"}, Cwd: "/", Capabilities: &specs.LinuxCapabilities{}}, quickPath) != "exit 0" {
	}
	all := []string{"sh", "-c", everything, "a \"b\"", "", "ü"}
	for name, process := range map[string]specs.Process{
		"root":            {Args: all, Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		"no capability":   {Args: all, Cwd: "/tmp", Env: []string{"A=b=c", "B="}, Capabilities: &specs.LinuxCapabilities{}},
		"unknown user":    {Args: all, User: specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7, 1 << 20}}, Capabilities: &specs.LinuxCapabilities{Bounding: caps}},
		"ambient":         {Args: all, User: specs.User{UID: 1000}, Env: []string{"HOME=/x"}, Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps, Inheritable: caps, Ambient: caps[:1]}},
		"its privileges":  {Args: all, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{Bounding: caps, Permitted: caps}, Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 77, Hard: 88}}},
		"the container's": {Args: all},
		"absolute":        {Args: []string{"/bin/echo", "x"}, Capabilities: &specs.LinuxCapabilities{}},
		"nothing":         {Args: []string{"nope"}, Capabilities: &specs.LinuxCapabilities{}},
		"no file":         {Args: []string{"/bin/nope"}, Capabilities: &specs.LinuxCapabilities{}},
		"directory":       {Args: []string{"/bin"}, Capabilities: &specs.LinuxCapabilities{}},
		"not executable":  {Args: []string{"/etc/passwd"}, Capabilities: &specs.LinuxCapabilities{}},
		"no format":       {Args: []string{"/tmp/text"}, Capabilities: &specs.LinuxCapabilities{}},
		"no directory":    {Args: []string{"true"}, Cwd: "/nope", Capabilities: &specs.LinuxCapabilities{}},
		"forbidden":       {Args: []string{"/secret/prog", "true"}, User: specs.User{UID: 1000}, Capabilities: &specs.LinuxCapabilities{}},
		"hidden":          {Args: []string{"prog", "true"}, User: specs.User{UID: 1000}, Capabilities: &specs.LinuxCapabilities{}},
		"outside":         {Args: []string{"true"}, Cwd: "/proc/self/fd/5", Capabilities: &specs.LinuxCapabilities{}},
	} {
		if process.Cwd == "" {
			process.Cwd = "/"
		}
		quick, slow := run(process, quickPath), run(process, slowPath)
		if process.Args[0] == "sh" {
			var quickFaults, slowFaults string
			quickFaults, quick, _ = strings.Cut(quick, "\n")
			slowFaults, slow, _ = strings.Cut(slow, "\n")
			few, _ := strconv.Atoi(quickFaults)
			many, _ := strconv.Atoi(slowFaults)
			if few == 0 || few*2 > many {
				t.Errorf("%s: %q page faults without Go, %q with", name, quickFaults, slowFaults)
			}
		}
		if quick != slow {
			quickLines, slowLines := strings.Split(quick, "\n"), strings.Split(slow, "\n")
			for i, line := range quickLines {
				if i >= len(slowLines) || line != slowLines[i] {
					t.Errorf("%s: without Go %q, with %q", name, quickLines[i:], slowLines[min(i, len(slowLines)):])
					break
				}
			}
		}
	}
	a.remove("quick")
	s.readers.Wait()
	assertNothingLeft(t)
}
