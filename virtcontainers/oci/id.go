package oci

import (
	"errors"
	"fmt"
)

// maxIDLength is what a directory's name can have, in bytes.
const maxIDLength = 255

// ErrInvalidID is wrapped by ValidateID's errors. The text is runc's.
var ErrInvalidID = errors.New("invalid container ID format")

// ValidateID checks a container id: 1-255 characters of A-Z, a-z, 0-9, '_',
// '+', '-' and '.', but neither "." nor "..". The characters are runc's; the
// length is bounded because the id names a directory.
func ValidateID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidID)
	case len(id) > maxIDLength:
		return fmt.Errorf("%w: it has %d characters, at most %d are allowed", ErrInvalidID, len(id), maxIDLength)
	case id == ".", id == "..":
		return fmt.Errorf("%w: %q", ErrInvalidID, id)
	}
	for i := range len(id) {
		if !validIDByte(id[i]) {
			return fmt.Errorf("%w: %q: only letters, digits, '_', '+', '-' and '.' are allowed", ErrInvalidID, id)
		}
	}
	return nil
}

func validIDByte(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	default:
		return c == '_' || c == '+' || c == '-' || c == '.'
	}
}
