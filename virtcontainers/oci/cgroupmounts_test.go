package oci

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// version1Host has cgroups of version 1.
func version1Host() fakeHost {
	host := testHost()
	host.tmpfs[cgroupRoot] = tmpfs{root: true}
	for _, dir := range []string{"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/memory", "/volume", "/full"} {
		host.files[dir] = fakeFile{mode: fs.ModeDir}
	}
	host.files["/full/file"] = fakeFile{}
	return host
}

func TestCgroupMounts(t *testing.T) {
	version2 := version1Host()
	delete(version2.tmpfs, cgroupRoot)
	bind := func(source, destination, options string) specs.Mount {
		return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: strings.Split(options, ",")}
	}
	own := func(options string) specs.Mount {
		return specs.Mount{Type: "cgroup", Source: "cgroup", Destination: cgroupRoot, Options: strings.Split(options, ",")}
	}
	tests := []struct {
		name   string
		host   fakeHost
		mounts []specs.Mount
		want   string // "type destination options; ..." of the guest's
	}{
		{
			"podman's mount for systemd", version1Host(),
			[]specs.Mount{own("rprivate,nosuid,noexec,nodev,relatime,ro"), bind("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/systemd", "bind,nodev,noexec,nosuid,rprivate")},
			"cgroup /sys/fs/cgroup nosuid,noexec,nodev,relatime,rw",
		},
		{
			"the same, after others", version1Host(),
			[]specs.Mount{bind("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/systemd", "bind"), {Type: "tmpfs", Destination: "/run"}, own("nosuid,ro")},
			"cgroup /sys/fs/cgroup nosuid,rw; tmpfs /run ",
		},
		{
			"podman's on version 2", version2,
			[]specs.Mount{own("private,rw")},
			"cgroup /sys/fs/cgroup private,rw",
		},
		{
			"a volume of the image for all", version1Host(),
			[]specs.Mount{bind("/volume", cgroupRoot, "rbind,nosuid"), bind("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/systemd", "bind")},
			"cgroup /sys/fs/cgroup nosuid,rw",
		},
		{
			"a volume of the image for systemd's", version2,
			[]specs.Mount{own("nosuid,ro"), bind("/volume", "/sys/fs/cgroup/systemd", "rbind")},
			"cgroup /sys/fs/cgroup nosuid,rw",
		},
		{
			"a volume that is not empty", version2,
			[]specs.Mount{bind("/full", cgroupRoot, "bind")},
			"bind /sys/fs/cgroup bind",
		},
		{
			"all of version 1, of which the directory is read-only", version1Host(),
			[]specs.Mount{bind(cgroupRoot, cgroupRoot, "rbind,ro")},
			"cgroup /sys/fs/cgroup rw",
		},
		{
			"all of version 2, read-only", version2,
			[]specs.Mount{bind(cgroupRoot, cgroupRoot, "rbind,ro")},
			"cgroup /sys/fs/cgroup ro",
		},
		{
			"a controller of version 1, read-only", version1Host(),
			[]specs.Mount{own("ro"), bind("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory", "bind,ro")},
			"cgroup /sys/fs/cgroup ro",
		},
		{"no part", version1Host(), []specs.Mount{{Type: "tmpfs", Destination: cgroupRoot}}, "tmpfs /sys/fs/cgroup "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec := baseSpec()
			spec.Mounts = test.mounts
			guest, err := transform(spec, testOptions(), test.host)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range guest.Spec.Mounts {
				got = append(got, fmt.Sprintf("%s %s %s", m.Type, m.Destination, strings.Join(m.Options, ",")))
			}
			if diff := cmp.Diff(test.want, strings.Join(got, "; ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}
