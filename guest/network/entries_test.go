package network

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// kernel records what entries do to it.
type kernel struct {
	calls   []string
	refuses map[string]error
}

func (k *kernel) entry(key, slot string) *entry {
	call := func(what string) func() error {
		return func() error {
			k.calls = append(k.calls, what+key)
			return k.refuses[what+key]
		}
	}
	return &entry{key: key, slot: slot, what: key, set: call("+"), remove: call("-")}
}

func (k *kernel) reconcile(t *testing.T, n *Network, entries ...*entry) error {
	t.Helper()
	k.calls = nil
	return n.reconcile(entries)
}

func (k *kernel) expect(t *testing.T, calls string) {
	t.Helper()
	if got := strings.Join(k.calls, " "); got != calls {
		t.Errorf("calls %q, want %q", got, calls)
	}
}

func brought(n *Network) string {
	var keys []string
	for _, e := range n.brought {
		keys = append(keys, e.key)
	}
	slices.Sort(keys)
	return strings.Join(keys, " ")
}

func TestSettleRemovesFromTheEnd(t *testing.T) {
	k, n := &kernel{}, &Network{}
	if err := k.reconcile(t, n, k.entry("a", ""), k.entry("b", ""), k.entry("c", "")); err != nil {
		t.Fatal(err)
	}
	k.expect(t, "+a +b +c")
	if err := k.reconcile(t, n, k.entry("b", ""), k.entry("d", "")); err != nil {
		t.Fatal(err)
	}
	k.expect(t, "-c -a +b +d")
	if got := brought(n); got != "b d" {
		t.Errorf("brought %q", got)
	}
}

func TestSettleReplacesInPlace(t *testing.T) {
	k, n := &kernel{}, &Network{}
	if err := k.reconcile(t, n, k.entry("old", "s")); err != nil {
		t.Fatal(err)
	}
	k.refuses = map[string]error{"+new": unix.ENETUNREACH}
	if err := k.reconcile(t, n, k.entry("new", "s")); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("error %v", err)
	}
	k.expect(t, "+new")
	if got := brought(n); got != "old" { // it is there still
		t.Errorf("brought %q", got)
	}
	k.refuses = nil
	if err := k.reconcile(t, n, k.entry("new", "s")); err != nil {
		t.Fatal(err)
	}
	if got := brought(n); got != "new" {
		t.Errorf("brought %q", got)
	}
	// A slot with several has no place to take.
	if err := k.reconcile(t, n, k.entry("x", "s"), k.entry("y", "s")); err != nil {
		t.Fatal(err)
	}
	k.expect(t, "-new +x +y")
}

func TestSettleRemembersWhatFailed(t *testing.T) {
	k, n := &kernel{refuses: map[string]error{"+bad": unix.EINVAL}}, &Network{}
	if err := k.reconcile(t, n, k.entry("good", ""), k.entry("bad", "")); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "set bad") {
		t.Errorf("error %v", err)
	}
	if err := k.reconcile(t, n, k.entry("good", "")); err != nil {
		t.Error(err)
	}
	k.expect(t, "+good") // nothing to remove
	k.refuses = map[string]error{"-good": unix.EBUSY}
	if err := k.reconcile(t, n); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "remove good") {
		t.Errorf("error %v", err)
	}
	k.refuses = map[string]error{"-good": unix.ESRCH} // somebody else was first
	if err := k.reconcile(t, n); err != nil {
		t.Error(err)
	}
	k.expect(t, "-good")
	if got := brought(n); got != "" {
		t.Errorf("brought %q", got)
	}
}

func TestSettleRepeatsWhatNeedsOthers(t *testing.T) {
	k, n := &kernel{}, &Network{}
	on := func(key string, needs *bool, done *bool) *entry {
		e := k.entry(key, "")
		e.set = func() error {
			k.calls = append(k.calls, "+"+key)
			if needs != nil && !*needs {
				return unix.ENETUNREACH
			}
			*done = true
			return nil
		}
		return e
	}
	var a, b, c bool
	if err := k.reconcile(t, n, on("a", &b, &a), on("b", &c, &b), on("c", nil, &c)); err != nil {
		t.Error(err)
	}
	k.expect(t, "+a +b +c +a +b +a")
}
