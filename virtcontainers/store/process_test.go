package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers"
)

// childVariable makes the test binary act as another process.
const childVariable = "STORE_TEST_CHILD"

func TestMain(m *testing.M) {
	action, root := os.Getenv(childVariable), os.Getenv("STORE_TEST_ROOT")
	if action == "" {
		os.Exit(m.Run())
	}
	if err := child(action, root); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func child(action, root string) error {
	s, err := Open(root)
	if err != nil {
		return err
	}
	switch action {
	case "contend":
		return contend(s)
	case "full disk":
		return fullDisk(s)
	case "full":
		return full(s)
	default:
		return fmt.Errorf("unknown action %q", action)
	}
}

func command(t *testing.T, s *Store, action string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+action, "STORE_TEST_ROOT="+s.Root())
	cmd.Stderr = os.Stderr
	return cmd
}

// contend reserves and removes one id again and again. While it owns the id it
// makes a file with O_EXCL, which fails when two processes own it.
func contend(s *Store) error {
	guard := filepath.Join(filepath.Dir(s.Root()), "guard")
	for range 60 {
		entry, err := s.Reserve("c")
		if errors.Is(err, virtcontainers.ErrExists) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.Mkdir(guard, 0o700); err != nil {
			return fmt.Errorf("two processes own the id: %w", err)
		}
		if err := entry.Save(State{SupervisorPID: os.Getpid()}); err != nil {
			return err
		}
		if state, err := entry.Load(); err != nil || state.SupervisorPID != os.Getpid() {
			return fmt.Errorf("state = %+v, %w", state, err)
		}
		if err := os.Remove(guard); err != nil {
			return err
		}
		if err := entry.Remove(); err != nil {
			return err
		}
	}
	return nil
}

func TestConcurrentProcesses(t *testing.T) {
	s := open(t)
	var children []*exec.Cmd
	for range 6 {
		cmd := command(t, s, "contend")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		children = append(children, cmd)
	}
	for _, cmd := range children {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(s.Root()); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// full saves while no file may grow, as on a full disk.
func full(s *Store) error {
	signal.Ignore(unix.SIGXFSZ)
	entry, err := s.Lookup("c")
	if err != nil {
		return err
	}
	before, err := os.ReadFile(entry.Path(stateName))
	if err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 10, Max: unix.RLIM_INFINITY}); err != nil {
		return err
	}
	err = entry.Save(State{Owner: strings.Repeat("x", 1000)})
	if !errors.Is(err, unix.EFBIG) || !strings.Contains(err.Error(), "save the state of container c") {
		return fmt.Errorf("Save: %w", err)
	}
	after, err := os.ReadFile(entry.Path(stateName))
	if err != nil || string(after) != string(before) {
		return fmt.Errorf("the state is now %q, %w", after, err)
	}
	if _, err := os.Lstat(entry.Path(temporaryName)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("temporary file: %w", err)
	}
	if _, err := s.Reserve("d"); !errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("Reserve: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(s.Root(), "d")); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("directory of a failed Reserve: %w", err)
	}
	return nil
}

func TestFullDisk(t *testing.T) {
	s := open(t)
	reserve(t, s, "c")
	if err := command(t, s, "full").Run(); err != nil {
		t.Error(err)
	}
}

func TestAlive(t *testing.T) {
	self, err := StartTime(os.Getpid())
	if err != nil || self == 0 {
		t.Fatalf("StartTime = %d, %v", self, err)
	}
	if !Alive(os.Getpid(), self) || Alive(os.Getpid(), self+1) || Alive(0, self) || Alive(-1, self) {
		t.Error("Alive is wrong about this process")
	}

	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start, err := StartTime(cmd.Process.Pid)
	if err != nil || !Alive(cmd.Process.Pid, start) {
		t.Errorf("a running child: start time %d, %v", start, err)
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	// Wait until it has ended, but leave it a zombie.
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if Alive(cmd.Process.Pid, start) {
		t.Error("a zombie counts as alive")
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := StartTime(cmd.Process.Pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("StartTime of nobody: %v", err)
	}
}

func TestParseStat(t *testing.T) {
	tail := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"
	state, start, err := parseStat("7 (a) Z (b" + ")" + tail)
	if err != nil || state != 'S' || start != 4242 {
		t.Errorf("parseStat = %c, %d, %v", state, start, err)
	}
	for _, text := range []string{"", "7 (x", "7 (x) S 1", "7 (x)" + strings.Replace(tail, "4242", "x", 1)} {
		if _, _, err := parseStat(text); err == nil {
			t.Errorf("parseStat(%q) succeeded", text)
		}
	}
}
