package passthrough_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/fileserver/passthrough"
)

// scene is what is done to a directory, once on a bare file system and once through the
// file server: the accounts have to be the same.
type scene struct {
	prepare func(*account) // as root
	run     func(*account) // as user 1000, group 1000, with the group 2000, or as root
	root    bool
}

// account is what happened.
type account struct {
	text strings.Builder
}

// say notes how a step ended.
func (a *account) say(step string, err error) bool {
	result := "ok"
	if err != nil {
		result = err.Error()
		if e, ok := errors.AsType[unix.Errno](err); ok {
			result = e.Error() // without names of the directory
		}
	}
	fmt.Fprintf(&a.text, "%s: %s\n", step, result)
	return err == nil
}

func (a *account) note(format string, args ...any) { fmt.Fprintf(&a.text, format+"\n", args...) }

// must is for what prepares.
func (a *account) must(err error) {
	if err != nil {
		panic(err)
	}
}

func (a *account) write(name string, mode os.FileMode, content string) {
	a.must(os.WriteFile(name, []byte(content), 0o600))
	a.must(unix.Chmod(name, uint32(mode)))
}

// tree notes all that is there.
func (a *account) tree() {
	var names []string
	a.must(filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what cannot be read is noted without what is in it
		}
		names = append(names, path)
		return nil
	}))
	for _, n := range names {
		a.stat(n)
	}
}

func (a *account) stat(n string) {
	var st unix.Stat_t
	if err := unix.Lstat(n, &st); err != nil {
		a.say("stat "+n, err)
		return
	}
	size := st.Size
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0
	}
	a.note("  %.40s mode=%o owner=%d:%d size=%d links=%d rdev=%x", n, st.Mode, st.Uid, st.Gid, size, st.Nlink, st.Rdev)
	buf := make([]byte, 4096)
	count, err := unix.Llistxattr(n, buf)
	if err != nil || count == 0 {
		return
	}
	list := strings.Split(strings.TrimSuffix(string(buf[:count]), "\x00"), "\x00")
	slices.Sort(list)
	for _, x := range list {
		value := make([]byte, 4096)
		v, err := unix.Lgetxattr(n, x, value)
		a.note("    %s=%x %v", x, value[:max(v, 0)], err)
	}
}

type acting struct {
	Dir  string
	Root bool // the scenes of root, and not those of the user
}

// act runs the scenes of one user in directories below one, and writes the accounts.
func act(text string) {
	var how acting
	if err := json.Unmarshal([]byte(text), &how); err != nil {
		fatal(err)
	}
	accounts := map[string]string{}
	for name, s := range scenes() {
		if s.root != how.Root {
			continue
		}
		unix.Umask(0o022)
		if err := os.Chdir(filepath.Join(how.Dir, name)); err != nil {
			fatal(err)
		}
		accounts[name] = play(s.run)
	}
	if err := json.NewEncoder(os.Stdout).Encode(accounts); err != nil {
		fatal(err)
	}
}

func play(f func(*account)) string {
	var a account
	func() {
		defer func() {
			if r := recover(); r != nil {
				a.note("FAILED: %v", r)
			}
		}()
		f(&a)
	}()
	return a.text.String()
}

func accounts(t *testing.T, dir string) map[string]string {
	t.Helper()
	before := map[string]string{}
	for name, s := range scenes() {
		d := filepath.Join(dir, name)
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
		t.Chdir(d)
		if s.prepare != nil {
			before[name] = play(s.prepare)
		}
	}
	all := map[string]string{}
	for _, root := range []bool{false, true} {
		text, err := json.Marshal(acting{Dir: dir, Root: root})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), envAct+"="+string(text), "GORACE=atexit_sleep_ms=0")
		cmd.Stderr = os.Stderr
		if !root {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000, Groups: []uint32{2000}}}
		}
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		part := map[string]string{}
		if err := json.Unmarshal(out, &part); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		maps.Copy(all, part)
	}
	for name := range scenes() {
		t.Chdir(filepath.Join(dir, name))
		all[name] = before[name] + all[name] + play((*account).tree)
	}
	return all
}

// TestLikeTheHosts compares what is seen through the file server with the file system
// that is behind it.
func TestLikeTheHosts(t *testing.T) {
	t.Run("plain", func(t *testing.T) { compare(t, t.TempDir(), options()) })
	t.Run("names", func(t *testing.T) {
		o := options()
		o.MaxNodeDescriptors = 4
		compare(t, overlay(t), o)
	})
}

func compare(t *testing.T, dir string, o passthrough.Options) {
	for d := dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bare, source, mnt := filepath.Join(dir, "bare"), filepath.Join(dir, "source"), filepath.Join(dir, "mnt")
	for _, d := range []string{bare, source, mnt} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mountAt(t, source, mnt, o)
	want, got := accounts(t, bare), accounts(t, mnt)
	for name := range scenes() {
		t.Run(name, func(t *testing.T) {
			if os.Getenv("SHOW") != "" {
				t.Log("\n" + got[name])
			}
			if strings.Contains(want[name], "FAILED") {
				t.Errorf("the scene does not work on the bare file system:\n%s", want[name])
			}
			w, g := lines(want[name], name), lines(got[name], "")
			for i := range max(len(w), len(g)) {
				var a, b string
				if i < len(w) {
					a = w[i]
				}
				if i < len(g) {
					b = g[i]
				}
				if a != b && differences()[name+": "+a] != b {
					t.Errorf("the host's: %s\nthrough the server: %s", a, b)
				}
			}
		})
	}
}

// lines are those of an account, without what only the host's file system has.
func lines(text, scene string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool {
		_, only := hostOnly()[scene+": "+strings.TrimSpace(l)]
		return only
	})
}

// differences are docs/files.md's: what is another answer through the server.
func differences() map[string]string {
	return map[string]string{
		// The guest's kernel refuses them before they become a message.
		"holes: collapse: ok": "collapse: operation not supported",
		"holes: insert: ok":   "insert: operation not supported",
		// The server has no CAP_SYS_ADMIN.
		"attributes: set security.a: ok":         "set security.a: operation not permitted",
		"attributes: set on link security.a: ok": "set on link security.a: operation not permitted",
		// There are no user.* attributes of symbolic links.
		"attributes: set on link trusted.a: ok":              "set on link trusted.a: operation not permitted",
		"attributes: set on link trusted.overlay.opaque: ok": "set on link trusted.overlay.opaque: operation not permitted",
	}
}

func hostOnly() map[string]bool {
	return map[string]bool{
		"attributes: trusted.a=78 <nil>":                                      true,
		"attributes: security.a=78 <nil>":                                     true,
		"attributes: security.a=76616c7565206f662073656375726974792e61 <nil>": true,
		"attributes: trusted.overlay.opaque=78 <nil>":                         true,
	}
}
