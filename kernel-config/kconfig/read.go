package kconfig

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	// maxConfig bounds a kernel's configuration, in bytes: the largest have 300 kB.
	maxConfig = 8 << 20
	// maxImage bounds a kernel, in bytes: one with all its symbols has 800 MB.
	maxImage = 1 << 30
)

// ErrNoConfig says that a file is neither a kernel's configuration nor holds one.
var ErrNoConfig = errors.New("no kernel's configuration")

// Recorded is the configuration that is beside a kernel's image.
func Recorded(image string) string { return image + ".config" }

// Read returns a kernel's configuration, from a file as it is in /boot or, packed, in
// /proc/config.gz, or of a kernel: out of an image that was built with CONFIG_IKCONFIG
// and is not compressed, or from the record beside it, such as vmlinux.config, or
// config-6.1.0 for vmlinuz-6.1.0. From is the file that it was read from.
func Read(path string) (config Config, from string, err error) {
	config, err = readFile(path)
	if !errors.Is(err, ErrNoConfig) {
		return config, path, err
	}
	records := []string{Recorded(path)}
	if release, ok := strings.CutPrefix(filepath.Base(path), "vmlinuz-"); ok {
		records = append(records, filepath.Join(filepath.Dir(path), "config-"+release))
	}
	for _, record := range records {
		if config, recordErr := readFile(record); !errors.Is(recordErr, fs.ErrNotExist) {
			return config, record, recordErr
		}
	}
	return nil, path, err
}

func readFile(path string) (Config, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read a kernel's configuration: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxImage))
	if err != nil {
		return nil, fmt.Errorf("read a kernel's configuration: %w", err)
	}
	// As scripts/extract-ikconfig of the kernel's source finds it.
	if _, packed, ok := bytes.Cut(data, []byte("IKCFG_ST\x1f\x8b")); ok {
		data = append([]byte{0x1f, 0x8b}, packed...)
	}
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		if data, err = unpack(data); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", path, err)
		}
	}
	config, err := ParseConfig(string(data[:min(len(data), maxConfig)]))
	if err != nil || len(config) == 0 {
		return nil, fmt.Errorf("%s holds %w: no line CONFIG_...=, and no CONFIG_IKCONFIG in an image that is not compressed; put it beside, as %s",
			path, ErrNoConfig, Recorded(path))
	}
	return config, nil
}

// unpack returns what is packed, without what follows it.
func unpack(data []byte) ([]byte, error) {
	packed, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	packed.Multistream(false)
	return io.ReadAll(io.LimitReader(packed, maxConfig))
}
