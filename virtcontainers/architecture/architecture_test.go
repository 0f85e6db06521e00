package architecture_test

import (
	"os"
	"runtime"
	"testing"

	"kata-runtime/virtcontainers/architecture"
)

func TestParse(t *testing.T) {
	for name, want := range map[string]string{
		"amd64": "amd64", "x86_64": "amd64", "386": "amd64", "arm64": "arm64", "aarch64": "arm64", "arm": "arm64",
		"riscv64": "", "": "", "ARM64": "",
	} {
		if got := architecture.Parse(name); got != want {
			t.Errorf("Parse(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestAnnotated(t *testing.T) {
	const own, image = "io.katacontainers.architecture", "org.opencontainers.image.architecture"
	for _, test := range []struct {
		annotations map[string]string
		name, by    string
		fails       bool
	}{
		{nil, "", "", false},
		{map[string]string{own: "aarch64"}, "arm64", "annotation " + own, false},
		{map[string]string{image: "arm64"}, "arm64", "annotation " + image, false},
		{map[string]string{own: "amd64", image: "arm64"}, "amd64", "annotation " + own, false},
		{map[string]string{own: "sparc"}, "", "", true},
		{map[string]string{own: ""}, "", "", true},
		{map[string]string{image: "sparc"}, "", "", false},
	} {
		name, by, err := architecture.Annotated(test.annotations)
		if name != test.name || by != test.by || (err != nil) != test.fails {
			t.Errorf("Annotated(%v) = %q, %q, %v", test.annotations, name, by, err)
		}
	}
}

// header is the beginning of an ELF file.
func header(data, machine byte) []byte {
	text := make([]byte, architecture.HeaderSize)
	copy(text, "\x7fELF\x02")
	text[5], text[18] = data, machine
	return text
}

func TestOfELF(t *testing.T) {
	own, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		header []byte
		want   string
	}{
		{own, runtime.GOARCH},
		{header(1, 183), "arm64"},
		{header(1, 40), "arm64"},
		{header(1, 62), "amd64"},
		{header(1, 3), "amd64"},
		{header(1, 243), ""}, // RISC-V
		{header(2, 183), ""}, // big endian
		{header(1, 183)[:19], ""},
		{[]byte("#!/bin/sh\n###########"), ""},
		{nil, ""},
	} {
		if got := architecture.OfELF(test.header); got != test.want {
			t.Errorf("OfELF(%.20q) = %q, want %q", test.header, got, test.want)
		}
	}
}
