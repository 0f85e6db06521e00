package refused

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLift: the limit is back when the last one has ended, in whatever order, also
// after one that was killed.
func TestLift(t *testing.T) {
	dir := t.TempDir()
	sysctl, shared := filepath.Join(dir, "sysctl"), filepath.Join(dir, "shared")
	expect := func(want string) {
		t.Helper()
		if got, err := os.ReadFile(sysctl); err != nil || string(got) != want {
			t.Fatalf("the limit is %q, want %q: %v", got, want, err)
		}
	}
	begin := func() *lifted {
		t.Helper()
		l, err := lift(sysctl, shared)
		if err != nil {
			t.Fatal(err)
		}
		expect("0")
		return l
	}
	end := func(l *lifted) {
		t.Helper()
		if err := l.restore(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(sysctl, []byte("5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	first, second := begin(), begin()
	end(first)
	expect("0")
	third := begin()
	end(second)
	expect("0")
	end(third)
	expect("5\n")

	killed := begin()
	killed.shared.Close()
	expect("0")
	end(begin())
	expect("5\n")
}
