package shim

import (
	"context"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"kata-runtime/virtcontainers/shim/taskerror"
)

// taskServices are the names under which containerd has called the same service:
// the messages of both versions are the same on the wire.
func taskServices() []string {
	return []string{"containerd.task.v2.Task", "containerd.task.v3.Task"}
}

// method makes a ttrpc method of a function, whose errors encode gives the codes
// that containerd knows.
func method[Request any, Response proto.Message, Pointer interface {
	*Request
	proto.Message
}](call func(context.Context, Pointer) (Response, error), encode func(error) error) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		request := Pointer(new(Request))
		if err := unmarshal(request); err != nil {
			return nil, err
		}
		response, err := call(ctx, request)
		if err != nil {
			return nil, encode(err)
		}
		return response, nil
	}
}

// register makes the service known under each of its names.
func (s *service) register(server *ttrpc.Server) {
	for _, name := range taskServices() {
		server.RegisterService(name, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
			"State":      method(s.State, taskerror.Encode),
			"Create":     method(s.Create, taskerror.Encode),
			"Start":      method(s.Start, taskerror.Encode),
			"Delete":     method(s.Delete, taskerror.Encode),
			"Pids":       method(s.Pids, taskerror.Encode),
			"Pause":      method(s.Pause, taskerror.Encode),
			"Resume":     method(s.Resume, taskerror.Encode),
			"Checkpoint": method(s.Checkpoint, taskerror.Encode),
			"Kill":       method(s.Kill, taskerror.EncodeGone),
			"Exec":       method(s.Exec, taskerror.Encode),
			"ResizePty":  method(s.ResizePty, taskerror.Encode),
			"CloseIO":    method(s.CloseIO, taskerror.Encode),
			"Update":     method(s.Update, taskerror.Encode),
			"Wait":       method(s.Wait, taskerror.Encode),
			"Stats":      method(s.Stats, taskerror.EncodeGone),
			"Connect":    method(s.Connect, taskerror.Encode),
			"Shutdown":   method(s.Shutdown, taskerror.Encode),
		}})
	}
	server.RegisterService("containerd.runtime.sandbox.v1.Sandbox", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"CreateSandbox":   method(s.CreateSandbox, taskerror.Encode),
		"StartSandbox":    method(s.StartSandbox, taskerror.Encode),
		"Platform":        method(s.Platform, taskerror.Encode),
		"StopSandbox":     method(s.StopSandbox, taskerror.Encode),
		"WaitSandbox":     method(s.WaitSandbox, taskerror.Encode),
		"SandboxStatus":   method(s.SandboxStatus, taskerror.Encode),
		"PingSandbox":     method(s.PingSandbox, taskerror.Encode),
		"ShutdownSandbox": method(s.ShutdownSandbox, taskerror.Encode),
		"SandboxMetrics":  method(s.SandboxMetrics, taskerror.Encode),
		"UpdateSandbox":   method(s.UpdateSandbox, taskerror.Encode),
	}})
}
