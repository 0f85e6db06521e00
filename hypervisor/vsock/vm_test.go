//go:build vm

package vsock_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/vsock"
)

// patience bounds what should take a moment.
const patience = 2 * time.Minute

// kernel returns the path of Debian's kernel and the directory of its modules.
func kernel(t *testing.T) (vmlinuz, modules string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "run", "./kernel-config", "debian", "-o", dir)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("provide a kernel: %v\n%s", err, out)
	}
	releases, err := filepath.Glob(filepath.Join(dir, "modules", "*"))
	if err != nil || len(releases) != 1 {
		t.Fatalf("kernel modules in %s: %q, %v", dir, releases, err)
	}
	return filepath.Join(dir, "vmlinuz"), releases[0]
}

// static builds a program without cgo, for a guest without libraries.
func static(t *testing.T, arguments ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	build := exec.CommandContext(t.Context(), "go", append(arguments[:1:1], append([]string{"-o", program}, arguments[1:]...)...)...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// guestModules make the device work in a guest, in the order of loading.
func guestModules() []string {
	return []string{
		"drivers/virtio/virtio_ring.ko", "drivers/virtio/virtio.ko", "drivers/virtio/virtio_pci_modern_dev.ko",
		"drivers/virtio/virtio_pci_legacy_dev.ko", "drivers/virtio/virtio_pci.ko", "net/vmw_vsock/vsock.ko",
		"net/vmw_vsock/vmw_vsock_virtio_transport_common.ko", "net/vmw_vsock/vmw_vsock_virtio_transport.ko",
	}
}

// initrd makes a guest image of the test's guest program, the modules to load,
// and more files.
func initrd(t *testing.T, dir string, modules []string, more ...cpio.Record) string {
	t.Helper()
	records := append([]cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.CharDev("dev/null", 0o666, 1, 3),
		cpio.StaticFile("init", static(t, "build", "-tags", "vm", "./internal/guest"), 0o755),
		cpio.Directory("modules", 0o755),
	}, more...)
	var list bytes.Buffer
	for _, name := range modules {
		module, err := os.ReadFile(filepath.Join(dir, "kernel", name))
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, cpio.StaticFile("modules/"+filepath.Base(name), string(module), 0o644))
		fmt.Fprintln(&list, filepath.Base(name))
	}
	records = append(records, cpio.StaticFile("modules/list", list.String(), 0o644))
	path := filepath.Join(t.TempDir(), "initrd")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	writer := cpio.Newc.Writer(file)
	err = cpio.WriteRecords(writer, records)
	if err = errors.Join(err, cpio.WriteTrailer(writer), file.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// vm is a QEMU with a vsock device of ours.
type vm struct {
	host   vsock.Host
	listen net.Listener // where the guest reports
	ready  net.Conn
	qmp    *json.Decoder
	ask    *os.File
}

// startVM boots a guest with the kernel that KATA_TEST_KERNEL names, which needs
// no modules, or else with Debian's.
func startVM(t *testing.T, extra ...string) *vm {
	t.Helper()
	vmlinuz, list := os.Getenv("KATA_TEST_KERNEL"), []string(nil)
	modules := ""
	if vmlinuz == "" {
		vmlinuz, modules = kernel(t)
		list = guestModules()
	}
	host, err := vsock.Open(t.Context(), vsock.Options{
		Mode: vsock.ModeUser, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Jail: &jail.Options{Dir: jail.DefaultDir, User: 2_000_001_236},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	listen, err := host.Listen(1026)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := qmpSockets(t)
	args := append([]string{
		"-nodefaults", "-no-user-config", "-nographic", "-accel", "tcg", "-machine", "q35,memory-backend=mem",
		"-m", "256M,slots=4,maxmem=2G", "-object", "memory-backend-memfd,id=mem,size=256M,share=on",
		"-kernel", vmlinuz, "-initrd", initrd(t, modules, list), "-append", "console=ttyS0 console=hvc0 quiet",
		// Room for a second CPU keeps the guest's memory barriers. With two, QEMU 7.2 emulates changed code wrongly
		// now and then: the guest loads modules, and can hang (findings/qemu-tcg-changed-code.sh).
		"-smp", "1,maxcpus=2",
		"-serial", "file:" + filepath.Join(t.ArtifactDir(), "serial"),
		"-chardev", "file,id=hvc,path=" + filepath.Join(t.ArtifactDir(), "console"),
		"-device", "virtio-serial-pci", "-device", "virtconsole,chardev=hvc",
		"-chardev", "socket,id=vsock,fd=3", "-device", "vhost-user-vsock-pci,chardev=vsock",
		"-chardev", "socket,id=qmp,fd=4", "-mon", "chardev=qmp,mode=control",
	}, extra...)
	cmd := exec.CommandContext(t.Context(), "qemu-system-x86_64", args...)
	cmd.ExtraFiles = []*os.File{host.Device().Backend, theirs}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	v := &vm{host: host, listen: listen, qmp: json.NewDecoder(ours), ask: ours}
	v.command(t, `{"execute":"qmp_capabilities"}`)
	v.waitReady(t)
	return v
}

// waitReady waits until the guest serves its ports.
func (v *vm) waitReady(t *testing.T) {
	t.Helper()
	late := time.AfterFunc(patience, func() { _ = v.listen.Close() })
	defer late.Stop()
	conn, err := v.listen.Accept()
	if err != nil {
		t.Fatalf("wait for the guest: %v", err)
	}
	v.ready = conn // the Host closes it
}

func qmpSockets(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "qmp"), os.NewFile(uintptr(fds[1]), "qmp of QEMU")
	t.Cleanup(func() { _ = ours.Close() })
	return ours, theirs
}

// command runs a QMP command.
func (v *vm) command(t *testing.T, command string) {
	t.Helper()
	if _, err := io.WriteString(v.ask, command+"\n"); err != nil {
		t.Fatal(err)
	}
	for {
		var answer map[string]json.RawMessage
		if err := v.qmp.Decode(&answer); err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		if e := answer["error"]; e != nil {
			t.Fatalf("%s: %s", command, e)
		}
		if answer["return"] != nil {
			return
		}
	}
}

func (v *vm) dial(t *testing.T, port uint32) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := v.host.Dial(ctx, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// roundTrip sends size random bytes to an echo, and reports what went wrong.
func roundTrip(conn net.Conn, size int) error {
	_ = conn.SetDeadline(time.Now().Add(patience))
	data := make([]byte, size)
	random := rand.NewChaCha8([32]byte{byte(size)})
	_, _ = random.Read(data)
	var sending sync.WaitGroup
	var sendErr error
	sending.Go(func() {
		if _, sendErr = conn.Write(data); sendErr == nil {
			sendErr = conn.(interface{ CloseWrite() error }).CloseWrite()
		}
	})
	got, err := io.ReadAll(conn)
	sending.Wait()
	if err = errors.Join(err, sendErr); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", len(got), size, err)
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("%d bytes came back as %d others", size, len(got))
	}
	return nil
}

// parallel runs f n times at once.
func parallel(t *testing.T, n int, f func() error) {
	t.Helper()
	var all sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		all.Go(func() { errs[i] = f() })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (v *vm) echoes(t *testing.T, n, size int) {
	t.Helper()
	begin := time.Now()
	parallel(t, n, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		conn, err := v.host.Dial(ctx, 5000)
		if err != nil {
			return err
		}
		return errors.Join(roundTrip(conn, size), conn.Close())
	})
	t.Logf("%d echoes of %d bytes: %v", n, size, time.Since(begin))
}

func TestQEMU(t *testing.T) {
	v := startVM(t)
	t.Run("one echo", func(t *testing.T) { v.echoes(t, 1, 10<<20) })
	t.Run("100 echoes of 1 MiB", func(t *testing.T) { v.echoes(t, 100, 1<<20) })
	t.Run("500 echoes of 16 KiB", func(t *testing.T) { v.echoes(t, 500, 16<<10) })
	t.Run("guest dials", func(t *testing.T) { testGuestDials(t, v) })
	t.Run("refused", func(t *testing.T) { testRefused(t, v) })
	t.Run("guest to host", func(t *testing.T) { testSource(t, v) })
	t.Run("host to guest", func(t *testing.T) { testSink(t, v) })
	t.Run("guest does not read", func(t *testing.T) { testHog(t, v) })
	t.Run("round trips", func(t *testing.T) { testLatency(t, v) })
	t.Run("pause and resume", func(t *testing.T) { testPause(t, v) })
	t.Run("memory hot-plug", func(t *testing.T) { testMemory(t, v) })
	t.Run("still works", func(t *testing.T) { v.echoes(t, 10, 1<<20) })
	t.Run("reboot", func(t *testing.T) { testReboot(t, v) })
	logMemory(t)
	v.command(t, `{"execute":"quit"}`)
	if n, err := io.Copy(io.Discard, v.ready); err != nil || n != int64(len("ready\n")) {
		t.Errorf("connection after QEMU's end: %d bytes and %v, want 6", n, err)
	}
}

func testReboot(t *testing.T, v *vm) {
	before := v.ready
	v.command(t, `{"execute":"system_reset"}`)
	_ = before.SetReadDeadline(time.Now().Add(patience))
	if n, err := io.Copy(io.Discard, before); err != nil {
		t.Errorf("connection to the guest before: %d bytes, %v", n, err)
	}
	v.waitReady(t)
	v.echoes(t, 10, 1<<20)
}

// logMemory reports what this process holds, its share of guest memory included.
func logMemory(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("memory of this process:\n%s", b)
}

func testGuestDials(t *testing.T, v *vm) {
	const count = 200
	l, err := v.host.Listen(7000)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	control := v.dial(t, 5003)
	if err := binary.Write(control, binary.LittleEndian, [2]uint32{7000, count}); err != nil {
		t.Fatal(err)
	}
	parallel(t, count, func() error {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		return errors.Join(roundTrip(conn, 64<<10), conn.Close())
	})
	var worked uint32
	if err := binary.Read(control, binary.LittleEndian, &worked); err != nil || worked != count {
		t.Errorf("%d of %d connections worked, %v", worked, count, err)
	}
}

func testRefused(t *testing.T, v *vm) {
	_, err := v.host.Dial(t.Context(), 9999)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial where nobody listens: %v, want ECONNREFUSED", err)
	}
	control := v.dial(t, 5003)
	if err := binary.Write(control, binary.LittleEndian, [2]uint32{9999, 20}); err != nil {
		t.Fatal(err)
	}
	var worked uint32
	if err := binary.Read(control, binary.LittleEndian, &worked); err != nil || worked != 0 {
		t.Errorf("%d connections to a port without a listener worked, %v", worked, err)
	}
}

const streamSize = 128 << 20

func testSource(t *testing.T, v *vm) {
	conn := v.dial(t, 5001)
	begin := time.Now()
	if err := binary.Write(conn, binary.LittleEndian, uint64(streamSize)); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, conn)
	if err != nil || n != streamSize {
		t.Fatalf("received %d bytes, %v", n, err)
	}
	report(t, begin)
}

func testSink(t *testing.T, v *vm) {
	conn := v.dial(t, 5002)
	begin := time.Now()
	buffer := make([]byte, 256<<10)
	for left := streamSize; left > 0; left -= len(buffer) {
		if _, err := conn.Write(buffer); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var n uint64
	if err := binary.Read(conn, binary.LittleEndian, &n); err != nil || n != streamSize {
		t.Fatalf("guest received %d bytes, %v", n, err)
	}
	report(t, begin)
}

func report(t *testing.T, begin time.Time) {
	t.Helper()
	took := time.Since(begin)
	t.Logf("%d MiB in %v: %.0f MiB/s", streamSize>>20, took, float64(streamSize>>20)/took.Seconds())
}

func testHog(t *testing.T, v *vm) {
	conn := v.dial(t, 5004)
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	n, err := conn.Write(make([]byte, 4<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n >= 4<<20 {
		t.Errorf("write to a guest that does not read: %d bytes, %v", n, err)
	}
	// Others are not held up.
	v.echoes(t, 1, 1<<20)
}

func testLatency(t *testing.T, v *vm) {
	conn := v.dial(t, 5000)
	var b [1]byte
	const rounds = 1000
	begin := time.Now()
	for range rounds {
		if _, err := conn.Write(b[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("round trip of 1 byte: %v", time.Since(begin)/rounds)
	begin = time.Now()
	for range rounds {
		conn, err := v.host.Dial(t.Context(), 5000)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
	t.Logf("dial and close: %v", time.Since(begin)/rounds)
}

func testPause(t *testing.T, v *vm) {
	idle := v.dial(t, 5000)
	done := make(chan error, 1)
	busy := v.dial(t, 5000)
	go func() { done <- roundTrip(busy, 64<<20) }()
	for range 10 {
		v.command(t, `{"execute":"stop"}`)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := v.host.Dial(ctx, 5000); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial of a paused VM: %v", err)
		}
		cancel()
		_ = idle.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read from a paused VM: %v", err)
		}
		v.command(t, `{"execute":"cont"}`)
		v.echoes(t, 1, 1<<20)
	}
	if err := <-done; err != nil {
		t.Errorf("echo across pauses: %v", err)
	}
	_ = idle.SetReadDeadline(time.Time{})
	if err := roundTrip(idle, 100); err != nil {
		t.Error(err)
	}
}

func testMemory(t *testing.T, v *vm) {
	done := make(chan error, 1)
	busy := v.dial(t, 5000)
	go func() { done <- roundTrip(busy, 64<<20) }()
	for i := range 3 {
		v.command(t, fmt.Sprintf(`{"execute":"object-add","arguments":{"qom-type":"memory-backend-memfd","id":"m%d","size":134217728,"share":true}}`, i))
		v.command(t, fmt.Sprintf(`{"execute":"device_add","arguments":{"driver":"pc-dimm","id":"d%d","memdev":"m%d"}}`, i, i))
		v.echoes(t, 20, 1<<20)
	}
	if err := <-done; err != nil {
		t.Errorf("echo while memory is plugged in: %v", err)
	}
}
