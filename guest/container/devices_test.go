package container

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func testDisks() diskNumbers {
	return diskNumbers{{Major: 8, Minor: 0}: {Major: 254, Minor: 0}, {Major: 8, Minor: 16}: {Major: 254, Minor: 16}}
}

func TestTranslateDevices(t *testing.T) {
	mode, uid := os.FileMode(0o640), uint32(5)
	null := specs.LinuxDevice{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}
	device := func(path string, major, minor int64) specs.LinuxDevice {
		return specs.LinuxDevice{Path: path, Type: "b", Major: major, Minor: minor, FileMode: &mode, UID: &uid}
	}
	spec := &specs.Spec{Linux: &specs.Linux{Devices: []specs.LinuxDevice{null, device("/dev/a", 8, 0), device("/data/b", 8, 16), device("/dev/../c", 8, 0)}}}
	mounted, err := translateDevices(spec, testDisks(), "/nodes")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]specs.LinuxDevice{null, device("/dev/a", 254, 0)}, spec.Linux.Devices); diff != "" {
		t.Error(diff)
	}
	if len(mounted) != 2 || mounted[0].Minor != 16 || mounted[0].source != "/nodes/0" || mounted[1].Path != "/c" || mounted[1].source != "/nodes/1" {
		t.Errorf("mounted: %+v", mounted)
	}
	if len(spec.Mounts) != 2 || spec.Mounts[0].Source != "/nodes/0" || spec.Mounts[0].Destination != "/data/b" {
		t.Errorf("mounts: %+v", spec.Mounts)
	}

	spec.Linux.Devices = []specs.LinuxDevice{device("/dev/a", 8, 0)}
	spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace}}
	if mounted, err := translateDevices(spec, testDisks(), "/nodes"); err != nil || len(mounted) != 1 || len(spec.Linux.Devices) != 0 {
		t.Errorf("in a user namespace: %+v, %v", mounted, err)
	}
	// What libcontainer would take from the guest's /dev is right for standard
	// devices alone.
	fuse := specs.LinuxDevice{Path: "/dev/../fuse", Type: "c", Major: 10, Minor: 229, FileMode: &mode, UID: &uid}
	ptmx := specs.LinuxDevice{Path: "/dev/ptmx", Type: "c", Major: 5, Minor: 2}
	zero := specs.LinuxDevice{Path: "/dev/null", Type: "c", Major: 1, Minor: 5} // by another's name
	spec.Mounts, spec.Linux.Devices = nil, []specs.LinuxDevice{null, fuse, ptmx, zero}
	mounted, err = translateDevices(spec, testDisks(), "/nodes")
	if err != nil || len(mounted) != 2 || mounted[0].Path != "/fuse" || mounted[1].Minor != 5 || len(spec.Mounts) != 2 {
		t.Errorf("in a user namespace: %+v, %v", mounted, err)
	}
	if diff := cmp.Diff([]specs.LinuxDevice{null, ptmx}, spec.Linux.Devices); diff != "" {
		t.Error(diff)
	}
	spec.Linux.Namespaces, spec.Linux.Devices = nil, []specs.LinuxDevice{device("/dev/loop0", 7, 0)}
	if _, err := translateDevices(spec, testDisks(), "/nodes"); err != nil {
		t.Errorf("a loop device of the guest's own: %v", err)
	}
	if diff := cmp.Diff([]specs.LinuxDevice{device("/dev/loop0", 7, 0)}, spec.Linux.Devices); diff != "" {
		t.Error(diff)
	}
	spec.Linux.Devices = []specs.LinuxDevice{device("/dev/a", 9, 0)}
	if _, err := translateDevices(spec, testDisks(), "/nodes"); !errors.Is(err, ErrInvalid) {
		t.Errorf("a device that is not plugged in: %v", err)
	}
}

func TestTranslateRules(t *testing.T) {
	rule := func(kind string, major, minor int64) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: "rw"}
	}
	all := specs.LinuxDeviceCgroup{Access: "rwm"}
	major := int64(8)
	got := translateRules([]specs.LinuxDeviceCgroup{
		all, rule("c", 8, 0), rule("b", 8, 16), rule("b", 8, 32), rule("b", 254, 0), rule("b", -1, -1),
		{Allow: true, Type: "b", Major: &major, Access: "m"},
	}, testDisks())
	if len(got) != 6 {
		t.Fatalf("%d rules: %+v", len(got), got)
	}
	if diff := cmp.Diff([]specs.LinuxDeviceCgroup{all, rule("c", 8, 0), rule("b", 254, 16), rule("b", -1, -1)}, got[:4]); diff != "" {
		t.Error(diff)
	}
	minors := []int64{*got[4].Minor, *got[5].Minor}
	slices.Sort(minors)
	if *got[4].Major != 254 || *got[5].Major != 254 || got[4].Access != "m" || !slices.Equal(minors, []int64{0, 16}) {
		t.Errorf("rules of a whole major number: %+v", got[4:])
	}
}

func TestTranslateBlockIO(t *testing.T) {
	const limit = `{"blockIO":{"weight":100,"throttleReadBpsDevice":[{"major":8,"minor":16,"rate":7}]}}`
	got, err := translateUpdate([]byte(limit), testDisks())
	if want := `{"blockIO":{"weight":100,"throttleReadBpsDevice":[{"major":254,"minor":16,"rate":7}]}}`; err != nil || string(got) != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	for _, wrong := range []string{
		`{"blockIO":{"throttleWriteBpsDevice":[{"major":254,"minor":16,"rate":7}]}}`,
		`{"blockIO":{"weightDevice":[{"major":8,"minor":1,"weight":7}]}}`,
	} {
		if _, err := translateUpdate([]byte(wrong), testDisks()); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

func TestMapID(t *testing.T) {
	five, far := uint32(5), uint32(70000)
	mappings := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	for _, test := range []struct {
		mappings []specs.LinuxIDMapping
		id       *uint32
		want     int
	}{{nil, nil, 0}, {nil, &five, 5}, {mappings, nil, 100000}, {mappings, &five, 100005}, {mappings, &far, 70000}} {
		if got := mapID(test.mappings, test.id); got != test.want {
			t.Errorf("mapID(%v, %v) = %d, want %d", test.mappings, test.id, got, test.want)
		}
	}
}
