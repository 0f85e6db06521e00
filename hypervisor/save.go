package hypervisor

import (
	"context"
	"io"
)

// Saver is a VM whose driver can save it. Not every driver can, and not every VM of one
// that can: then the error wraps ErrUnsupported, or is the VMM's own.
type Saver interface {
	// Save stops the guest for good and writes what the VM is, but for its memory, which
	// is in a file of the caller's. What is left to do with the VM afterwards is Stop.
	Save(ctx context.Context, state io.Writer) error
}

// Restorer is a VM that can become what another one was when it was saved.
type Restorer interface {
	// Restore reads what Save has written, in a VM that was made for that, has started,
	// and whose memory is a copy. The guest does not run until Resume; devices that the
	// other VM did not have are attached before or after that.
	Restore(ctx context.Context, state io.Reader) error
}
