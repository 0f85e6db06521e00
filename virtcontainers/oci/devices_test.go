package oci

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestTransformDevices(t *testing.T) {
	tests := []struct {
		device specs.LinuxDevice
		wrong  string
	}{
		{specs.LinuxDevice{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}, ""},
		{specs.LinuxDevice{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200}, ""},
		{specs.LinuxDevice{Path: "/dev/fifo", Type: "p"}, ""},
		{specs.LinuxDevice{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232}, "character device 10:232"},
		{specs.LinuxDevice{Path: "/dev/vda", Type: "b", Major: 254}, ""},
		{specs.LinuxDevice{Path: "/dev/vda", Type: "b", Major: -1}, "-1:0 is no device number"},
		{specs.LinuxDevice{Path: "/dev/vda", Type: "b", Minor: 1 << 20}, "0:1048576 is no device number"},
		{specs.LinuxDevice{Path: "/dev/x", Type: "a"}, "type"},
	}
	for _, test := range tests {
		spec := baseSpec()
		spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}, test.device}
		_, err := Transform(spec, testOptions())
		if test.wrong == "" {
			if err != nil {
				t.Errorf("%s: %v", test.device.Path, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "linux.devices[1] ("+test.device.Path+")") || !strings.Contains(err.Error(), test.wrong) {
			t.Errorf("%s: %v", test.device.Path, err)
		}
	}
}

// What the host has is not what a privileged container gets, even if its caller
// lists it. Loop devices are the guest's.
func TestAPrivilegedContainerGetsNoDeviceOfTheHost(t *testing.T) {
	kvm := specs.LinuxDevice{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232}
	disk := specs.LinuxDevice{Path: "/dev/sda", Type: "b", Major: 8}
	volume := specs.LinuxDevice{Path: "/dev/volume", Type: "b", Major: 8}
	null := specs.LinuxDevice{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}
	elsewhere := specs.LinuxDevice{Path: "/dev/other", Type: "c", Major: 10, Minor: 232}
	mounted := specs.Mount{Type: "bind", Destination: "/dev/sda", Source: "/dev/sda", Options: []string{"bind"}}
	privileged := []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	hostLoop := specs.LinuxDevice{Path: "/dev/loop3", Type: "b", Major: 7, Minor: 3}
	loops := []string{
		"/dev/loop-control", "/dev/loop0", "/dev/loop1", "/dev/loop2", "/dev/loop3", "/dev/loop4", "/dev/loop5", "/dev/loop6", "/dev/loop7",
	}
	for name, test := range map[string]struct {
		rules   []specs.LinuxDeviceCgroup
		devices []specs.LinuxDevice
		mounts  []specs.Mount
		want    []string // paths in the container, besides those of loop devices
		loops   bool
		disks   int
		wrong   string
	}{
		"its list":                  {rules: privileged, devices: []specs.LinuxDevice{kvm, null, disk, hostLoop}, want: []string{"/dev/null"}, loops: true},
		"all types":                 {rules: []specs.LinuxDeviceCgroup{rule(true, "a", -1, -1, "mrw")}, devices: []specs.LinuxDevice{kvm, disk}, loops: true},
		"none of the host's":        {rules: privileged, devices: []specs.LinuxDevice{volume}, want: []string{"/dev/volume"}, disks: 1},
		"a volume":                  {rules: privileged, devices: []specs.LinuxDevice{disk, volume}, want: []string{"/dev/volume"}, disks: 1, loops: true},
		"a mounted disk":            {rules: privileged, devices: []specs.LinuxDevice{disk}, mounts: []specs.Mount{mounted}, want: []string{"/dev/sda"}, disks: 1, loops: true},
		"a name of its own":         {rules: privileged, devices: []specs.LinuxDevice{elsewhere}, wrong: "linux.devices[0] (/dev/other)"},
		"no rules":                  {devices: []specs.LinuxDevice{null, kvm}, wrong: "linux.devices[1] (/dev/kvm)"},
		"denied again":              {rules: append(privileged, specs.LinuxDeviceCgroup{Access: "rwm"}), devices: []specs.LinuxDevice{kvm}, wrong: "/dev/kvm"},
		"all but making nodes":      {rules: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rw"}}, devices: []specs.LinuxDevice{kvm}, wrong: "/dev/kvm"},
		"all character devices":     {rules: []specs.LinuxDeviceCgroup{rule(true, "c", -1, -1, "rwm")}, devices: []specs.LinuxDevice{kvm}, wrong: "/dev/kvm"},
		"a disk without privileges": {rules: []specs.LinuxDeviceCgroup{rule(true, "b", 8, 0, "rwm")}, devices: []specs.LinuxDevice{disk}, want: []string{"/dev/sda"}, disks: 1},
	} {
		t.Run(name, func(t *testing.T) {
			spec := baseSpec()
			spec.Linux.Resources = &specs.LinuxResources{Devices: test.rules}
			spec.Linux.Devices, spec.Mounts = test.devices, test.mounts
			guest, err := transform(spec, testOptions(), testHost())
			if test.wrong != "" {
				if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), test.wrong) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var paths, ownLoops []string
			for _, device := range guest.Spec.Linux.Devices {
				if slices.Contains(loops, device.Path) {
					ownLoops = append(ownLoops, device.Path)
				} else {
					paths = append(paths, device.Path)
				}
			}
			if slices.Equal(ownLoops, loops) != test.loops || len(ownLoops) > 0 != test.loops {
				t.Errorf("loop devices %q", ownLoops)
			}
			if diff := cmp.Diff(test.want, paths); diff != "" {
				t.Error(diff)
			}
			if len(guest.BlockDevices) != test.disks {
				t.Errorf("disks %v", guest.BlockDevices)
			}
			if dropped := len(guest.Dropped); dropped != len(test.devices)+len(test.mounts)-len(test.want) {
				t.Errorf("dropped %q", guest.Dropped)
			}
		})
	}
}

