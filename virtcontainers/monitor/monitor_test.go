package monitor_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/metrics"
	"kata-runtime/virtcontainers/monitor"
	"kata-runtime/virtcontainers/sandboxtest"
	"kata-runtime/virtcontainers/store"
)

// fixture is a pod that is served.
type fixture struct {
	entry   *store.Entry
	guest   *sandboxtest.Guest
	sandbox *virtcontainers.Sandbox
	server  *monitor.Server
}

func serve(t *testing.T, allow bool) *fixture {
	t.Helper()
	return serveUntil(t, allow, time.Minute)
}

func serveUntil(t *testing.T, allow bool, silence time.Duration) *fixture {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	states, err := store.Open(t.TempDir() + "/root")
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{guest: sandboxtest.NewGuest()}
	if f.entry, err = states.Reserve("pod"); err != nil {
		t.Fatal(err)
	}
	f.sandbox = virtcontainers.NewSandbox(virtcontainers.SandboxOptions{
		Machine: f.guest.Machine, Token: sandboxtest.Token, BootTimeout: time.Minute, Log: log,
	})
	f.sandbox.Boot()
	if err := f.sandbox.Assign(virtcontainers.Assignment{ID: "pod", Share: f.guest.Share, AllowGuestExec: allow}); err != nil {
		t.Fatal(err)
	}
	if f.server, err = monitor.ServeUntil(f.entry, f.sandbox, monitor.Owner{Role: "owner", StandIns: func() map[int]string {
		return map[int]string{os.Getppid(): "stand-in", 1 << 30: "gone"}
	}}, silence, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.sandbox.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		f.server.Close()
		if err := f.entry.Remove(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func value(samples []metrics.Sample, name string) float64 {
	i := slices.IndexFunc(samples, func(s metrics.Sample) bool { return s.Name == name })
	if i < 0 {
		return -1
	}
	return samples[i].Value
}

func TestMeasure(t *testing.T) {
	f := serve(t, false)
	if err := f.sandbox.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i := range 60 { // more than a message holds
		id := strings.Repeat(string(rune('a'+i%26)), 60) + string(rune('0'+i/26))
		if _, err := f.sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: id}); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	response := &protocol.MetricsResponse{Guest: []*protocol.Measurement{{Figure: protocol.Figure_LOAD_1, Value: 0.5}}}
	for range ids {
		one := &protocol.ContainerMeasurements{}
		for figure := protocol.Figure_CONTAINER_CPU_USER_SECONDS; figure <= protocol.Figure_CONTAINER_WRITTEN_BYTES; figure++ {
			one.Measurements = append(one.Measurements, &protocol.Measurement{Figure: figure, Value: 1.0 / 3})
		}
		response.Containers = append(response.Containers, one)
	}
	f.guest.Measured.Store(response)
	samples, err := monitor.Measure(t.Context(), f.entry)
	if err != nil {
		t.Fatal(err)
	}
	if value(samples, "kata_guest_load1") != 0.5 || value(samples, "kata_pod_containers") != 60 {
		t.Errorf("samples %v", samples)
	}
	containers := 0
	for _, s := range samples {
		if s.Name == "kata_container_tasks" {
			containers++
		}
	}
	if containers != len(ids) {
		t.Errorf("%d containers, want %d", containers, len(ids))
	}
}

// TestMeasureWithoutTheGuest: its silence costs its own figures alone.
func TestMeasureWithoutTheGuest(t *testing.T) {
	f := serve(t, false)
	if err := f.sandbox.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.guest.Refuse("Metrics", errors.New("no"))
	samples, err := monitor.Measure(t.Context(), f.entry)
	if err != nil || value(samples, "kata_guest_up") != 0 || value(samples, "kata_vm_running") != 1 {
		t.Errorf("samples %v, %v", samples, err)
	}
}

func TestMeasureWithoutAnOwner(t *testing.T) {
	f := serve(t, false)
	f.server.Close()
	if _, err := monitor.Measure(t.Context(), f.entry); err == nil {
		t.Error("nobody serves the socket, and it was answered")
	}
	path := f.entry.Path("kata.monitor.sock")
	left, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false) // as it is when the owner was killed
	left.Close()
	if _, err := monitor.Measure(t.Context(), f.entry); err == nil || !strings.Contains(err.Error(), "its process has ended") {
		t.Errorf("an owner that was killed: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := f.entry.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := monitor.Measure(t.Context(), f.entry); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pod is gone: %v", err)
	}
}

// TestASilentOwner is given up in time.
func TestASilentOwner(t *testing.T) {
	states, err := store.Open(t.TempDir() + "/root")
	if err != nil {
		t.Fatal(err)
	}
	entry, err := states.Reserve("pod")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := entry.Listen("monitor.sock", "unixpacket")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	impatience := errors.New("impatience")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, impatience)
	defer cancel()
	if _, err := monitor.Measure(ctx, entry); !errors.Is(err, impatience) {
		t.Errorf("error %v", err)
	}
}

func TestExec(t *testing.T) {
	f := serve(t, true)
	var stdout, stderr bytes.Buffer
	stdin, input := io.Pipe()
	sizes := make(chan specs.Box)
	type outcome struct {
		code int
		err  error
	}
	ended := make(chan outcome, 1)
	go func() {
		code, err := monitor.Exec(t.Context(), f.entry, monitor.ExecOptions{
			Process: &specs.Process{Args: []string{"sh"}}, Stdin: stdin, Stdout: &stdout, Stderr: &stderr, Sizes: sizes,
		})
		ended <- outcome{code, err}
	}()
	sizes <- specs.Box{Height: 40, Width: 90} // is taken once the process runs
	requests := sandboxtest.Requests[*protocol.ExecProcessRequest](f.guest, "ExecProcess")
	if len(requests) != 1 || requests[0].GetContainerId() != "" || !bytes.Contains(requests[0].GetProcessJson(), []byte(`"sh"`)) {
		t.Fatalf("the guest was asked for %v", requests)
	}
	key := sandboxtest.ProcessKey{Process: requests[0].GetProcessId()}
	text := strings.Repeat("output", 100_000)
	f.guest.Print(key, text)
	f.guest.Exit(key, 9)
	got := <-ended
	if got.err != nil || got.code != 9 || stdout.String() != text || stderr.String() != "" {
		t.Errorf("exit code %d, %v, %d bytes, %q", got.code, got.err, stdout.Len(), stderr.String())
	}
	input.Close()
	close(sizes)
}

