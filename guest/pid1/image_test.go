package pid1

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/bootparam"
)

func TestFindImage(t *testing.T) {
	const table = "guest,,0,ro,0 1024 verity 1 /dev/vda /dev/vda 4096 4096 128 129 sha256 ab cd 1 panic_on_corruption"
	image, err := findImage(bootparam.Params{MappedRoot: table, RootType: "erofs"})
	if err != nil {
		t.Fatal(err)
	}
	want := rootImage{
		fileSystem: "erofs", name: "guest", kind: "verity", sectors: 1024,
		params: "1 /dev/vda /dev/vda 4096 4096 128 129 sha256 ab cd 1 panic_on_corruption",
	}
	if *image != want {
		t.Errorf("findImage = %+v, want %+v", *image, want)
	}
	if image, err := findImage(bootparam.Params{RootType: "erofs"}); image != nil || err != nil {
		t.Errorf("findImage without one = %+v, %v", image, err)
	}
	for _, table := range []string{
		"x", "guest,,0,rw,0 1024 verity 1", "guest,,0,ro,0 1024 verity", "guest,,0,ro,8 1024 verity 1", "guest,,0,ro,0 many verity 1",
	} {
		if _, err := findImage(bootparam.Params{MappedRoot: table}); !errors.Is(err, errTable) {
			t.Errorf("findImage of %q = %v", table, err)
		}
	}
}

// The kernel is given numbers, and tables whose lengths are whole words.
func TestMapperMessage(t *testing.T) {
	params, err := numberDevices("1 /dev/null 4096 /dev/zero", "/dev")
	if err != nil || params != "1 1:3 4096 1:5" {
		t.Fatalf("numberDevices = %q, %v", params, err)
	}
	if _, err := numberDevices("/dev/absent", t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("numberDevices of nothing = %v", err)
	}
	if _, err := mapDevice(&rootImage{}, filepath.Join(t.TempDir(), "dev")); err == nil || !strings.Contains(err.Error(), "rootfs-builder -disk") {
		t.Errorf("mapDevice without a device mapper = %v", err)
	}
	table := mapperTable(&rootImage{kind: "verity", sectors: 1024}, params)
	message := mapperMessage("guest", unix.DM_READONLY_FLAG, table)
	const head, spec = 312, 40 // dm-ioctl.h
	if len(message)%8 != 0 || int(binary.NativeEndian.Uint32(message[12:])) != len(message) || binary.NativeEndian.Uint32(message[16:]) != head {
		t.Errorf("%d bytes say that they are %d, from %d", len(message), binary.NativeEndian.Uint32(message[12:]), binary.NativeEndian.Uint32(message[16:]))
	}
	if binary.NativeEndian.Uint32(message[20:]) != 1 || string(message[48:54]) != "guest\x00" {
		t.Errorf("head %x", message[:head])
	}
	if binary.NativeEndian.Uint64(message[head+8:]) != 1024 || string(message[head+24:head+31]) != "verity\x00" {
		t.Errorf("table %x", message[head:])
	}
	if !strings.HasPrefix(string(message[head+spec:]), params+"\x00") {
		t.Errorf("parameters %q", message[head+spec:])
	}
}
