package modules

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// ImageDigest is the file of an image with the digest of the digests of the
	// modules that its kernel may load, in hexadecimal digits.
	ImageDigest = "/lib/modules/digest"
	// KeptDigest is where the agent has that file once the image is gone.
	KeptDigest = "/run/kata-modules"

	// helperRoot is the root directory of the kernel's helpers: PID 1's.
	helperRoot = "/proc/1/root"
	// helperParameter says what the kernel starts: /sbin/modprobe. It is there when
	// the kernel supports modules. It stays as it is: programs in containers, such as
	// iptables-legacy, start their own that way.
	helperParameter = "/proc/sys/kernel/modprobe"
	// enforceParameter lets the kernel refuse modules without a good signature.
	enforceParameter = "/sys/module/module/parameters/sig_enforce"
	// taintedParameter tells, by unsignedBit, whether it has met such a module.
	taintedParameter = "/proc/sys/kernel/tainted"
	unsignedBit      = 13
)

// Supported tells whether the kernel can load modules. Then containers must not have
// CAP_SYS_MODULE: they could load others than what the image names.
func Supported() bool {
	_, err := os.Stat(helperParameter)
	return err == nil
}

// Options say what is loaded.
type Options struct {
	// Directory has a directory of modules for each release of the kernel.
	Directory string
	// Deny are names of modules that are not loaded, nor what depends on them.
	Deny []string
	// Load are modules that are loaded at once: names, each with parameters behind it.
	Load []string
}

// Service answers the kernel's requests until it is closed.
type Service struct {
	loader   *loader
	listener *net.UnixListener
	running  sync.WaitGroup
	enforce  sync.Mutex
}

// Start lets the kernel ask this process for modules.
func Start(log *slog.Logger, options Options) (*Service, error) {
	if !Supported() {
		return nil, errors.New("load modules on demand: the guest's kernel has none (modules in [hypervisor] of the configuration)")
	}
	digest, err := imageDigest()
	if err != nil {
		return nil, err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, fmt.Errorf("find the kernel's release: %w", err)
	}
	dir := filepath.Join(options.Directory, unix.ByteSliceToString(name.Release[:]))
	s := &Service{loader: newLoader(newKernelLog(log), options.Deny, options.Load)}
	s.loader.open = func() (*index, error) { return openIndex(dir, digest) }
	s.loader.insert = s.insert
	commandLine, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, fmt.Errorf("load modules on demand: %w", err)
	}
	s.loader.commandLine = string(commandLine)
	s.loader.present = isPresent
	if err := s.listen(); err != nil {
		return nil, fmt.Errorf("load modules on demand: %w", err)
	}
	if err := s.loader.preload(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Prepare loads what a container's programs have no way to ask the kernel for: with
// CAP_NET_ADMIN, iptables-legacy, which on a host starts modprobe(8) by itself. A kernel
// that has it built in, or not at all, is no error.
func (s *Service) Prepare(netAdmin bool) {
	if !netAdmin {
		return
	}
	for _, name := range []string{"ip_tables", "ip6_tables"} {
		_ = s.loader.request(name) // which has told why
	}
}

// imageDigest returns what the image names.
func imageDigest() (digest [sha256.Size]byte, err error) {
	text, err := os.ReadFile(KeptDigest)
	if errors.Is(err, fs.ErrNotExist) {
		return digest, errors.New("load modules on demand: the guest's initrd names none that may be loaded (modules in [hypervisor] of the configuration, rootfs-builder -modules)")
	}
	if err != nil {
		return digest, fmt.Errorf("load modules on demand: %w", err)
	}
	decoded, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(decoded) != sha256.Size {
		return digest, fmt.Errorf("load modules on demand: the image's %s is no SHA-256", ImageDigest)
	}
	return [sha256.Size]byte(decoded), nil
}

// listen makes the kernel start this program for each request. PID 1, and so the
// kernel's helpers, have the initramfs as their root directory, which no container can
// reach. It holds no program, and gets none but its own: not the whole of procfs, by
// which a container that may set a core pattern could name its programs.
func (s *Service) listen() error {
	const init = "/proc/1"
	if err := os.MkdirAll(helperRoot+init, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(init, helperRoot+init, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s for the kernel's helper: %w", init, err)
	}
	if err := linkHelper(); err != nil {
		return err
	}
	address := &net.UnixAddr{Name: helperRoot + helperSocket, Net: "unixpacket"}
	listener, err := net.ListenUnix(address.Net, address)
	if err != nil {
		return err
	}
	s.listener = listener
	s.running.Go(func() { s.serve(listener) })
	return nil
}

// linkHelper lets the kernel find this program where it looks for modprobe(8).
func linkHelper() error {
	path, err := os.ReadFile(helperParameter)
	if err != nil {
		return err
	}
	name := strings.TrimSpace(string(path))
	if !filepath.IsAbs(name) {
		return fmt.Errorf("the guest's kernel starts no helper (%s)", helperParameter)
	}
	link := filepath.Join(helperRoot, filepath.Clean(name))
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	return os.Symlink(helperPath, link)
}

// serve answers the helpers, each in a goroutine of its own. The kernel bounds their
// number.
func (s *Service) serve(listener *net.UnixListener) {
	for {
		conn, err := listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// A helper that nobody answers would keep its caller waiting.
			s.loader.log.Warn("no module is loaded on demand any more", "error", errors.Join(err, listener.Close()))
			return
		}
		s.running.Go(func() {
			defer conn.Close()
			answer := []byte{1}
			name := make([]byte, maxName)
			n, err := conn.Read(name)
			if err == nil && n > 0 && s.loader.request(string(name[:n])) == nil {
				answer[0] = 0
			}
			_, _ = conn.Write(answer) // a helper that was killed reads none
		})
	}
}

// insert gives the kernel a module, and lets it refuse what is not signed from then on,
// if all that it has met was. Not the module's file, which may have changed since it was
// compared.
func (s *Service) insert(content []byte, parameters string) error {
	err := unix.InitModule(content, parameters)
	if err == nil {
		s.enforce.Lock()
		defer s.enforce.Unlock()
		s.enforceSignatures()
	}
	return err
}

// enforceSignatures has an effect with kernels that check signatures. An error leaves
// it at that: digests were compared.
func (s *Service) enforceSignatures() {
	if value, err := os.ReadFile(enforceParameter); err != nil || value[0] == 'Y' {
		return
	}
	text, err := os.ReadFile(taintedParameter)
	if err != nil {
		return
	}
	var tainted uint64
	if _, err := fmt.Sscan(string(text), &tainted); err != nil || tainted>>unsignedBit&1 != 0 {
		return
	}
	if err := os.WriteFile(enforceParameter, []byte("Y"), 0); err != nil {
		s.loader.log.Warn("modules without a signature are not refused", "error", err)
	}
}

// isPresent tells whether the kernel has a module, and has finished with loading it.
func isPresent(name string) bool {
	state, err := os.ReadFile(filepath.Join("/sys/module", name, "initstate"))
	return err == nil && strings.TrimSpace(string(state)) == "live"
}

// Close waits for the requests that have begun.
func (s *Service) Close() error {
	err := s.listener.Close()
	s.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil // serve has told why
	}
	return err
}
