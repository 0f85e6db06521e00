package notify

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// scene is what somebody does in a directory that is watched.
type scene struct {
	name string
	do   func(t *testing.T, dir string)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func scenes() []scene {
	write := func(t *testing.T, path, content string) {
		t.Helper()
		must(t, os.WriteFile(path, []byte(content), 0o644))
	}
	return []scene{
		{"create", func(t *testing.T, dir string) { write(t, dir+"/file", "content") }},
		{"write", func(t *testing.T, dir string) { write(t, dir+"/file", "other") }},
		{"append", func(t *testing.T, dir string) {
			f, err := os.OpenFile(dir+"/file", os.O_APPEND|os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteString("more")
			must(t, err)
			must(t, f.Close())
		}},
		{"truncate", func(t *testing.T, dir string) { must(t, os.Truncate(dir+"/file", 2)) }},
		{"chmod", func(t *testing.T, dir string) { must(t, os.Chmod(dir+"/file", 0o600)) }},
		{"chown", func(t *testing.T, dir string) { must(t, os.Chown(dir+"/file", 5, 6)) }},
		{"touch", func(t *testing.T, dir string) { must(t, os.Chtimes(dir+"/file", time.Unix(5, 0), time.Unix(6, 0))) }},
		{"rename", func(t *testing.T, dir string) { must(t, os.Rename(dir+"/file", dir+"/renamed")) }},
		{"rename over", func(t *testing.T, dir string) {
			write(t, dir+"/other", "")
			must(t, os.Rename(dir+"/other", dir+"/renamed"))
		}},
		{"exchange", func(t *testing.T, dir string) {
			write(t, dir+"/other", "")
			must(t, unix.Renameat2(unix.AT_FDCWD, dir+"/other", unix.AT_FDCWD, dir+"/renamed", unix.RENAME_EXCHANGE))
		}},
		{"link", func(t *testing.T, dir string) { must(t, os.Link(dir+"/renamed", dir+"/linked")) }},
		{"unlink", func(t *testing.T, dir string) { must(t, os.Remove(dir+"/linked")) }},
		{"mkdir", func(t *testing.T, dir string) { must(t, os.Mkdir(dir+"/dir", 0o755)) }},
		{"chmod of a directory", func(t *testing.T, dir string) { must(t, os.Chmod(dir+"/dir", 0o700)) }},
		{"move a directory", func(t *testing.T, dir string) { must(t, os.Rename(dir+"/dir", dir+"/moved")) }},
		{"rmdir", func(t *testing.T, dir string) { must(t, os.Remove(dir+"/moved")) }},
		{"symlink", func(t *testing.T, dir string) { must(t, os.Symlink("renamed", dir+"/symlink")) }},
		{"replace a symlink", func(t *testing.T, dir string) {
			must(t, os.Symlink("other", dir+"/tmp"))
			must(t, os.Rename(dir+"/tmp", dir+"/symlink"))
		}},
		{"fifo", func(t *testing.T, dir string) { must(t, unix.Mkfifo(dir+"/fifo", 0o644)) }},
		{"attribute", func(t *testing.T, dir string) { must(t, unix.Setxattr(dir+"/renamed", "user.a", []byte("b"), 0)) }},
		{"move out", func(t *testing.T, dir string) {
			must(t, os.Rename(dir+"/other", filepath.Dir(dir)+"/other"))
		}},
		{"move in", func(t *testing.T, dir string) {
			must(t, os.Rename(filepath.Dir(dir)+"/other", dir+"/back"))
		}},
		{"short-lived", func(t *testing.T, dir string) {
			write(t, dir+"/short", "lived")
			must(t, os.Remove(dir+"/short"))
		}},
		{"attributes of the directory itself", func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o711)) }},
		{"remove a file", func(t *testing.T, dir string) { must(t, os.Remove(dir+"/renamed")) }},
	}
}

// What the host does is to inotify what it would be if the process were there.
func TestEventsOfTheHost(t *testing.T) {
	s, same := mounted(t), unshared(t)
	compare(t, watch(t, s.guest+"/volume"), watch(t, same), s.host+"/volume", same, s.host+"/volume")
}

// What the guest does is told once, by its own kernel.
func TestOwnChangesAreNotToldTwice(t *testing.T) {
	s, same := mounted(t), unshared(t)
	compare(t, watch(t, s.guest+"/volume"), watch(t, same), s.guest+"/volume", same, s.host+"/volume")
}

// unshared makes a directory that no guest sees.
func unshared(t *testing.T) string {
	t.Helper()
	dir := t.TempDir() + "/volume"
	must(t, os.Mkdir(dir, 0o755))
	return dir
}

// What the host changes while its queue of events is full is to inotify what has changed.
func TestChangesBeyondTheHostsQueue(t *testing.T) {
	s := mounted(t)
	volume := s.host + "/volume"
	for _, name := range []string{"a", "modified", "gone"} {
		must(t, os.WriteFile(filepath.Join(volume, name), []byte("before"), 0o644))
	}
	must(t, os.Symlink("a", volume+"/..data"))
	w := watch(t, s.guest+"/volume", s.guest+"/volume/modified", s.guest+"/volume/gone")
	must(t, s.server.Signal(unix.SIGSTOP))
	const queue = 16384 // as the kernel has it, or more than the administrator does
	for range queue/2 + 1000 {
		must(t, os.Rename(volume+"/a", volume+"/b"))
		must(t, os.Rename(volume+"/b", volume+"/a"))
	}
	must(t, os.WriteFile(volume+"/new", []byte("new"), 0o644))
	must(t, os.WriteFile(volume+"/modified", []byte("after it"), 0o644))
	must(t, os.Remove(volume+"/gone"))
	must(t, os.Symlink("new", volume+"/..tmp"))
	must(t, os.Rename(volume+"/..tmp", volume+"/..data"))
	must(t, s.server.Signal(unix.SIGCONT))
	missing := []string{
		"volume CREATE new", "volume CLOSE_WRITE new", "volume MODIFY modified", "modified MODIFY", "modified CLOSE_WRITE",
		"volume DELETE gone", "gone DELETE_SELF", "volume CREATE ..data", // which the guest did not know
	}
	w.readUntil("what was made up for", func(list []string) bool {
		last := list[len(list)-1]
		missing = slices.DeleteFunc(missing, func(m string) bool { return last == m || strings.HasPrefix(last, m+" ") })
		return len(missing) == 0
	})
}
