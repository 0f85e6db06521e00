package turn

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// holderVariable lets this program take a turn in the named directory, say so, and keep
// it until it is killed.
const holderVariable = "KATA_TEST_TURN"

func TestMain(m *testing.M) {
	dir := os.Getenv(holderVariable)
	if dir == "" {
		os.Exit(m.Run())
	}
	line := Line{Dir: dir, AtOnce: 1, Limit: time.Hour}
	if _, err := line.Take(context.Background(), func(int) { fmt.Println("waits") }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("has it")
	select {}
}

// hold starts a process that asks for a turn, and returns what it says.
func hold(t *testing.T, dir string) (process *exec.Cmd, says *bufio.Scanner) {
	t.Helper()
	process = exec.CommandContext(t.Context(), "/proc/self/exe")
	process.Env = append(os.Environ(), holderVariable+"="+dir)
	process.Stderr = os.Stderr
	out, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	return process, bufio.NewScanner(out)
}

func newLine(t *testing.T, atOnce int) Line {
	t.Helper()
	return Line{Dir: filepath.Join(t.TempDir(), "turns"), AtOnce: atOnce, Limit: time.Hour}
}

// take takes a turn that is there.
func take(t *testing.T, line Line) (done func()) {
	t.Helper()
	done, err := line.Take(t.Context(), func(ahead int) { t.Errorf("it waits behind %d", ahead) })
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// queue lets a boot wait. waits gets how many were ahead at first; has gets its name when
// it has the turn, and done ends that.
type queue struct {
	t     *testing.T
	has   chan string
	dones sync.Map
}

func (q *queue) join(ctx context.Context, line Line, name string) (ahead int) {
	q.t.Helper()
	waits := make(chan int, 1000)
	go func() {
		done, err := line.Take(ctx, func(n int) { waits <- n })
		if err != nil {
			q.has <- name + ": " + err.Error()
			return
		}
		q.dones.Store(name, done)
		q.has <- name
	}()
	select {
	case ahead := <-waits:
		return ahead
	case got := <-q.has:
		q.t.Fatalf("%s has not waited", got)
	case <-time.After(time.Minute):
		q.t.Fatalf("%s does not wait", name)
	}
	return 0
}

// next ends the turn of a boot, and wants another one to have it.
func (q *queue) next(want string) {
	q.t.Helper()
	select {
	case got := <-q.has:
		if got != want {
			q.t.Fatalf("%q has the turn, not %q", got, want)
		}
	case <-time.After(time.Minute):
		q.t.Fatalf("%q has no turn", want)
	}
}

func (q *queue) end(name string) {
	q.t.Helper()
	done, ok := q.dones.Load(name)
	if !ok {
		q.t.Fatalf("%q has no turn", name)
	}
	done.(func())()
}

func (q *queue) nobody() {
	q.t.Helper()
	select {
	case got := <-q.has:
		q.t.Fatalf("%q has the turn", got)
	default:
	}
}

// TestOrder: who came first begins first, but for those whom nobody waits for, which come
// after those who came later.
func TestOrder(t *testing.T) {
	line := newLine(t, 2)
	first, second := take(t, line), take(t, line)
	q := &queue{t: t, has: make(chan string, 10)}
	last := line
	last.Last = true
	if ahead := q.join(t.Context(), last, "spare"); ahead != 2 {
		t.Errorf("the first that waits is told of %d ahead", ahead)
	}
	for i, name := range []string{"a", "b", "c"} {
		if ahead := q.join(t.Context(), line, name); ahead != 2+i {
			t.Errorf("%s is told of %d ahead", name, ahead)
		}
	}
	q.nobody()
	first()
	q.next("a")
	second()
	q.next("b")
	q.end("a")
	q.next("c")
	q.nobody()
	q.end("b")
	q.next("spare")
	q.end("c")
	q.end("spare")
	empty(t, line)
	take(t, line)()
}

// TestGivenUp: who waits no longer is no reason to wait for.
func TestGivenUp(t *testing.T) {
	line := newLine(t, 1)
	first := take(t, line)
	q := &queue{t: t, has: make(chan string, 10)}
	ctx, cancel := context.WithCancelCause(t.Context())
	q.join(ctx, line, "a")
	q.join(t.Context(), line, "b")
	cancel(errors.New("enough"))
	q.next("a: enough")
	q.nobody()
	first()
	q.next("b")
	q.end("b")
	empty(t, line)
}

// TestKilled: a process that is killed gives back its place, and its turn.
func TestKilled(t *testing.T) {
	line := newLine(t, 1)
	boots, says := hold(t, line.Dir)
	want(t, says, "has it")
	waits, says := hold(t, line.Dir)
	want(t, says, "waits")
	q := &queue{t: t, has: make(chan string, 10)}
	if ahead := q.join(t.Context(), line, "a"); ahead != 2 {
		t.Errorf("%d ahead", ahead)
	}
	kill(t, waits)
	q.nobody()
	kill(t, boots)
	q.next("a")
	q.end("a")
	empty(t, line)
}

// What a process that was killed has left goes without another boot; what one that lives
// has stays.
func TestSweep(t *testing.T) {
	line := newLine(t, 2)
	if err := Sweep(t.Context(), line.Dir); err != nil {
		t.Errorf("without a directory: %v", err)
	}
	dead, says := hold(t, line.Dir)
	want(t, says, "has it")
	done, err := line.Take(t.Context(), func(int) { t.Error("waits") })
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	kill(t, dead)
	if err := Sweep(t.Context(), line.Dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(line.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("left: %v, want the turn of the process that lives", entries)
	}
}

// TestStuck: a boot that takes longer than the limit keeps nobody waiting.
func TestStuck(t *testing.T) {
	line := newLine(t, 1)
	stuck := line
	stuck.Limit = 100 * time.Millisecond
	defer take(t, stuck)()
	done, err := line.Take(t.Context(), func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	done()
}

// TestUnclaimed: a turn that the first in line does not take for some seconds is had by
// another one, but not one of several that one after the other take it soon.
func TestUnclaimed(t *testing.T) {
	w := waiter{line: Line{AtOnce: 1}}
	const seconds = int64(time.Second)
	for _, step := range []struct {
		at   int64
		view view
		want bool
	}{
		{1, view{before: []string{"a", "b", "c"}}, false},
		{4, view{before: []string{"a", "b", "c"}}, false},
		{6, view{before: []string{"b", "c"}}, false},
		{8, view{before: []string{"b", "c"}, running: 1}, false},
		{9, view{before: []string{"c"}}, false},
		{13, view{before: []string{"c"}}, false},
		{14, view{before: []string{"c"}}, true},
	} {
		step.view.now = step.at * seconds
		if got := w.free(step.view); got != step.want {
			t.Errorf("after %d seconds, behind %q: %t", step.at, step.view.before, got)
		}
	}
}

// TestUnavailable: without the directory boots take no turns.
func TestUnavailable(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{open, link, "/proc/turns", filepath.Join(t.TempDir(), "no", "parent")} {
		_, err := Line{Dir: dir, AtOnce: 1}.Take(t.Context(), func(int) {})
		if !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// TestMany: no more than may boot at once, and all of them in the end.
func TestMany(t *testing.T) {
	line := newLine(t, 3)
	var mu sync.Mutex
	var now, most int
	full := make(chan struct{}) // closed when as many as may boot do
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			done, err := line.Take(t.Context(), func(int) {})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			if now++; now == 3 && most < 3 {
				close(full)
			}
			most = max(most, now)
			mu.Unlock()
			<-full
			mu.Lock()
			now--
			mu.Unlock()
			done()
		})
	}
	all.Wait()
	if most != 3 {
		t.Errorf("%d had a turn at once", most)
	}
	empty(t, line)
}

func want(t *testing.T, says *bufio.Scanner, text string) {
	t.Helper()
	if !says.Scan() || says.Text() != text {
		t.Fatalf("the process says %q, not %q", says.Text(), text)
	}
}

func kill(t *testing.T, process *exec.Cmd) {
	t.Helper()
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait() // killed
}

func empty(t *testing.T, line Line) {
	t.Helper()
	entries, err := os.ReadDir(line.Dir)
	if err != nil {
		t.Fatal(err)
	}
	names := slices.Collect(func(yield func(string) bool) {
		for _, entry := range entries {
			if !yield(entry.Name()) {
				return
			}
		}
	})
	if len(names) > 0 {
		t.Errorf("left: %s", strings.Join(names, ", "))
	}
}

// BenchmarkTake is what a turn costs where nobody else boots.
func BenchmarkTake(b *testing.B) {
	line := Line{Dir: filepath.Join(b.TempDir(), "turns"), AtOnce: 2, Limit: time.Hour}
	for b.Loop() {
		done, err := line.Take(b.Context(), func(int) {})
		if err != nil {
			b.Fatal(err)
		}
		done()
	}
}
