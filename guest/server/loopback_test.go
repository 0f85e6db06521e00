package server

import (
	"log/slog"
	"strings"
	"testing"

	"kata-runtime/guest/loopback"
	"kata-runtime/guest/protocol"
)

func TestSetLoopback(t *testing.T) {
	s := &sandbox{loopback: loopback.NewServices(slog.New(slog.DiscardHandler), nil)}
	defer s.loopback.Close()
	if err := s.setLoopback(&protocol.SetNetworkRequest{}); err != nil {
		t.Error(err)
	}
	err := s.setLoopback(&protocol.SetNetworkRequest{LoopbackServices: []*protocol.LoopbackService{
		{Network: "tcp", Address: []byte{192, 0, 2, 1}, Port: 80},
	}})
	if err == nil || !strings.Contains(err.Error(), "192.0.2.1") {
		t.Errorf("error %v, want one that names the address", err)
	}
}
