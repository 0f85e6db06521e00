package jail

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestClaimGivesEachUserOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "jail")
	ids := Range{First: 70000, Last: 70002}
	var users []*User
	var got []int
	for range 3 {
		u, err := Claim(dir, ids)
		if err != nil {
			t.Fatal(err)
		}
		users, got = append(users, u), append(got, u.ID)
	}
	slices.Sort(got)
	if !slices.Equal(got, []int{70000, 70001, 70002}) {
		t.Errorf("claimed %v", got)
	}
	if _, err := Claim(dir, ids); !errors.Is(err, ErrNoUser) {
		t.Errorf("a fourth of three: %v", err)
	}
	// A range that overlaps knows the same claims.
	if u, err := Claim(dir, Range{First: 70002, Last: 70003}); err != nil || u.ID != 70003 {
		t.Errorf("of an overlapping range: %+v, %v", u, err)
	} else {
		u.Release()
	}
	users[1].Release()
	users[1].Release()
	if u, err := Claim(dir, ids); err != nil || u.ID != users[1].ID {
		t.Errorf("after a release: %+v, %v, want %d", u, err, users[1].ID)
	}
	var none *User
	none.Release()
}

func TestClaimRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, ids := range []Range{{}, {First: 0, Last: 5}, {First: 6, Last: 5}} {
		if _, err := Claim(dir, ids); err == nil {
			t.Errorf("of %+v: no error", ids)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Claim(dir, Range{First: 5, Last: 6}); !errors.Is(err, ErrUnsafe) {
		t.Errorf("in a directory that others may write to: %v", err)
	}
}

func TestParseList(t *testing.T) {
	got, err := parseList([]byte("\tlinux-vdso.so.1 (0x00007ffd)\n" +
		"\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)\n" +
		"\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n" +
		"\tlib with space.so => /opt/a (0b)/lib with space.so (0x00007f)\n" +
		"\tstatically linked\n"))
	want := []string{"/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2", "/opt/a (0b)/lib with space.so"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	if _, err := parseList([]byte("\tlibgone.so.1 => not found\n")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "libgone.so.1") {
		t.Errorf("a library that is missing: %v", err)
	}
}

func TestLibraries(t *testing.T) {
	found, err := Libraries(t.Context(), "/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(found, func(name string) bool { return strings.HasPrefix(filepath.Base(name), "libc.so") }) {
		t.Errorf("no C library in %q", found)
	}
	for _, name := range found {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	static := filepath.Join(t.TempDir(), "static")
	build := exec.Command("go", "build", "-o", static, "testdata/static.go")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if found, err := Libraries(t.Context(), static); err != nil || len(found) != 0 {
		t.Errorf("of a static program: %q, %v", found, err)
	}
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("text"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/etc/passwd", short} {
		if _, err := Libraries(t.Context(), path); !errors.Is(err, ErrNoProgram) || !strings.Contains(err.Error(), "find the libraries of "+path+": no program") {
			t.Errorf("of no program: %v", err)
		}
	}
}

func TestRememberUntilTheProgramChanges(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "jail")
	program := filepath.Join(t.TempDir(), "program")
	modules := filepath.Join(t.TempDir(), "modules") // of which there are none yet
	searches := 0
	places := func() ([]string, error) { return []string{modules, program + "/none"}, nil }
	remember := func(want int) {
		t.Helper()
		files, err := Remember(dir, program, places, func() ([]string, error) {
			searches++
			return []string{"/lib/a", program}, nil
		})
		if err != nil || !slices.Equal(files, []string{"/lib/a", program}) || searches != want {
			t.Errorf("%q, %v, after %d searches, want %d", files, err, searches, want)
		}
	}
	if err := os.WriteFile(program, []byte("one"), 0o700); err != nil {
		t.Fatal(err)
	}
	remember(1)
	remember(1)
	if err := os.WriteFile(program, []byte("another"), 0o700); err != nil {
		t.Fatal(err)
	}
	remember(2)
	// Modules that are installed later are found, and so are those in a directory that is
	// there, and their removal.
	before := time.Now().Add(-time.Hour)
	if err := errors.Join(os.Mkdir(modules, 0o755), os.Chtimes(modules, before, before)); err != nil {
		t.Fatal(err)
	}
	remember(3)
	remember(3)
	if err := os.WriteFile(filepath.Join(modules, "accel.so"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	remember(4)
	remember(4)
	if err := os.RemoveAll(modules); err != nil {
		t.Fatal(err)
	}
	remember(5)
	remember(5)
	// A file that was cut off counts as none.
	kept, err := filepath.Glob(filepath.Join(dir, "program-*"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept %q, %v", kept, err)
	}
	if err := os.Truncate(kept[0], 9); err != nil {
		t.Fatal(err)
	}
	remember(6)
	failure := errors.New("of the search")
	if err := os.WriteFile(program, []byte("a third"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Remember(dir, program, nil, func() ([]string, error) { return nil, failure }); !errors.Is(err, failure) {
		t.Errorf("a search that fails: %v", err)
	}
	remember(7)
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	if _, err := Remember(dir, program, nil, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the program: %v", err)
	}
}

// What a start left that was killed while it wrote is removed by a later one, and what
// another one is writing is not.
func TestRemoveUnfinished(t *testing.T) {
	dir, program := filepath.Join(t.TempDir(), "jail"), filepath.Join(t.TempDir(), "program")
	old, fresh := filepath.Join(dir, unfinished+"1"), filepath.Join(dir, unfinished+"2")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{program, old, fresh} {
		if err := os.WriteFile(name, nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Now().Add(-2 * unfinishedFor)
	if err := os.Chtimes(old, before, before); err != nil {
		t.Fatal(err)
	}
	if _, err := Remember(dir, program, nil, func() ([]string, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, unfinished+"*")); err != nil || !slices.Equal(left, []string{fresh}) {
		t.Errorf("left %q, %v, want %q", left, err, fresh)
	}
}

func TestThreadsOfThisProcess(t *testing.T) {
	threads, err := Threads(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if threads[os.Getpid()] != os.Getpid() || threads[1] != 0 && os.Getpid() != 1 {
		t.Errorf("%v of process %d", threads, os.Getpid())
	}
	if id, ok := innermost([]byte("Name:\tx\nNSpid:\t4711\t17\t3\nNSpgid:\t5\n")); !ok || id != 3 {
		t.Errorf("innermost: %d, %v", id, ok)
	}
	for _, status := range []string{"", "NSpid:\n", "NSpid:\tx\n"} {
		if id, ok := innermost([]byte(status)); ok {
			t.Errorf("%q: %d", status, id)
		}
	}
	if _, err := Threads(1 << 30); err == nil {
		t.Error("of no process: no error")
	}
}
