// Package docs tests what the documentation says of the source tree.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// Each bound of docs/security.md names tests that are there.
func TestBoundsAreTested(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/security.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## What a guest can make the host hold\n")
	section, _, _ = strings.Cut(section, "\n## ")
	tests := testNames(t)
	rows := 0
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "|") || len(cells) != 3 || strings.HasPrefix(cells[0], "-") || cells[2] == " Test " {
			continue
		}
		rows++
		names := regexp.MustCompile("`([A-Za-z0-9]+)`").FindAllStringSubmatch(cells[2], -1)
		if len(names) == 0 && !strings.Contains(cells[0], "exec") {
			t.Errorf("no test: %s", line)
		}
		for _, name := range names {
			if !tests[name[1]] {
				t.Errorf("there is no %s: %s", name[1], line)
			}
		}
	}
	if !found || rows < 20 {
		t.Errorf("%d rows", rows)
	}
}

// testNames are those of all tests and fuzz targets.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w*)\(`)
	for _, dir := range []string{"cmd", "guest", "hypervisor", "test", "virtcontainers"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, match := range declared.FindAllStringSubmatch(string(text), -1) {
				names[match[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}
