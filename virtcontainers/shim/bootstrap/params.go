package bootstrap

import (
	"errors"
	"os"
	"time"

	boot "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	// maxInput bounds what is read of standard input, in bytes.
	maxInput = 4 << 20
	// inputPatience bounds the wait for its end. containerd writes at once;
	// somebody else may leave a pipe open to which nobody writes.
	inputPatience = 5 * time.Second
)

// params is what a caller says on standard input.
type params struct {
	// announced tells that the caller has sent BootstrapParams, and so knows
	// version 3 of the answer.
	announced bool
	socketDir string
	debug     bool

	grpcAddress, ttrpcAddress, publishBinary string

	options RuntimeOptions
}

// parseParams makes of a caller's input what it can: callers send options, which
// the request to create a container repeats, BootstrapParams, or nothing, and
// either message may decode as the other. The right BootstrapParams name the
// container.
func parseParams(input []byte, id, namespace string) params {
	var announced boot.BootstrapParams
	if proto.Unmarshal(input, &announced) == nil && announced.GetInstanceID() == id && announced.GetNamespace() == namespace {
		p := params{
			announced: true, socketDir: announced.GetSocketDir(), debug: announced.GetLogLevel() <= boot.LogLevel_LOG_LEVEL_DEBUG,
			grpcAddress: announced.GetContainerdGrpcAddress(), ttrpcAddress: announced.GetContainerdTtrpcAddress(),
			publishBinary: announced.GetContainerdBinary(),
		}
		for _, extension := range announced.GetExtensions() {
			if options, ok := readOptions(extension.GetValue()); ok {
				p.options = options
				break
			}
		}
		return p
	}
	var given anypb.Any
	if proto.Unmarshal(input, &given) != nil {
		return params{}
	}
	options, _ := readOptions(&given)
	return params{options: options}
}

// readOptions tells whether a message holds options. What is wrong with them, the
// creation of a sandbox says; that of a container goes by its own.
func readOptions(message *anypb.Any) (RuntimeOptions, bool) {
	switch typeName(message) {
	case generalOptions, criOptions, runcOptions:
	default:
		return RuntimeOptions{}, false
	}
	options, err := DecodeOptions(message)
	if err != nil {
		return RuntimeOptions{Invalid: err.Error()}, true
	}
	return options, true
}

// readInput reads a caller's input to its end, as far as it comes and has a
// place here.
func readInput(file *os.File, patience time.Duration) []byte {
	fd := int(file.Fd())
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil || fd < 0 {
		return nil // a person's terminal; or it is closed
	}
	deadline := time.Now().Add(patience)
	var input []byte
	buffer := make([]byte, 64<<10)
	for len(input) <= maxInput {
		left := max(0, time.Until(deadline).Milliseconds())
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil, n == 0:
			return input
		}
		n, err = unix.Read(fd, buffer)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil, n <= 0:
			return input
		}
		input = append(input, buffer[:n]...)
	}
	return nil // no caller's
}