func TestBlockDevicesAreReadOnlyByTheirRules(t *testing.T) {
	for name, test := range map[string]struct {
		rules    []specs.LinuxDeviceCgroup
		readOnly bool
	}{
		"none":                 {nil, true},
		"denied":               {[]specs.LinuxDeviceCgroup{{Access: "rwm"}}, true},
		"everything allowed":   {[]specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true}}, false},
		"this one":             {[]specs.LinuxDeviceCgroup{{}, rule(true, "b", 8, 16, "rw")}, false},
		"to be read":           {[]specs.LinuxDeviceCgroup{{}, rule(true, "b", 8, 16, "rm")}, true},
		"another":              {[]specs.LinuxDeviceCgroup{{}, rule(true, "b", 8, 17, "rw")}, true},
		"a character device":   {[]specs.LinuxDeviceCgroup{{}, rule(true, "c", 8, 16, "rw")}, true},
		"its major":            {[]specs.LinuxDeviceCgroup{{}, rule(true, "b", 8, -1, "rwm")}, false},
		"allowed, then denied": {[]specs.LinuxDeviceCgroup{{Allow: true}, rule(false, "a", -1, -1, "w")}, true},
		"denied to be made":    {[]specs.LinuxDeviceCgroup{{Allow: true}, rule(false, "b", 8, 16, "m")}, false},
	} {
		spec := baseSpec()
		device := specs.LinuxDevice{Path: "/dev/x", Type: "b", Major: 8, Minor: 16}
		spec.Linux.Devices = []specs.LinuxDevice{device, device}
		spec.Linux.Resources = &specs.LinuxResources{Devices: test.rules}
		guest := mustTransform(t, spec, testOptions())
		if diff := cmp.Diff([]BlockDevice{{Major: 8, Minor: 16, ReadOnly: test.readOnly}}, guest.BlockDevices); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestLimitsAreOnTheContainersBlockDevices(t *testing.T) {
	spec := baseSpec()
	spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "b", Major: 8, Minor: 16}}
	blockIO := &specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{weightDevice(8, 16, 100)}}
	spec.Linux.Resources = &specs.LinuxResources{BlockIO: blockIO}
	guest := mustTransform(t, spec, testOptions())
	if diff := cmp.Diff(blockIO, guest.Spec.Linux.Resources.BlockIO); diff != "" {
		t.Error(diff)
	}
	blockIO.WeightDevice[0].Minor = 17
	if _, err := Transform(spec, testOptions()); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "weightDevice") || !strings.Contains(err.Error(), "8:17") {
		t.Errorf("error = %v", err)
	}
}
