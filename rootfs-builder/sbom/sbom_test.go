package sbom

import (
	"bytes"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"
)

// The test's own program stands for the agent: Go built it.
func testImage(t *testing.T) Image {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	return Image{
		Name: "initrd.img", SHA256: strings.Repeat("ab", 32), Created: time.Unix(1_700_000_000, 0),
		Files: []File{NewFile("/etc/empty", nil), NewFile("/init", program), NewFile("/lib/copy", program)},
	}
}

func TestWrite(t *testing.T) {
	text, err := Write(testImage(t))
	if err != nil {
		t.Fatal(err)
	}
	d, err := spdxjson.Read(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(d); err != nil {
		t.Error(err)
	}
	if d.CreationInfo.Created != "2023-11-14T22:13:20Z" {
		t.Errorf("created %s", d.CreationInfo.Created)
	}
	packages := map[string]int{}
	for _, p := range d.Packages {
		packages[p.PackageName]++
	}
	for _, name := range []string{"initrd.img", "kata-runtime", "stdlib"} {
		if packages[name] != 1 {
			t.Errorf("%s is listed %d times, want once: %v", name, packages[name], packages)
		}
	}
	if len(d.Files) != 3 || d.Files[0].FileName != "./etc/empty" || d.Files[0].Checksums[0].Value != "da39a3ee5e6b4b0d3255bfef95601890afd80709" {
		t.Errorf("files %+v", d.Files)
	}
	contains := 0
	for _, relationship := range d.Relationships {
		if relationship.Relationship == "CONTAINS" {
			contains++
		}
	}
	if contains != len(d.Files) {
		t.Errorf("the image contains %d files, want %d", contains, len(d.Files))
	}
}

func TestWriteIsReproducible(t *testing.T) {
	first, err := Write(testImage(t))
	if err != nil {
		t.Fatal(err)
	}
	second, err := Write(testImage(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("the same image gives another document")
	}
}

// The modules of a program, under the names by which scanners know them.
func TestProgram(t *testing.T) {
	d := newDocument(Image{Name: "x", Created: time.Unix(0, 0)})
	info := &debug.BuildInfo{
		GoVersion: "go1.26.8", Main: debug.Module{Path: "kata-runtime", Version: "(devel)"},
		Deps: []*debug.Module{
			{Path: "example.org/a", Version: "v1.0.0+incompatible", Sum: "h1:abc="},
			{Path: "example.org/b", Version: "v1.0.0", Replace: &debug.Module{Path: "example.org/c", Version: "v2.0.0"}},
		},
		Settings: []debug.BuildSetting{{Key: "CGO_ENABLED", Value: "1"}},
	}
	d.program("File-1", info)
	d.program("File-2", info) // whose modules are the same packages
	got := map[string]string{}
	for _, p := range d.Packages {
		if got[p.PackageName] = p.PackageVersion; len(p.PackageExternalReferences) > 0 {
			got[p.PackageName] = p.PackageExternalReferences[0].Locator
		}
	}
	want := map[string]string{
		"kata-runtime": "(devel)", "stdlib": "pkg:golang/stdlib@1.26.8", "glibc": "", "libseccomp": "",
		"example.org/a": "pkg:golang/example.org/a@v1.0.0+incompatible", "example.org/c": "pkg:golang/example.org/c@v2.0.0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(d.Packages) != len(want) || len(d.Relationships) != 2*len(want) {
		t.Errorf("%d packages and %d relationships, want %d and %d", len(d.Packages), len(d.Relationships), len(want), 2*len(want))
	}
}
