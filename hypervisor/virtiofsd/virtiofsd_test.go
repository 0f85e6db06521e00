package virtiofsd

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/jail"
)

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]struct {
		kind    Kind
		version string
	}{
		"virtiofsd version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright (c)\n": {C, "7.2.22"},
		"/usr/lib/qemu/virtiofsd version 5.2.0\n":                         {C, "5.2.0"},
		"virtiofsd 1.13.0\n":        {Rust, "1.13.0"},
		"virtiofsd backend 1.6.1\n": {Rust, "1.6.1"},
		"GNU coreutils 9.1\n":       {},
		"":                          {},
	} {
		kind, version, err := parseVersion(text)
		if kind != want.kind || version != want.version || (err == nil) != (want.kind != "") {
			t.Errorf("%q: %q %q %v", text, kind, version, err)
		}
	}
}

func TestArguments(t *testing.T) {
	for _, c := range []struct {
		kind  Kind
		o     Options
		limit uint64
		want  string
	}{
		{
			C,
			Options{SharedDir: `/a,b\c`, Cache: "never", ExtraArgs: []string{"--thread-pool-size=1"}},
			20000,
			`--fd=3 --rlimit-nofile=20000 -f -o source=/a\,b\\c -o cache=none -o sandbox=namespace ` +
				`-o xattr -o announce_submounts -o log_level=warn --thread-pool-size=1`,
		},
		{
			Rust,
			Options{SharedDir: "/a,b"},
			1_000_000,
			`--fd=3 --rlimit-nofile=1000000 --shared-dir=/a,b --cache=auto --sandbox=namespace ` +
				`--xattr --announce-submounts --log-level=warn --inode-file-handles=prefer`,
		},
		{
			Rust,
			Options{SharedDir: "/a", Cache: "metadata"},
			20000,
			`--fd=3 --rlimit-nofile=20000 --shared-dir=/a --cache=metadata --sandbox=namespace ` +
				`--xattr --announce-submounts --log-level=warn --inode-file-handles=prefer`,
		},
		{ // Its own auto is relaxed.
			Rust,
			Options{SharedDir: "/a", Cache: "relaxed"},
			20000,
			`--fd=3 --rlimit-nofile=20000 --shared-dir=/a --cache=auto --sandbox=namespace ` +
				`--xattr --announce-submounts --log-level=warn --inode-file-handles=prefer`,
		},
		{ // The jail has made the namespaces and set the limit.
			Rust,
			Options{SharedDir: "/a", Jail: &jail.Options{}},
			20000,
			`--fd=3 --rlimit-nofile=0 --shared-dir=/a --cache=auto --sandbox=chroot ` +
				`--xattr --announce-submounts --log-level=warn`,
		},
		{
			C,
			Options{SharedDir: "/a", Jail: &jail.Options{}},
			20000,
			`--fd=3 --rlimit-nofile=0 -f -o source=/a -o cache=auto -o sandbox=chroot -o xattr -o announce_submounts -o log_level=warn`,
		},
	} {
		got, err := arguments(c.kind, c.o, c.limit)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" {
			t.Error(diff)
		}
	}
	for _, o := range []Options{{SharedDir: "relative"}, {}, {SharedDir: "/a", Cache: "none"}} {
		if args, err := arguments(C, o, 1); err == nil {
			t.Errorf("%+v: %q", o, args)
		}
	}
	if _, err := arguments(C, Options{SharedDir: "/a", Cache: "metadata"}, 1); err == nil {
		t.Error("the C daemon was told a cache mode that it does not have")
	}
}

func TestConnectedSocketLeavesNoPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 50))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	listening, connected, err := connectedSocket(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Close()
	defer connected.Close()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
	if _, _, err := connectedSocket(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}

// program writes an executable script.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "virtiofsd")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

const versionScript = "if [ \"$1\" = --version ]; then echo virtiofsd 1.13.0; exit; fi\n"

func TestFind(t *testing.T) {
	path := program(t, versionScript)
	want := Installation{Path: path, Kind: Rust, Version: "1.13.0"}
	if got, err := Find(path); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, path := range []string{"/no/such/virtiofsd", t.TempDir(), "/etc/passwd"} {
		if _, err := Find(path); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := Find(program(t, "echo no dancing bears >&2; exit 1")); err == nil || !strings.Contains(err.Error(), "no dancing bears") {
		t.Errorf("a program that complains: %v", err)
	}
	if _, err := Find(program(t, "echo something else 1.0")); err == nil {
		t.Error("another program was taken")
	}
}

// A program is asked what it is once, not for each VM.
func TestLocateAsksOnce(t *testing.T) {
	asked := filepath.Join(t.TempDir(), "asked")
	path, dir := program(t, "echo >> "+asked+"\n"+versionScript), filepath.Join(t.TempDir(), "kept")
	for range 3 {
		if got, err := locate(path, dir); err != nil || got.Kind != Rust {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	if times, err := os.ReadFile(asked); err != nil || len(times) != 1 {
		t.Errorf("asked %d times, %v", len(times), err)
	}
	if _, err := locate("/no/such/virtiofsd", dir); !errors.Is(err, ErrNotFound) {
		t.Errorf("a missing one: %v", err)
	}
	// What is there and does not work, or not in time, is not a missing one.
	if _, err := locate(program(t, "echo broken >&2; exit 1"), dir); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("a broken one: %v", err)
	}
}

// Either daemon is a root with a file server's capabilities, in namespaces of its own,
// whatever user the machine has, and finds the shared directory alone to write to.
func TestJailSpec(t *testing.T) {
	shared := t.TempDir()
	spec, err := JailSpec(t.Context(), "/bin/true", shared, jail.Options{
		Dir: filepath.Join(t.TempDir(), "jail"), User: 70000, Without: []string{"net"},
	}, 99)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(spec.Capabilities)
	want := []uintptr{
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID,
		unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETPCAP, unix.CAP_SYS_CHROOT, unix.CAP_MKNOD, unix.CAP_SETFCAP,
	}
	if !slices.Equal(spec.Capabilities, want) {
		t.Errorf("capabilities %v, want %v", spec.Capabilities, want)
	}
	if spec.User != 0 || spec.Namespaces != jail.Empty || spec.SystemCalls == nil || spec.MaxFiles != 99 ||
		!slices.Equal(spec.Root.Shares, []string{shared}) || len(spec.Root.Devices) > 0 || !spec.Root.Self || !slices.Equal(spec.Without, []string{"net"}) {
		t.Errorf("%+v", spec)
	}
}

func TestDaemonThatFails(t *testing.T) {
	d, err := Start(t.Context(), Options{
		Path: program(t, versionScript+"echo no can do >&2; exit 3"), SharedDir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	var exit *hypervisor.ExitError
	if err := d.Wait(t.Context()); !errors.As(err, &exit) || exit.Stderr != "no can do" {
		t.Errorf("got %v", err)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
}

// TestStopEndsTheWholeGroup has a daemon whose second process serves and holds
// the socket, as the real ones.
func TestStopEndsTheWholeGroup(t *testing.T) {
	d, err := Start(t.Context(), Options{
		Path: program(t, versionScript+"sleep infinity & wait"), SharedDir: t.TempDir(), SocketDir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	// A duplicate, as a VMM has one, sees the hang-up of the last holder.
	probe, err := dup(d.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	for range 2 {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	}
	if err := d.Wait(t.Context()); err != nil {
		t.Errorf("after Stop: %v", err)
	}
	if _, err := probe.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the socket lives: %v", err)
	} else if !errors.Is(err, io.EOF) {
		t.Logf("hang-up seen as %v", err)
	}
}

func TestStartErrors(t *testing.T) {
	path := program(t, versionScript)
	for _, o := range []Options{
		{Path: path, SharedDir: "/no/such/directory"},
		{Path: path, SharedDir: path},
		{Path: "/no/such/virtiofsd", SharedDir: "/"},
	} {
		if d, err := Start(t.Context(), o); err == nil {
			t.Errorf("%+v: started", o)
			_ = d.Stop()
		}
	}
}
