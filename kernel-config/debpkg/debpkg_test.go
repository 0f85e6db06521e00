package debpkg_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kata-runtime/kernel-config/debpkg"
)

const record = `Package: linux-image-cloud-amd64
Source: linux-signed-amd64 (6.1.1+2)
Version: 1:6.1.1-2
Architecture: amd64
Depends: adduser, linux-image-6.1.0-9-cloud-amd64 (= 6.1.1-2)
Description-en: Linux for the cloud
 This has a Version: in its text.

Package: other
Version: 9
Architecture: all
`

// fakeHost answers for apt and dpkg, and notes what was run.
type fakeHost struct {
	calls []string
	// foreign counts the calls that do not look at the host's package lists.
	foreign int
	// failShow and failDownload are how often these fail before they work.
	failShow, failDownload int
	failUpdate             error
}

func (f *fakeHost) run(_ context.Context, dir, program string, args ...string) (string, error) {
	action := program
	for _, word := range []string{"show", "update", "download", "-x"} {
		if slices.Contains(args, word) {
			action += " " + word
		}
	}
	f.calls = append(f.calls, action)
	if slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "Dir::State::Lists=/") }) {
		f.foreign++
	}
	switch action {
	case "apt-cache show":
		if f.failShow--; f.failShow >= 0 {
			return "", errors.New("apt-cache: no packages found")
		}
		return record, nil
	case "apt-get update":
		return "", f.failUpdate
	case "apt-get download":
		if f.failDownload--; f.failDownload >= 0 {
			return "", errors.New("apt-get: 404 not found")
		}
		return "", os.WriteFile(filepath.Join(dir, "x_1_amd64.deb"), nil, 0o600)
	case "dpkg -x":
		return "", os.WriteFile(filepath.Join(args[len(args)-1], "unpacked"), nil, 0o600)
	}
	return "", errors.New("unexpected program: " + action)
}

func TestResolve(t *testing.T) {
	host := &fakeHost{}
	source := &debpkg.Source{Run: host.run, CacheDir: t.TempDir()}
	got, err := source.Resolve(t.Context(), "linux-image-cloud-amd64")
	if err != nil {
		t.Fatal(err)
	}
	want := debpkg.Package{
		Name: "linux-image-cloud-amd64", Version: "1:6.1.1-2", Architecture: "amd64",
		Depends: "adduser, linux-image-6.1.0-9-cloud-amd64 (= 6.1.1-2)",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Resolve (-want +got):\n%s", diff)
	}
	if got := got.DependencyWithPrefix("linux-image-"); got != "linux-image-6.1.0-9-cloud-amd64" {
		t.Errorf("DependencyWithPrefix = %q", got)
	}
	if got := got.DependencyWithPrefix("linux-headers-"); got != "" {
		t.Errorf("DependencyWithPrefix of nothing = %q", got)
	}
	if got := got.Key(); strings.ContainsAny(got, "/:") {
		t.Errorf("Key = %q is no file name", got)
	}
}

func TestResolveRefreshesMissingLists(t *testing.T) {
	host := &fakeHost{failShow: 1}
	source := &debpkg.Source{Run: host.run, CacheDir: t.TempDir()}
	if _, err := source.Resolve(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	want := []string{"apt-cache show", "apt-get update", "apt-cache show"}
	if diff := cmp.Diff(want, host.calls); diff != "" {
		t.Errorf("programs (-want +got):\n%s", diff)
	}
}

func TestResolveReportsBothFailures(t *testing.T) {
	host := &fakeHost{failShow: 2, failUpdate: errors.New("not root")}
	source := &debpkg.Source{Run: host.run, CacheDir: t.TempDir()}
	_, err := source.Resolve(t.Context(), "x")
	if err == nil || !strings.Contains(err.Error(), "no packages found") || !errors.Is(err, host.failUpdate) {
		t.Errorf("Resolve = %v", err)
	}
}

func TestUnpackFetchesOnce(t *testing.T) {
	// The first download fails, as with lists older than the mirror.
	host := &fakeHost{failDownload: 1}
	source := &debpkg.Source{Run: host.run, CacheDir: t.TempDir()}
	wanted := debpkg.Package{Name: "x", Version: "1", Architecture: "amd64"}
	for range 2 {
		dir, err := source.Unpack(t.Context(), wanted)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "unpacked")); err != nil {
			t.Error(err)
		}
	}
	want := []string{"apt-get download", "apt-get update", "apt-get download", "dpkg -x"}
	if diff := cmp.Diff(want, host.calls); diff != "" {
		t.Errorf("programs (-want +got):\n%s", diff)
	}
}

// Packages of another architecture are found in lists of their own.
func TestForeignArchitecture(t *testing.T) {
	host := &fakeHost{failShow: 1, failDownload: 1}
	foreign := "arm64"
	if runtime.GOARCH == foreign {
		foreign = "amd64"
	}
	source := &debpkg.Source{Run: host.run, CacheDir: t.TempDir(), Arch: foreign}
	found, err := source.Resolve(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := source.Unpack(t.Context(), found); err != nil {
		t.Fatal(err)
	}
	if host.foreign != len(host.calls)-1 { // all but dpkg
		t.Errorf("%d of %q looked at lists of their own", host.foreign, host.calls)
	}

	// Lists of its own are refreshed when they are old, and used as they are without a
	// network.
	old := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(filepath.Join(source.CacheDir, "lists-"+foreign), old, old); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		host.calls = nil
		host.failUpdate = errors.New("no network")
		if _, err := source.Resolve(t.Context(), "x"); err != nil || !slices.Equal(host.calls, []string{"apt-get update", "apt-cache show"}) {
			t.Errorf("with old lists: %v, %q", err, host.calls)
		}
	}
	host.failUpdate = nil
	for _, want := range [][]string{{"apt-get update", "apt-cache show"}, {"apt-cache show"}} {
		host.calls = nil
		if _, err := source.Resolve(t.Context(), "x"); err != nil || !slices.Equal(host.calls, want) {
			t.Errorf("with old lists: %v, %q", err, host.calls)
		}
	}
}
