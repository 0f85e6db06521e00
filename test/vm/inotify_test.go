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

// inotify is filer's watch: in the container, and on the host.
type inotify struct {
	t         *testing.T
	h         *harness.Host
	d         detached
	filer     string
	container string
	host      string
	running   *exec.Cmd
}

func (i *inotify) start(container, host []string) {
	i.t.Helper()
	i.container, i.host = filepath.Join(i.d.bundle, "rootfs", "events"), i.h.File("events")
	for _, path := range []string{i.container, i.host} {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			i.t.Fatal(err)
		}
	}
	i.h.Must("exec", i.d.id, "/bin/sh", "-c", "filer watch "+strings.Join(container, " ")+" > /events 2>&1 < /dev/null &")
	out, err := os.Create(i.host)
	if err != nil {
		i.t.Fatal(err)
	}
	defer out.Close()
	i.running = exec.CommandContext(i.t.Context(), i.filer, append([]string{"watch"}, host...)...)
	i.running.Stdout = out
	if err := i.running.Start(); err != nil {
		i.t.Fatal(err)
	}
	for _, path := range []string{i.container, i.host} {
		i.await(path, "ready")
	}
}

// await waits until a file has a line.
func (i *inotify) await(path, line string) []string {
	i.t.Helper()
	return strings.Split(strings.TrimSpace(i.h.WaitText(path, line+"\n")), "\n")
}

// stop returns what both have seen; the last event of both is of this name.
func (i *inotify) stop(dir string) (container, host []string) {
	i.t.Helper()
	last := filepath.Join(dir, "last")
	if err := os.Mkdir(last, 0o700); err != nil {
		i.t.Fatal(err)
	}
	const line = "0 CREATE ISDIR last"
	container, host = i.await(i.container, line), i.await(i.host, line)
	if err := os.Rename(last, filepath.Join(dir, "END")); err != nil {
		i.t.Fatal(err)
	}
	if err := i.running.Wait(); err != nil {
		i.t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, "END")); err != nil {
		i.t.Fatal(err)
	}
	return seen(container), seen(host)
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

// testInotify: what the host changes in a volume is to inotify in the container what it
// is on the host.
func testInotify(t *testing.T, h *harness.Host, d detached, volume, single string) {
	i := &inotify{t: t, h: h, d: d, filer: filepath.Join(d.bundle, "rootfs", "bin", "filer")}
	const watched = "/volume/watched"
	compare := func(t *testing.T) {
		t.Helper()
		if container, host := i.stop(volume); !slices.Equal(container, host) {
			t.Errorf("in the container:\n%s\non the host:\n%s", strings.Join(container, "\n"), strings.Join(host, "\n"))
		}
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
	// No event of a file comes twice: two that wait for the guest are one.
	const all = "echo a > a; chmod 600 a; mkdir dir; mv a dir; mv dir/a b; chmod 700 dir; mv dir moved; rmdir moved; ln -s b c; rm b; rm c; mkfifo f; rm f"
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
