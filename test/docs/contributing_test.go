package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What CONTRIBUTING.md sends people to is there: files and packages, tests, and
// targets of the Makefile.
func TestContributingLeadsSomewhere(t *testing.T) {
	text := page(t, "CONTRIBUTING.md")
	makefile := page(t, "Makefile")
	tests := testNames(t)
	paths := 0
	for _, quoted := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
		words := strings.Fields(quoted[1])
		for _, word := range words {
			word = strings.TrimPrefix(word, "./")
			first, _, below := strings.Cut(word, "/")
			if _, err := os.Stat(filepath.Join(root, first)); !below || first == "" || first == "bin" || strings.Contains(word, "NAME") || strings.Contains(word, "...") || err != nil {
				continue
			}
			paths++
			if _, err := os.Stat(filepath.Join(root, word)); err != nil {
				t.Errorf("%s: %v", quoted[0], err)
			}
		}
		for _, named := range regexp.MustCompile(`-run '\^(\w+)\$'`).FindAllStringSubmatch(quoted[1], -1) {
			if !tests[named[1]] {
				t.Errorf("there is no %s: %s", named[1], quoted[0])
			}
		}
		if words[0] != "make" {
			continue
		}
		for _, target := range words[1:] {
			if !strings.Contains(target, "=") && !strings.Contains(makefile, "\n"+target+":") {
				t.Errorf("make has no target %s: %s", target, quoted[0])
			}
		}
	}
	if paths < 30 {
		t.Errorf("%d paths", paths)
	}
	for _, task := range []string{"another VMM", "another front end", "a field of the specification", "a flag of `exec`", "another way to start a pod"} {
		if !strings.Contains(text, "\n| **"+task+"**") {
			t.Errorf("nothing says which rooms to touch for %s", task)
		}
	}
}

// The words that mean one thing each are explained.
func TestGlossary(t *testing.T) {
	_, glossary, _ := strings.Cut(page(t, "docs/architecture.md"), "\n## Words\n")
	glossary, _, _ = strings.Cut(glossary, "\n## ")
	var words []string
	for _, row := range regexp.MustCompile(`(?m)^\| \*\*([^*]+)\*\* \|`).FindAllStringSubmatch(glossary, -1) {
		words = append(words, row[1])
	}
	for _, word := range []string{"machine", "VM", "sandbox", "pod", "supervisor", "shim", "stand-in"} {
		if !slices.Contains(words, word) {
			t.Errorf("%s is not explained", word)
		}
	}
}
