//go:build vm

package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kata-runtime/test/harness"
)

func TestMain(m *testing.M) {
	os.Exit(harness.Main(m))
}

// assets is a guest kernel and its initrd.
type assets struct{ kernel, initrd string }

func builtAssets(t testing.TB) assets {
	t.Helper()
	dir := filepath.Join(harness.Repository(t), "share", "kata-containers")
	return assets{filepath.Join(dir, "vmlinux"), filepath.Join(dir, "initrd.img")}
}

func debianAssets(t *testing.T) assets {
	t.Helper()
	dir := filepath.Join(harness.Repository(t), "share", "kata-containers", "debian")
	return assets{filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd.img")}
}

// configure makes the host's commands use a configuration file with these
// lines, each "table.key = value" split at the table's last dot.
func configure(h *harness.Host, lines ...string) {
	h.T.Helper()
	const timeout = "agent.kata.dial_timeout"
	if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, timeout) }) {
		lines = append(lines, fmt.Sprintf("%s = %d", timeout, harness.DialTimeout))
	}
	lines = append(lines, "hypervisor."+harness.LogRefusedCalls)
	shares := func(line string) bool {
		return strings.Contains(line, "virtio_fs_daemon") || strings.Contains(line, "shared_fs") || strings.Contains(line, "virtio_fs_extra_args")
	}
	if server := harness.FileServer(); server != "" && !slices.ContainsFunc(lines, shares) {
		lines = append(lines, "hypervisor."+server)
	}
	reads := func(line string) bool { return strings.Contains(line, "confine_agent") }
	if reader := harness.Reader(); reader != "" && !slices.ContainsFunc(lines, reads) {
		lines = append(lines, "hypervisor."+reader)
	}
	tables := map[string][]string{}
	for _, line := range lines {
		name, _, _ := strings.Cut(line, " ")
		dot := strings.LastIndexByte(name, '.')
		tables[name[:dot]] = append(tables[name[:dot]], line[dot+1:])
	}
	var text strings.Builder
	for table, keys := range tables {
		fmt.Fprintf(&text, "[%s]\n%s\n", table, strings.Join(keys, "\n"))
	}
	path := h.File("configuration.toml")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		h.T.Fatal(err)
	}
	h.Flags = append(h.Flags, "--config", path)
}

// wantCode fails the test unless a command ended with the exit code.
func wantCode(t *testing.T, result harness.Result, code int) {
	t.Helper()
	if result.Code != code {
		t.Fatalf("exit code %d, want %d\nstandard output: %s\nstandard error: %s", result.Code, code, result.Stdout, result.Stderr)
	}
}
