package bundle

import (
	"slices"
	"strings"
)

// hostPathsError is another error with other words.
type hostPathsError struct {
	text string
	err  error
}

func (e *hostPathsError) Error() string { return e.text }

func (e *hostPathsError) Unwrap() error { return e.err }

// HostPaths says an error of the guest's about the container's mounts in the paths
// of its caller, who knows nothing of the share. Prepare must have been called.
func (b *Bundle) HostPaths(err error) error {
	if err == nil {
		return nil
	}
	var pairs []string
	for _, bind := range slices.Backward(b.Guest.Binds) { // mounts/10 before mounts/1
		pairs = append(pairs, bind.GuestSource, bind.Source)
	}
	if b.GuestRoot == "" {
		pairs = append(pairs, b.Guest.Spec.Root.Path, b.Rootfs)
	}
	text := err.Error()
	if said := strings.NewReplacer(pairs...).Replace(text); said != text {
		return &hostPathsError{text: said, err: err}
	}
	return err
}
