// Command hostile is the enemy in the defence tests. As PID 1 of a guest it is
// an agent that lies: the kernel parameter hostile=KIND says how. As a program
// in a container ("hostile probe") it tries what a container with every
// privilege can, and prints what it reached.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/containerd/ttrpc"
	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/bootparam"
	"kata-runtime/guest/protocol"
)

const anyCID = 0xffffffff

func main() {
	if len(os.Args) > 1 && os.Args[1] == "probe" {
		probe()
		return
	}
	if err := beAgent(); err != nil {
		fmt.Println("hostile:", err)
	}
	// The end of PID 1 would be a panic.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func beAgent() error {
	fmt.Println(protocol.InitMarker)
	for target, fstype := range map[string]string{"/dev": "devtmpfs", "/proc": "proc"} {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fstype, target, fstype, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", target, err)
		}
	}
	params, err := bootparam.Read()
	if err != nil {
		return err
	}
	kind, err := kindOf()
	if err != nil {
		return err
	}
	agent, err := vsock.ListenContextID(anyCID, protocol.AgentPort, nil)
	if err != nil {
		return err
	}
	streams, err := vsock.ListenContextID(anyCID, protocol.StreamPort, nil)
	if err != nil {
		return err
	}
	fmt.Println("hostile:", kind)
	if kind == "guess" {
		guessTokens(params)
	}
	if err := announce(params.ReadyPort, params.Token+"\n"); err != nil {
		return err
	}
	switch kind {
	case "streams": // output without end, and processes that nothing ends
		l := &liar{started: make(chan struct{})}
		go l.serveStreams(streams, true)
		return lie(agent, l)
	case "end": // processes end when they are told to, and what they wrote never does
		l := &liar{started: make(chan struct{}), ends: make(chan struct{})}
		go l.serveStreams(streams, false)
		return lie(agent, l)
	}
	for {
		conn, err := agent.Accept()
		if err != nil {
			return err
		}
		go answer(conn, kind)
	}
}

func kindOf() (string, error) {
	data, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", err
	}
	for field := range strings.FieldsSeq(string(data)) {
		if kind, ok := strings.CutPrefix(field, "hostile="); ok {
			return kind, nil
		}
	}
	return "", errors.New("no kernel parameter hostile")
}

func announce(port uint32, text string) error {
	conn, err := vsock.Dial(protocol.HostCID, port, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(text))
	return err
}

// guessTokens floods the port of the ready message with wrong ones, and then
// looks for other ports of the host.
func guessTokens(params bootparam.Params) {
	for i := range 500 {
		_ = announce(params.ReadyPort, fmt.Sprintf("%032x\n", i))
	}
	for port := range uint32(2000) {
		switch port {
		case params.ReadyPort, protocol.SocketPort, protocol.LoopbackPort: // the relays: see probe
			continue
		}
		if conn, err := vsock.Dial(protocol.HostCID, port, nil); err == nil {
			fmt.Println("hostile: the host listens on", port)
			conn.Close()
		}
	}
}

// answer answers a connection of the host's ttrpc client with nonsense.
func answer(conn net.Conn, kind string) {
	junk := make([]byte, 64<<10)
	for i := range junk {
		junk[i] = byte(i*7 + i>>8)
	}
	switch kind {
	case "silent":
		select {}
	case "hangup":
		conn.Close()
	case "oversized":
		// A response to the first call that claims four gigabytes.
		_, _ = conn.Write([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 2, 0})
		fallthrough
	default: // garbage
		for {
			if _, err := conn.Write(junk); err != nil {
				return
			}
		}
	}
}

// serveStreams accepts every stream and never ends the output, of which there is
// one line, or more and more, from the container's start on.
func (l *liar) serveStreams(listener net.Listener, flood bool) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			header, err := protocol.ReadStreamHeader(conn)
			if err != nil {
				return
			}
			_, err = conn.Write([]byte{protocol.StreamAccepted})
			<-l.started
			if err == nil && header.Stream != protocol.Stdin {
				_, err = conn.Write([]byte("endless output\n"))
			}
			for err == nil && flood && header.Stream != protocol.Stdin {
				_, err = conn.Write([]byte(strings.Repeat("endless output\n", 1000)))
			}
			select {} // the connection stays
		}()
	}
}

// liar answers well enough for a container to start, and lies about the rest.
type liar struct {
	protocol.AgentService // nil: what is not below was not called

	started chan struct{} // closed by StartContainer
	ends    chan struct{} // closed by the first signal, which ends the processes; nil: none does
	once    sync.Once
}

func lie(listener net.Listener, agent *liar) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	protocol.RegisterAgentService(server, agent)
	return server.Serve(context.Background(), listener)
}

func (*liar) Hello(context.Context, *protocol.HelloRequest) (*protocol.HelloResponse, error) {
	return &protocol.HelloResponse{
		Version: protocol.Version, KernelRelease: strings.Repeat("\x1b[2J../", 1000), AgentRssBytes: 1 << 63,
	}, nil
}

func (*liar) CreateSandbox(context.Context, *protocol.CreateSandboxRequest) (*protocol.CreateSandboxResponse, error) {
	return &protocol.CreateSandboxResponse{}, nil
}

func (*liar) CreateContainer(context.Context, *protocol.CreateContainerRequest) (*protocol.Empty, error) {
	return &protocol.Empty{}, nil
}

func (l *liar) StartContainer(context.Context, *protocol.ContainerRequest) (*protocol.Empty, error) {
	close(l.started)
	return &protocol.Empty{}, nil
}

func (l *liar) SignalProcess(context.Context, *protocol.SignalProcessRequest) (*protocol.Empty, error) {
	if l.ends != nil {
		l.once.Do(func() { close(l.ends) })
	}
	return &protocol.Empty{}, nil
}

func (l *liar) WaitProcess(ctx context.Context, _ *protocol.ProcessRequest) (*protocol.WaitProcessResponse, error) {
	select {
	case <-l.ends:
		return &protocol.WaitProcessResponse{ExitCode: 137}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (*liar) RemoveContainer(context.Context, *protocol.ContainerRequest) (*protocol.Empty, error) {
	return nil, errors.New("\x1b[31mit stays")
}

func (*liar) DestroySandbox(ctx context.Context, _ *protocol.DestroySandboxRequest) (*protocol.Empty, error) {
	<-ctx.Done() // never
	return nil, ctx.Err()
}

func (*liar) NextOOM(context.Context, *protocol.Empty) (*protocol.OOMEvent, error) {
	return &protocol.OOMEvent{ContainerId: "../../etc"}, nil // at once, again and again
}

func (*liar) ListProcesses(context.Context, *protocol.ContainerRequest) (*protocol.ListProcessesResponse, error) {
	return &protocol.ListProcessesResponse{Processes: []*protocol.ProcessInfo{{
		Pid: -1, User: "\x1b]0;title\x07", Command: strings.Repeat("\n\x1b[31m", 1000),
	}}}, nil
}

func (*liar) StatsContainer(context.Context, *protocol.ContainerRequest) (*protocol.StatsContainerResponse, error) {
	return &protocol.StatsContainerResponse{StatsJson: []byte(`{"memory": "\u001b[31m`)}, nil
}

func (*liar) ExecProcess(ctx context.Context, _ *protocol.ExecProcessRequest) (*protocol.Empty, error) {
	<-ctx.Done() // never
	return nil, ctx.Err()
}
