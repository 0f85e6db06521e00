//go:build vm && full

package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/test/program"
)

// TestInotifyOfPods: what the host or another pod changes in a volume is an event in each
// pod that watches it, whether its machine was booted, or prepared, from a saved one.
func TestInotifyOfPods(t *testing.T) {
	h := harness.New(t)
	dir := "/run/kata-pool-" + h.ID()
	settings := []string{
		`hypervisor.virtio_fs_daemon = "kata-fs"`, "hypervisor.virtio_fs_notify = true", "factory.pool_size = 1",
		"factory.max_load = 0", "factory.min_memory = 0", fmt.Sprintf("factory.dir = %q", dir),
	}
	configure(h, settings...)
	t.Cleanup(func() { removeCgroups(t, "kata-test") })
	defer func() {
		h.T = t
		h.Must("factory", "destroy")
	}()
	volume := h.File("volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	filer := h.File("filer")
	if err := program.Build(t.Context(), filer, "kata-runtime/test/vm/internal/filer"); err != nil {
		t.Fatal(err)
	}
	i := &inotify{t: t, h: h, filer: filer}
	start := func() detached {
		spec := bundle.Spec("/bin/sleep", "100000")
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/volume", Type: "bind", Source: volume, Options: []string{"rbind"}})
		b := h.Bundle(spec)
		if err := os.Link(filer, filepath.Join(b, "rootfs", "bin", "filer")); err != nil {
			t.Fatal(err)
		}
		d := detachBundle(h, b)
		i.containers = append(i.containers, d)
		return d
	}
	start() // booted: nothing is prepared yet
	fillPool(h)
	prepared := start()
	configure(h, append(settings, "factory.template = true")...)
	fillPool(h)
	start()
	if have, restored, _, why := templatesOf(h); have != 1 || restored == 0 {
		t.Fatalf("%d templates, and %d machines from them: %s", have, restored, why)
	}
	for name, change := range map[string]func(){
		"the host":        func() { script(t, volume, allKinds) },
		"one of the pods": func() { h.Must("exec", prepared.id, "/bin/sh", "-ec", "cd /volume; "+allKinds) },
	} {
		t.Run(name, func(t *testing.T) {
			i.t = t
			i.start([]string{"/volume"}, []string{volume})
			change()
			i.stop(t, volume)
		})
	}
	for _, d := range i.containers {
		h.Must("kill", d.id, "KILL")
		h.Reap(d.pid)
		h.Must("delete", d.id)
	}
}
