//go:build vm

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// loop is a block device of the host.
type loop struct {
	node         string
	image        string
	major, minor int64
}

// newLoop makes a loop device that begins with a line of text, until the test is
// over.
func newLoop(h *harness.Host, name string, flags ...string) loop {
	h.T.Helper()
	l := loop{image: h.File(name)}
	if err := os.WriteFile(l.image, []byte(name+"\n"), 0o600); err != nil {
		h.T.Fatal(err)
	}
	if err := os.Truncate(l.image, 1<<20); err != nil {
		h.T.Fatal(err)
	}
	out, err := exec.CommandContext(h.T.Context(), "losetup", append(flags, "--find", "--show", l.image)...).Output()
	if err != nil {
		h.T.Fatalf("losetup: %v", err)
	}
	l.node = strings.TrimSpace(string(out))
	h.T.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", l.node).CombinedOutput(); err != nil {
			h.T.Errorf("losetup: %v: %s", err, out)
		}
	})
	var stat unix.Stat_t
	if err := unix.Stat(l.node, &stat); err != nil {
		h.T.Fatal(err)
	}
	l.major, l.minor = int64(unix.Major(stat.Rdev)), int64(unix.Minor(stat.Rdev))
	return l
}

// give adds the device at path, with an access by rule.
func (l loop) give(spec *specs.Spec, path, access string) {
	mode, uid, gid := os.FileMode(0o640), uint32(5), uint32(6)
	spec.Linux.Devices = append(spec.Linux.Devices, specs.LinuxDevice{
		Path: path, Type: "b", Major: l.major, Minor: l.minor, FileMode: &mode, UID: &uid, GID: &gid,
	})
	l.allow(spec, access)
}

func (l loop) allow(spec *specs.Spec, access string) {
	spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
		Allow: true, Type: "b", Major: &l.major, Minor: &l.minor, Access: access,
	})
}

// The host's block devices appear where, and as, the container asks for.
func TestBlockDevices(t *testing.T) {
	h := harness.New(t)
	spec := bundle.Spec()
	writable, ruled, locked, bound, outside := newLoop(h, "writable"), newLoop(h, "ruled"), newLoop(h, "locked", "--read-only"), newLoop(h, "bound"), newLoop(h, "outside")
	writable.give(spec, "/dev/writable", "rw")
	ruled.give(spec, "/dev/ruled", "r")
	locked.give(spec, "/dev/locked", "rwm")
	outside.give(spec, "/data/outside", "rw")
	bound.allow(spec, "rwm")
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/dev/bound", Type: "bind", Source: bound.node, Options: []string{"bind"}})
	spec.Linux.Resources.BlockIO = &specs.LinuxBlockIO{ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{throttle(writable, 5<<20)}}
	// A pod may have many: twenty with those above.
	for i := range 15 {
		name := fmt.Sprintf("many%02d", i)
		newLoop(h, name).give(spec, filepath.Join("/dev", name), "rw")
	}
	const write = "; echo written | dd of=/dev/%[1]s bs=512 seek=1 conv=fsync 2>/dev/null || echo refused"
	const read = "head -n 1 /dev/%[1]s"
	const number = `ls -l /dev/writable | awk '{sub(",", ":", $5); print $5 $6}'`
	facts := []fact{
		{"a device", fmt.Sprintf(read+write, "writable"), "writable"},
		{"its node", "stat -c '%a %u %g' /dev/writable", "640 5 6"},
		{"its size", "blockdev --getsize64 /dev/writable", strconv.Itoa(1 << 20)},
		{"read-only by its rule", fmt.Sprintf(read+write, "ruled"), "ruled refused"},
		{"read-only on the host", fmt.Sprintf(read+write, "locked"), "locked refused"},
		{"a bind mount", fmt.Sprintf(read+write, "bound"), "bound"},
		{"outside of /dev", "head -n 1 /data/outside; stat -c '%F %a %u' /data/outside", "outside block special file 640 5"},
		{"no mount", "grep -c /dev/bound /proc/mounts", "0"},
		{"a limit", "grep -c \"^$(" + number + ") rbps=max wbps=5242880\" /sys/fs/cgroup/io.max", "1"},
		{"many devices", `for d in /dev/many*; do [ $(head -n 1 $d) = ${d##*/} ] && echo; done | grep -c ""`, "15"},
		{"an unknown device", "mknod /dev/unknown b 253 0 && head -c 1 /dev/unknown", "head: /dev/unknown: Operation not permitted"},
	}
	checkFactsOn(t, h, spec, facts)
	for _, l := range []loop{writable, bound} {
		if data := l.block(t, 1); data != "written\n" {
			t.Errorf("the host reads %q from %s", data, l.image)
		}
	}
	for _, l := range []loop{ruled, locked, outside} {
		if data := l.block(t, 1); data != "" {
			t.Errorf("the host reads %q from %s", data, l.image)
		}
	}
}

func throttle(l loop, rate uint64) specs.LinuxThrottleDevice {
	var limit specs.LinuxThrottleDevice
	limit.Major, limit.Minor, limit.Rate = l.major, l.minor, rate
	return limit
}

// block returns the text of the n-th block of 512 bytes of the device's image.
func (l loop) block(t *testing.T, n int64) string {
	t.Helper()
	file, err := os.Open(l.image)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	block := make([]byte, 512)
	if _, err := file.ReadAt(block, n*512); err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(string(block), "\x00")
}
