package jail

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLeaveOut(t *testing.T) {
	whole := Spec{Namespaces: Empty, Root: &Root{}, SystemCalls: &SystemCalls{}}
	for _, part := range Parts() {
		spec := whole
		spec.Without = []string{part}
		spec.leaveOut()
		changed := 0
		if spec.Namespaces != whole.Namespaces {
			changed++
		}
		if spec.SystemCalls == nil {
			changed++
		}
		if (spec.Root == nil) != (part == PartRoot) {
			t.Errorf("without %s: root %v", part, spec.Root)
		}
		if changed != 1 && part != PartKeyring {
			t.Errorf("without %s: %+v", part, spec)
		}
	}
}

func TestExplain(t *testing.T) {
	other := errors.New("other")
	if err := Explain(Empty, other); !errors.Is(err, other) || errors.Is(err, ErrForbidden) {
		t.Error(err)
	}
	for _, errno := range []error{unix.ENOSPC, unix.EINVAL, unix.EPERM} {
		if err := Explain(Empty, errno); !errors.Is(err, ErrForbidden) || !errors.Is(err, errno) {
			t.Errorf("%v: %v", errno, err)
		}
		if err := Explain(0, errno); errors.Is(err, ErrForbidden) {
			t.Errorf("without namespaces: %v", err)
		}
	}
}

func TestConflicts(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\nedge:x:1000:1000::/:\ninside:x:1500:7::/:\n\nbroken\nworse:x:y:z::/:\n",
		"group":  "root:x:0:\nteam:x:1999:a,b\nbeyond:x:2000:\n",
		"subuid": "below:100:899\nacross:500:1000\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := Conflicts(dir, Range{1001, 1999})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"inside (" + dir + "/passwd)", "team (" + dir + "/group)", "across (" + dir + "/subuid)"}
	if !slices.Equal(found, want) {
		t.Errorf("got %q, want %q", found, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "subgid"), []byte(strings.Repeat("many:1001:1\n", 20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err = Conflicts(dir, Range{1001, 1999}); err != nil || len(found) != maxConflicts+1 {
		t.Errorf("got %q, %v", found, err)
	}
	if found, err = Conflicts(t.TempDir(), Range{1, 1 << 30}); err != nil || len(found) != 0 {
		t.Errorf("without files: %q, %v", found, err)
	}
}
