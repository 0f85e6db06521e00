//go:build vm

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kata-runtime/test/harness"
)

// inotify is filer's watch: in containers, and on the host.
type inotify struct {
	t          *testing.T
	h          *harness.Host
	containers []detached
	filer      string
	outputs    []string // of the containers' and the host's, which is the last
	running    *exec.Cmd
}

func (i *inotify) start(container, host []string) {
	i.t.Helper()
	i.outputs = nil
	for _, d := range i.containers {
		i.outputs = append(i.outputs, filepath.Join(d.bundle, "rootfs", "events"))
	}
	onHost := i.h.File("events")
	i.outputs = append(i.outputs, onHost)
	for _, path := range i.outputs {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			i.t.Fatal(err)
		}
	}
	for _, d := range i.containers {
		i.h.Must("exec", d.id, "/bin/sh", "-c", "filer watch "+strings.Join(container, " ")+" > /events 2>&1 < /dev/null &")
	}
	out, err := os.Create(onHost)
	if err != nil {
		i.t.Fatal(err)
	}
	defer out.Close()
	i.running = exec.CommandContext(i.t.Context(), i.filer, append([]string{"watch"}, host...)...)
	i.running.Stdout = out
	if err := i.running.Start(); err != nil {
		i.t.Fatal(err)
	}
	for _, path := range i.outputs {
		i.await(path, "ready")
	}
}

// await waits until a file has a line.
func (i *inotify) await(path, line string) []string {
	i.t.Helper()
	return strings.Split(strings.TrimSpace(i.h.WaitText(path, line+"\n")), "\n")
}

// stop compares what each has seen, of which the last is a name that it makes.
func (i *inotify) stop(t *testing.T, dir string) {
	i.t.Helper()
	last := filepath.Join(dir, "last")
	if err := os.Mkdir(last, 0o700); err != nil {
		i.t.Fatal(err)
	}
	const line = "0 CREATE ISDIR last"
	var all [][]string
	for _, path := range i.outputs {
		all = append(all, i.await(path, line))
	}
	if err := os.Rename(last, filepath.Join(dir, "END")); err != nil {
		i.t.Fatal(err)
	}
	if err := i.running.Wait(); err != nil {
		i.t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, "END")); err != nil {
		i.t.Fatal(err)
	}
	host := seen(all[len(all)-1])
	for n, d := range i.containers {
		if container := seen(all[n]); !slices.Equal(container, host) {
			t.Errorf("in the container %s:\n%s\non the host:\n%s", d.id, strings.Join(container, "\n"), strings.Join(host, "\n"))
		}
	}
}

// seen leaves out what depends on who reads when, and who has a file open: two events
// that are the same are one where nobody has read the first, and a file that somebody has
// open is not gone.
func seen(lines []string) []string {
	return slices.Compact(slices.DeleteFunc(lines, func(line string) bool {
		return strings.HasSuffix(line, " DELETE_SELF") || strings.HasSuffix(line, " IGNORED")
	}))
}

func script(t *testing.T, dir, text string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-ec", text)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", text, err, out)
	}
}

// allKinds of changes. No event of a file comes twice: two that wait for the guest are one.
const allKinds = "echo a > a; chmod 600 a; mkdir dir; mv a dir; mv dir/a b; chmod 700 dir; mv dir moved; rmdir moved; ln -s b c; rm b; rm c; mkfifo f; rm f"

// testInotify: what the host changes in a volume is to inotify in the container what it
// is on the host.
func testInotify(t *testing.T, h *harness.Host, d detached, volume, single string) {
	i := &inotify{t: t, h: h, containers: []detached{d}, filer: filepath.Join(d.bundle, "rootfs", "bin", "filer")}
	const watched = "/volume/watched"
	compare := func(t *testing.T) {
		t.Helper()
		i.stop(t, volume)
	}
	inside := func(text string) {
		t.Helper()
		h.Must("exec", d.id, "/bin/sh", "-ec", "cd "+watched+"; "+text)
	}
	t.Run("a ConfigMap", func(t *testing.T) {
		script(t, volume, "mkdir ..1; echo a > ..1/key; ln -s ..1 ..data; ln -s ..data/key key")
		i.start([]string{watched, watched + "/key"}, []string{volume, volume + "/key"})
		script(t, volume, "mkdir ..2; echo b > ..2/key; ln -s ..2 ..data_tmp; mv -T ..data_tmp ..data; rm -r ..1")
		compare(t)
	})
	const all = allKinds
	t.Run("all kinds", func(t *testing.T) {
		i.start([]string{watched}, []string{volume})
		script(t, volume, all)
		compare(t)
	})
	t.Run("a file that is mounted", func(t *testing.T) {
		i.start([]string{watched, "/single"}, []string{volume, single})
		script(t, volume, "echo more >> "+single+"; chmod 600 "+single)
		compare(t)
	})
	t.Run("its own changes", func(t *testing.T) {
		i.start([]string{watched}, []string{volume})
		inside(all)
		compare(t)
	})
	t.Run("changes by another mount of the pod", func(t *testing.T) {
		i.start([]string{watched}, []string{volume})
		h.Must("exec", d.id, "/bin/sh", "-ec", "cd /again; "+all)
		compare(t)
	})
	t.Run("1000 changes", func(t *testing.T) {
		i.start([]string{watched}, []string{volume})
		for n := range 1000 {
			if err := os.Mkdir(filepath.Join(volume, fmt.Sprint("many", n)), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		compare(t)
		script(t, volume, "rmdir many*")
	})
}
