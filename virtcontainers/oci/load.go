package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	// ConfigName is the specification's file in a bundle.
	ConfigName = "config.json"
	// maxSpecSize bounds config.json and a process file, in bytes. It is below
	// the 4 MiB that a ttrpc message can have, in which they reach the guest.
	maxSpecSize = 3 << 20
)

// LoadSpec reads and validates the config.json of a bundle, a directory.
// Relative paths in it stay as they are: they are relative to the bundle, see
// RootfsPath. Errors name the file and the field.
func LoadSpec(bundle string) (*specs.Spec, error) {
	path := filepath.Join(bundle, ConfigName)
	spec := &specs.Spec{}
	if err := readJSON(path, true, spec); err != nil {
		return nil, fmt.Errorf("load the bundle: %w", err)
	}
	if err := validateSpec(spec, bundle); err != nil {
		return nil, fmt.Errorf("load the bundle: %s: %w", path, err)
	}
	return spec, nil
}

// LoadProcess reads and validates a file that holds one process, as the
// exec command takes it. The file may be a pipe.
func LoadProcess(path string) (*specs.Process, error) {
	process := &specs.Process{}
	if err := readJSON(path, false, process); err != nil {
		return nil, fmt.Errorf("load the process: %w", err)
	}
	if err := ValidateProcess(process); err != nil {
		return nil, fmt.Errorf("load the process: %s: %w", path, err)
	}
	return process, nil
}

// RootfsPath is the absolute path of a bundle's root file system. bundle is
// absolute, and spec was validated.
func RootfsPath(bundle string, spec *specs.Spec) string {
	if filepath.IsAbs(spec.Root.Path) {
		return filepath.Clean(spec.Root.Path)
	}
	return filepath.Join(bundle, spec.Root.Path)
}

func readJSON(path string, regular bool, value any) error {
	data, err := readBounded(path, regular)
	if err != nil {
		return err
	}
	if err := parseJSON(data, value); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// readBounded reads a file of at most maxSpecSize. regular refuses anything but
// a regular file, on which opening or reading could block.
func readBounded(path string, regular bool) (data []byte, err error) {
	flags := os.O_RDONLY
	if regular {
		flags |= unix.O_NONBLOCK
	}
	file, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if regular {
		info, err := file.Stat()
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s: is not a regular file", path)
		}
	}
	data, err = io.ReadAll(io.LimitReader(file, maxSpecSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSpecSize {
		return nil, fmt.Errorf("%s: is larger than %d bytes", path, maxSpecSize)
	}
	return data, nil
}

// parseJSON decodes one value, an object, and says where in the text an error
// is. Unknown fields are ignored, as the specification demands.
func parseJSON(data []byte, value any) error {
	if trimmed := bytes.TrimSpace(data); len(trimmed) == 0 {
		return errors.New("malformed JSON: the file is empty")
	} else if string(trimmed) == "null" {
		return errors.New("malformed JSON: it must not be null")
	}
	err := json.Unmarshal(data, value)
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax):
		line, column := position(data, syntax.Offset)
		return fmt.Errorf("malformed JSON at line %d, column %d: %w", line, column, err)
	case errors.As(err, &mismatch):
		line, column := position(data, mismatch.Offset)
		return fmt.Errorf("field %q at line %d, column %d: %s where %s is expected",
			mismatch.Field, line, column, mismatch.Value, mismatch.Type)
	default:
		return fmt.Errorf("malformed JSON: %w", err)
	}
}

func position(data []byte, offset int64) (line, column int) {
	before := data[:min(max(offset, 0), int64(len(data)))]
	line = 1 + bytes.Count(before, []byte{'\n'})
	return line, max(len(before)-1-bytes.LastIndexByte(before, '\n'), 1)
}

// LoadAnnotations reads the annotations alone of a bundle's config.json, whatever
// else is in it. A bundle without the file is fs.ErrNotExist.
func LoadAnnotations(bundle string) (map[string]string, error) {
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := readJSON(filepath.Join(bundle, ConfigName), true, &spec); err != nil {
		return nil, fmt.Errorf("load the bundle: %w", err)
	}
	return spec.Annotations, nil
}
