package kconfig_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/kernel-config/kconfig"
)

// A kernel's configuration is read from wherever it is: a text, packed, in the kernel,
// and beside it, where the image does not hold it.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	var packed bytes.Buffer
	gz := gzip.NewWriter(&packed)
	if _, err := gz.Write([]byte("CONFIG_A=y\n")); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	image := "\x7fELF code IKCFG_ST" + packed.String() + "IKCFG_ED more code"
	for name, content := range map[string]string{
		"text": "# comment\nCONFIG_A=y\n", "config.gz": packed.String(), "vmlinux": image,
		"own": image, "own.config": "CONFIG_A=m\n", "Image": "MZ", "Image.config": "CONFIG_A=m\n",
		"vmlinuz-6.1": "MZ", "config-6.1": "CONFIG_A=m\n",
		"nothing": "MZ no configuration", "broken": "IKCFG_ST\x1f\x8bxxxx",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]struct{ value, from string }{
		"text": {"y", "text"}, "config.gz": {"y", "config.gz"}, "vmlinux": {"y", "vmlinux"},
		"own": {"y", "own"}, "Image": {"m", "Image.config"}, "vmlinuz-6.1": {"m", "config-6.1"},
	} {
		config, from, err := kconfig.Read(filepath.Join(dir, name))
		if err != nil || config["CONFIG_A"] != want.value || filepath.Base(from) != want.from {
			t.Errorf("Read(%s) = %v from %s, %v", name, config, from, err)
		}
	}
	if _, _, err := kconfig.Read(filepath.Join(dir, "nothing")); !errors.Is(err, kconfig.ErrNoConfig) || !strings.Contains(err.Error(), "nothing.config") {
		t.Errorf("of an image that holds none: %v", err)
	}
	if _, _, err := kconfig.Read(filepath.Join(dir, "broken")); err == nil || !strings.Contains(err.Error(), "unpack") {
		t.Errorf("of a broken one: %v", err)
	}
	if _, _, err := kconfig.Read(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of none: %v", err)
	}
}
