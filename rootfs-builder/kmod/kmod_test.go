package kmod_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata-runtime/rootfs-builder/kmod"
)

// fakeModule is an ELF file with nothing but a .modinfo section.
func fakeModule(t *testing.T, depends string) []byte {
	t.Helper()
	return fakeModuleWith(t, depends, "")
}

// fakeModuleWith has more fields in it, each with a zero byte at its end.
func fakeModuleWith(t *testing.T, depends, fields string) []byte {
	t.Helper()
	info := []byte("license=GPL\x00depends=" + depends + "\x00" + fields + "name=fake\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	const headerSize, sectionSize = 64, 64
	infoOffset := uint64(headerSize)
	namesOffset := infoOffset + uint64(len(info))
	header := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1,
		Shoff: namesOffset + uint64(len(names)), Ehsize: headerSize, Shentsize: sectionSize, Shnum: 3, Shstrndx: 2,
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = 2, 1, 1
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: infoOffset, Size: uint64(len(info)), Addralign: 1},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: namesOffset, Size: uint64(len(names)), Addralign: 1},
	}
	var file bytes.Buffer
	for _, part := range []any{header, info, names, sections} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes()
}

// fakeTree writes a release's directory: modules maps paths to dependencies.
func fakeTree(t *testing.T, builtin string, modules map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, content []byte) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("modules.builtin", []byte(builtin))
	for path, depends := range modules {
		write(path, fakeModule(t, depends))
	}
	return dir
}

func paths(modules []kmod.Module) []string {
	var list []string
	for _, module := range modules {
		list = append(list, module.Path)
	}
	return list
}

func TestSelect(t *testing.T) {
	dir := fakeTree(t, "kernel/lib/crc-base.ko\n", map[string]string{
		"kernel/virtio/virtio_ring.ko": "",
		"kernel/virtio/virtio.ko":      "virtio_ring",
		"kernel/virtio/virtio_pci.ko":  "virtio,virtio_ring,crc_base",
		"kernel/hw/virtio-rng.ko":      "virtio",
		"kernel/fs/fuse.ko":            "",
		"kernel/fs/virtiofs.ko":        "fuse,virtio",
		"kernel/fs/unwanted.ko":        "",
		"kernel/fs/9p.ko":              "",
	})
	tree, err := kmod.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tree.Select([]string{"virtio_pci", "virtio_rng", "crc_base", "virtiofs"}, []string{"9p", "absent"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"kernel/virtio/virtio_ring.ko", "kernel/virtio/virtio.ko", "kernel/virtio/virtio_pci.ko",
		"kernel/hw/virtio-rng.ko", "kernel/fs/fuse.ko", "kernel/fs/virtiofs.ko", "kernel/fs/9p.ko",
	}
	if diff := cmp.Diff(want, paths(got)); diff != "" {
		t.Errorf("Select (-want +got):\n%s", diff)
	}
}

func TestSelectErrors(t *testing.T) {
	tests := map[string]struct {
		modules  map[string]string
		required string
		unknown  bool
		text     string
	}{
		"unknown module":        {nil, "fuse", true, "module fuse"},
		"unknown dependency":    {map[string]string{"a.ko": "b"}, "a", true, "module a needs: module b"},
		"circular dependency":   {map[string]string{"a.ko": "b", "b.ko": "a"}, "a", false, "depends on itself"},
		"compressed module":     {map[string]string{"a.ko.xz": ""}, "a", false, "compressed"},
		"compressed dependency": {map[string]string{"a.ko": "b", "b.ko.zst": ""}, "a", false, "compressed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tree, err := kmod.Open(fakeTree(t, "", test.modules))
			if err != nil {
				t.Fatal(err)
			}
			_, err = tree.Select([]string{test.required}, nil)
			if err == nil || errors.Is(err, kmod.ErrUnknownModule) != test.unknown || !strings.Contains(err.Error(), test.text) {
				t.Errorf("Select = %v, want an error with %q", err, test.text)
			}
		})
	}
}

func TestOpenErrors(t *testing.T) {
	if _, err := kmod.Open(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open without modules.builtin = %v", err)
	}
	dir := fakeTree(t, "", map[string]string{"x/a-b.ko": "", "y/a_b.ko": ""})
	if _, err := kmod.Open(dir); err == nil || !strings.Contains(err.Error(), "two files hold the module a_b") {
		t.Errorf("Open with a module twice = %v", err)
	}
}

func TestDependsOfSomethingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.ko")
	if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kmod.Depends(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Depends = %v", err)
	}
}
