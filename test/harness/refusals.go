package harness

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"kata-runtime/test/refused"
)

// serverVariable chooses the file server that the tests run with: with virtiofsd, the one
// that is installed. All that holds with one has to hold with the other.
const (
	serverVariable = "KATA_TEST_FILE_SERVER"
	virtiofsd      = "virtiofsd"
)

// readerVariable, if it is "0", has pods' owners read themselves what agents say in all
// tests (confine_agent).
const readerVariable = "KATA_TEST_CONFINE_AGENT"

// Reader is the line of the table [hypervisor] for that; empty where a process of its own
// reads, as it does by default.
func Reader() string {
	if os.Getenv(readerVariable) != "0" {
		return ""
	}
	return "confine_agent = false"
}

// FileServerRole is what a pod's file server is called.
func FileServerRole() string { return cmp.Or(os.Getenv(serverVariable), "kata-fs") }

// FileServerCommand is what the command of a pod's file server holds.
func FileServerCommand() string {
	if FileServerRole() == virtiofsd {
		return "/virtiofsd "
	}
	return FileServerRole() + " "
}

// FileServer is the line of the table [hypervisor] by which the tests use the file server
// that they were told to; empty where that is the default.
func FileServer() string {
	if FileServerRole() == virtiofsd {
		return `virtio_fs_daemon = ""`
	}
	return ""
}

// Hypervisor are the lines of the table [hypervisor] of all tests.
func Hypervisor() string { return LogRefusedCalls + "\n" + FileServer() + "\n" + Reader() }

// LogRefusedCalls is a line of the table [hypervisor], with which the tests notice
// every system call that a confined process is refused.
const LogRefusedCalls = "log_refused_calls = true"

// refusals are what confined processes are refused while a test program runs.
type refusals struct {
	log *refused.Log
	// configuration is a file that lets the kernel log them, for tests that have none
	// of their own.
	configuration string
	programs      string
}

func watchRefusals() (_ *refusals, err error) {
	r := &refusals{}
	if r.programs, err = filepath.Abs("../../bin"); err != nil { // from the tests' packages
		return nil, err
	}
	dir, err := os.MkdirTemp("", "kata-test-")
	if err != nil {
		return nil, err
	}
	r.configuration = filepath.Join(dir, "configuration.toml")
	text := fmt.Sprintf("[hypervisor]\n%s\n[agent.kata]\ndial_timeout = %d\n", Hypervisor(), DialTimeout)
	if err = os.WriteFile(r.configuration, []byte(text), 0o600); err == nil {
		r.log, err = refused.Open()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return r, nil
}

// end says which calls were refused that are on no list.
func (r *refusals) end() error {
	calls, err := r.log.Calls()
	for _, call := range refused.Unlisted(calls, r.programs) {
		err = errors.Join(err, fmt.Errorf("a confined process was refused what it needs, or tried what it must not: %s", call))
	}
	return errors.Join(err, r.log.Close(), os.RemoveAll(filepath.Dir(r.configuration)))
}