// TestOutputWithoutAnEnd does not keep the command of a process that has ended.
func TestOutputWithoutAnEnd(t *testing.T) {
	f := serveUntil(t, true, 50*time.Millisecond)
	var stdout bytes.Buffer
	started := make(chan specs.Box)
	ended := make(chan error, 1)
	go func() {
		code, err := monitor.Exec(t.Context(), f.entry, monitor.ExecOptions{
			Process: &specs.Process{Args: []string{"sh"}}, Stdout: &stdout, Sizes: started,
		})
		if err == nil && code != 3 {
			err = errors.New("another exit code")
		}
		ended <- err
	}()
	started <- specs.Box{Height: 1, Width: 1}
	key := sandboxtest.ProcessKey{
		Process: sandboxtest.Requests[*protocol.ExecProcessRequest](f.guest, "ExecProcess")[0].GetProcessId(),
	}
	f.guest.Print(key, "text")
	f.guest.ExitSilently(key, 3)
	if err := <-ended; err != nil || stdout.String() != "text" {
		t.Errorf("%v, output %q", err, stdout.String())
	}
}

func TestExecIsRefused(t *testing.T) {
	f := serve(t, false)
	_, err := monitor.Exec(t.Context(), f.entry, monitor.ExecOptions{Process: &specs.Process{Args: []string{"sh"}}, Stdout: io.Discard})
	if !errors.Is(err, virtcontainers.ErrNoGuestExec) {
		t.Errorf("error %v, want ErrNoGuestExec", err)
	}
	f = serve(t, true)
	f.guest.Refuse("ExecProcess", errors.New("no such program"))
	_, err = monitor.Exec(t.Context(), f.entry, monitor.ExecOptions{Process: &specs.Process{Args: []string{"sh"}}, Stdout: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "no such program") {
		t.Errorf("error %v", err)
	}
}

// TestAProcessEndsWithItsCommand, whatever the guest's program does.
func TestAProcessEndsWithItsCommand(t *testing.T) {
	f := serve(t, true)
	called, release := f.guest.Hold("SignalProcess")
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan specs.Box)
	ended := make(chan error, 1)
	go func() {
		_, err := monitor.Exec(ctx, f.entry, monitor.ExecOptions{
			Process: &specs.Process{Args: []string{"sh"}, Terminal: true}, Stdout: io.Discard, Sizes: started,
		})
		ended <- err
	}()
	started <- specs.Box{Height: 1, Width: 1}
	cancel()
	if err := <-ended; err == nil {
		t.Error("no error of a command that was ended")
	}
	<-called
	release()
	signals := sandboxtest.Requests[*protocol.SignalProcessRequest](f.guest, "SignalProcess")
	if len(signals) != 1 || signals[0].GetSignal() != 9 {
		t.Errorf("signals %v", signals)
	}
}

// TestTheEndOfThePod ends the processes in its guest, and what serves them.
func TestTheEndOfThePod(t *testing.T) {
	f := serve(t, true)
	started := make(chan specs.Box)
	ended := make(chan error, 1)
	go func() {
		code, err := monitor.Exec(t.Context(), f.entry, monitor.ExecOptions{
			Process: &specs.Process{Args: []string{"sh"}}, Stdout: io.Discard, Sizes: started,
		})
		if err == nil && code != 137 {
			err = errors.New("another exit code")
		}
		ended <- err
	}()
	started <- specs.Box{Height: 1, Width: 1}
	if err := f.sandbox.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestWhatIsNoRequest is answered by an error, and harms nobody.
func TestWhatIsNoRequest(t *testing.T) {
	f := serve(t, true)
	for _, message := range []any{
		map[string]any{"Future": true},
		map[string]any{},
		map[string]any{"Exec": map[string]any{"Streams": []string{"stdout"}}},
		map[string]any{"Exec": map[string]any{"Streams": []string{"other"}}},
		[]int{1},
	} {
		raw, err := f.entry.Dial(t.Context(), "monitor.sock", "unixpacket")
		if err != nil {
			t.Fatal(err)
		}
		conn := channel.FromConn(raw)
		if err := conn.Send(message); err != nil {
			t.Fatal(err)
		}
		var answer struct{ Error string }
		if _, err := conn.Receive(&answer); err == nil && answer.Error == "" {
			t.Errorf("%v was taken", message)
		}
		conn.Close()
	}
	if _, err := monitor.Measure(t.Context(), f.entry); err != nil {
		t.Error(err)
	}
}

// TestProcesses: the owner is the first of a pod's processes, and names itself.
func TestProcesses(t *testing.T) {
	f := serve(t, false)
	start, err := store.StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// The fixture's stand-ins are this process's parent, and one that is gone.
	parent, err := store.StartTime(os.Getppid())
	if err != nil {
		t.Fatal(err)
	}
	got, err := monitor.Processes(t.Context(), f.entry)
	want := []monitor.Process{{Role: "owner", PID: os.Getpid(), Start: start}, {Role: "stand-in", PID: os.Getppid(), Start: parent}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}
