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

// method makes a ttrpc method of a function.
func method[Request any, Response proto.Message, Pointer interface {
	*Request
	proto.Message
}](call func(context.Context, Pointer) (Response, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		request := Pointer(new(Request))
		if err := unmarshal(request); err != nil {
			return nil, err
		}
		response, err := call(ctx, request)
		if err != nil {
			return nil, taskerror.Encode(err)
		}
		return response, nil
	}
}

// register makes the service known under each of its names.
func (s *service) register(server *ttrpc.Server) {
	for _, name := range taskServices() {
		server.RegisterService(name, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
			"State":      method(s.State),
			"Create":     method(s.Create),
			"Start":      method(s.Start),
			"Delete":     method(s.Delete),
			"Pids":       method(s.Pids),
			"Pause":      method(s.Pause),
			"Resume":     method(s.Resume),
			"Checkpoint": method(s.Checkpoint),
			"Kill":       method(s.Kill),
			"Exec":       method(s.Exec),
			"ResizePty":  method(s.ResizePty),
			"CloseIO":    method(s.CloseIO),
			"Update":     method(s.Update),
			"Wait":       method(s.Wait),
			"Stats":      method(s.Stats),
			"Connect":    method(s.Connect),
			"Shutdown":   method(s.Shutdown),
		}})
	}
}
