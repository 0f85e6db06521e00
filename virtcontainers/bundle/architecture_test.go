package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// armProgram is the beginning of one.
func armProgram() string {
	text := make([]byte, 64)
	copy(text, "\x7fELF\x02\x01")
	text[18] = 183
	return string(text)
}

func TestFindArchitecture(t *testing.T) {
	rootfs := filepath.Join(t.TempDir(), "rootfs")
	for name, text := range map[string]string{
		"usr/bin/program": armProgram(), "bin/script": "#! /usr/bin/program -x\n", "bin/deep": "#!/bin/script\n",
		"bin/loop": "#!/bin/loop\n", "bin/text": "hello", "srv/here": armProgram(), "bin/empty": "",
	} {
		path := filepath.Join(rootfs, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(rootfs, "bin/data"), []byte(armProgram()), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"bin/link": "/usr/bin/program", "bin/outside": "../../../../../../../../../../usr/bin/program", "bin/host": "/proc/self/exe",
	} {
		if err := os.Symlink(target, filepath.Join(rootfs, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		program, cwd, want string
		mounts             []string
	}{
		{program: "/usr/bin/program", want: "the program /usr/bin/program"},
		{program: "program", want: "the program /usr/bin/program"},
		{program: "link", want: "the program /bin/link"},
		{program: "/bin/outside", want: "the program /bin/outside"}, // which is not
		{program: "/bin/host"},
		{program: "script", want: "the program /usr/bin/program"},
		{program: "deep", want: "the program /usr/bin/program"},
		{program: "loop"},
		{program: "text"},
		{program: "empty"},
		{program: "data"},
		{program: "absent"},
		{program: "./here", cwd: "/srv", want: "the program /srv/here"},
		{program: "here", cwd: "/srv"},
		{program: "/usr/bin/program", mounts: []string{"/usr"}},
		{program: "/usr/bin/program", mounts: []string{"/usr/bin/prog"}, want: "the program /usr/bin/program"},
	} {
		b := &Bundle{Rootfs: rootfs, Spec: &specs.Spec{Process: &specs.Process{
			Args: []string{test.program}, Cwd: test.cwd, Env: []string{"PATH=/nowhere", "PATH=/sbin:/bin:/usr/bin"},
		}}}
		for _, at := range test.mounts {
			b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: at})
		}
		name, by, err := b.findArchitecture(false)
		if err != nil || by != test.want || (name == "arm64") != (by != "") {
			t.Errorf("%+v: %q, %q, %v", test, name, by, err)
		}
	}

	b := &Bundle{Rootfs: rootfs, Spec: &specs.Spec{
		Process: &specs.Process{Args: []string{"program"}}, Annotations: map[string]string{"io.katacontainers.architecture": "x86_64"},
	}}
	if name, _, err := b.findArchitecture(false); name != "amd64" || err != nil {
		t.Errorf("with an annotation: %q, %v", name, err)
	}
	if name, by, err := b.findArchitecture(true); name != "" || err != nil { // not found: there is no PATH
		t.Errorf("of one that joins: %q, %q, %v", name, by, err)
	}
	b.Spec.Process.Args[0] = "/usr/bin/program"
	if name, _, err := b.findArchitecture(true); name != "arm64" || err != nil {
		t.Errorf("of one that joins: %q, %v", name, err)
	}
	b.Spec.Annotations["io.katacontainers.architecture"] = "vax"
	if _, _, err := b.findArchitecture(false); err == nil || !strings.Contains(err.Error(), `"vax"`) {
		t.Errorf("with an annotation without meaning: %v", err)
	}
}
