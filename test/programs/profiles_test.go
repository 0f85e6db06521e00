//go:build vm && full

package programs

import (
	"strings"
	"testing"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// TestProfiles boots the kernel of each profile, with the initrd of the default one, and
// looks for what the profile is for.
func TestProfiles(t *testing.T) {
	const script = `
mount -t securityfs none /sys/kernel/security 2>/dev/null && cat /sys/kernel/security/lsm; echo
mount -t debugfs none /sys/kernel/debug 2>/dev/null && ls /sys/kernel/debug
ls -d /proc/lockdep /proc/sys/net/bridge 2>/dev/null
ip link add d0 type dummy 2>/dev/null && echo dummy
dmesg | grep -E 'WARNING|BUG|possible (circular|recursive) locking' # none
cat /proc/meminfo | head -n 2; cut -d ' ' -f 1 /proc/uptime
`
	for profile, facts := range map[string]struct{ has, lacks []string }{
		"minimal": {lacks: []string{"lockdep", "dummy", "kfence", "apparmor", "landlock"}},
		"debug":   {has: []string{"lockdep", "dummy", "kfence", "tracing", "landlock"}},
		"lsm":     {has: []string{"landlock,apparmor", "dummy"}, lacks: []string{"lockdep"}},
	} {
		t.Run(profile, func(t *testing.T) {
			h := harness.New(t)
			configure(h, profile, "")
			result := h.Run("run", "-b", h.Bundle(bundle.Privileged(bundle.Spec("/bin/sh", "-c", script))), h.ID())
			t.Logf("%s%s", result.Stdout, result.Stderr)
			if result.Code != 0 {
				t.Fatalf("exit code %d", result.Code)
			}
			for _, want := range facts.has {
				if !strings.Contains(result.Stdout, want) {
					t.Errorf("the output lacks %q", want)
				}
			}
			for _, unwanted := range append(facts.lacks, "WARNING", "BUG", "locking") {
				if strings.Contains(result.Stdout, unwanted) {
					t.Errorf("the output has %q", unwanted)
				}
			}
		})
	}
}
