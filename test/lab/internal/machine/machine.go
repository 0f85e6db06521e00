// Package machine boots the lab's machine in QEMU's emulation. That emulates
// the virtualization of AMD's processors too, so that the machine has KVM
// wherever the lab runs, slowly.
package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/qmp"
	"kata-runtime/hypervisor/tail"
	"kata-runtime/test/lab/internal/disk"
	"kata-runtime/test/lab/internal/wire"
)

// Options are those of one boot.
type Options struct {
	Disk disk.Disk
	// Share is the directory with the plan, and Tree the source tree.
	Share, Tree string
	// Work is an empty directory for the boot's own files.
	Work string
	// Silence is how long no message may come before the machine is given up.
	Silence time.Duration
}

const (
	// With two processors, each emulated by a thread, QEMU 7.2 may keep the
	// translation of code that one of them changes while the other translates it.
	// Linux changes its own code whenever the first VM is made, the last one goes,
	// a group gets a quota, and the like: both processors then run for ever a
	// breakpoint that is in memory no more. The second one, which never comes,
	// makes QEMU heed the machine's memory barriers, for its devices' sake.
	vcpus     = "cpus=1,maxcpus=2"
	memory    = "6G"
	translate = "1024" // MiB of translated code to keep
	// idle are modules that udev would load for what nobody uses here.
	idle = "aesni_intel,ghash_clmulni_intel,iTCO_wdt,lpc_ich,pcspkr,button,evdev,joydev,cfg80211"
)

func (o Options) console() string { return filepath.Join(o.Work, "console") }
func (o Options) socket() string  { return filepath.Join(o.Work, "messages") }
func (o Options) monitor() string { return filepath.Join(o.Work, "monitor") }

func (o Options) arguments() []string {
	share := func(path, tag string) string {
		return fmt.Sprintf("local,path=%s,mount_tag=%s,security_model=none,readonly=on", path, tag)
	}
	return []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35,sata=off,smbus=off,i8042=off,vmport=off", "-accel", "tcg,tb-size=" + translate, "-cpu", "max",
		"-smp", vcpus, "-m", memory,
		"-kernel", o.Disk.Kernel, "-initrd", o.Disk.Initrd,
		"-append", "root=/dev/vda rw console=ttyS0 mitigations=off nokaslr panic=-1 systemd.show_status=0 module_blacklist=" + idle,
		// What the machine writes to its disk is gone when it ends.
		"-drive", "if=virtio,format=raw,cache=unsafe,snapshot=on,file=" + o.Disk.Image,
		"-virtfs", share(o.Share, wire.Share), "-virtfs", share(o.Tree, wire.Tree),
		"-device", "virtio-rng-pci",
		"-serial", "file:" + o.console(),
		"-chardev", "socket,id=qmp,server=on,wait=off,path=" + o.monitor(), "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=messages,path=" + o.socket(),
		"-device", "virtserialport,chardev=messages,name=" + wire.Port,
	}
}

// Run boots the machine, calls receive with each message, and returns when the
// machine has ended: nil for an end of its own. ctx ends it. The error has the
// console's last lines.
func Run(ctx context.Context, o Options, receive func(wire.Message) error) error {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: o.socket(), Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen for the machine's messages: %w", err)
	}
	defer listener.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var words strings.Builder
	command := exec.CommandContext(ctx, "qemu-system-x86_64", o.arguments()...)
	command.Stdout, command.Stderr = &words, &words
	starter := child.NewStarter()
	defer starter.Close()
	if err := starter.Start(command); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	received, messages := make(chan struct{}), 0
	silence := time.AfterFunc(o.Silence, func() {
		cancel(fmt.Errorf("it hangs: no sign of life for %s\n%s", o.Silence, registers(ctx, o.monitor())))
	})
	defer silence.Stop()
	count := func(message wire.Message) error {
		silence.Reset(o.Silence)
		messages++
		return receive(message)
	}
	go func() {
		defer close(received)
		if err := accept(listener, count); err != nil && !errors.Is(err, net.ErrClosed) {
			cancel(err)
		}
	}()
	err = command.Wait()
	// A machine that ended before it connected lets nobody wait.
	_ = listener.Close()
	<-received
	if err == nil && messages == 0 {
		err = errors.New("it ended without a word")
	}
	if cause := context.Cause(ctx); cause != nil {
		err = errors.Join(cause, err)
	}
	if err != nil {
		return fmt.Errorf("the lab's machine: %w\n%s%s", err, words.String(), lastWords(o.console()))
	}
	return nil
}

func accept(listener *net.UnixListener, receive func(wire.Message) error) error {
	conn, err := listener.AcceptUnix()
	if err != nil {
		return err
	}
	nudged, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(nudged)
		nudge(conn, done)
	}()
	defer func() {
		close(done)
		_ = conn.Close()
		<-nudged
	}()
	decoder := json.NewDecoder(conn)
	for {
		var message wire.Message
		// A machine that ends with a nudge unread resets the connection.
		if err := decoder.Decode(&message); errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the machine's messages: %w", err)
		}
		if err := receive(message); err != nil {
			return err
		}
	}
}

// nudge sends a byte now and then, until done or until nobody takes it: see
// wire.NudgeEvery.
func nudge(conn io.Writer, done <-chan struct{}) {
	ticker := time.NewTicker(wire.NudgeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			if _, err := conn.Write([]byte{'\n'}); err != nil {
				return
			}
		}
	}
}

// registers tells what the processors of a machine that hangs are at.
func registers(ctx context.Context, monitor string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	text, err := ask(ctx, monitor, "info registers -a")
	if err != nil {
		return err.Error()
	}
	return text
}

func ask(ctx context.Context, monitor, command string) (text string, err error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", monitor)
	if err != nil {
		return "", fmt.Errorf("ask QEMU: %w", err)
	}
	client, err := qmp.New(ctx, conn, func(qmp.Event) {})
	if err != nil {
		return "", fmt.Errorf("ask QEMU: %w", err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	err = client.Execute(ctx, "human-monitor-command", map[string]string{"command-line": command}, &text)
	return text, err
}

// lastWords is the end of the console's output, made harmless.
func lastWords(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	buffer := tail.New(tail.DefaultSize)
	if _, err := io.Copy(buffer, file); err != nil {
		return ""
	}
	return "the console's last lines:\n" + strings.Join(buffer.Lines(80), "\n")
}
