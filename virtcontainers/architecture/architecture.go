// Package architecture names the processor architectures that machines can have, as Go
// does, and finds the one that a program is for.
package architecture

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Names of architectures.
const (
	AMD64 = "amd64"
	ARM64 = "arm64"
)

// All lists them.
func All() []string { return []string{AMD64, ARM64} }

// Parse returns the architecture whose machines run programs of the one that is named, by
// Go, by the kernel or by an image; empty: there is none.
func Parse(name string) string {
	switch name {
	case "x86_64", "x86-64", "386", "i386", "i686":
		return AMD64
	case "aarch64", "arm":
		return ARM64
	}
	if slices.Contains(All(), name) {
		return name
	}
	return ""
}

const (
	// Annotation lets a pod, or a container on its own, choose its machine's architecture,
	// by any of its names.
	Annotation = "io.katacontainers.architecture"
	// imageAnnotation is the image's, as the image specification's rules of conversion
	// have it.
	imageAnnotation = "org.opencontainers.image.architecture"
)

// Annotated is what a container's annotations say of its architecture, and which of them
// does; empty: none.
func Annotated(annotations map[string]string) (name, annotation string, err error) {
	if value, ok := annotations[Annotation]; ok {
		if name = Parse(value); name == "" {
			return "", "", fmt.Errorf("annotation %s is %.80q: machines are %s", Annotation, value, strings.Join(All(), " or "))
		}
		return name, "annotation " + Annotation, nil
	}
	if name = Parse(annotations[imageAnnotation]); name != "" {
		return name, "annotation " + imageAnnotation, nil
	}
	return "", "", nil
}

// HeaderSize is how much of a program OfELF has to see, in bytes.
const HeaderSize = 20

// OfELF returns the architecture whose machines run the program that begins so; empty: it
// is no program, or for none of them.
func OfELF(header []byte) string {
	if len(header) < HeaderSize || string(header[:4]) != elf.ELFMAG || elf.Data(header[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return ""
	}
	switch elf.Machine(binary.LittleEndian.Uint16(header[18:])) {
	case elf.EM_X86_64, elf.EM_386:
		return AMD64
	case elf.EM_AARCH64, elf.EM_ARM:
		return ARM64
	default:
		return ""
	}
}
