//go:build vm

package cri

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"kata-runtime/test/harness"
)

// listen starts a server of the host that answers "host", and returns its port.
func listen(t *testing.T) int {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "host\n") // the client reports what it missed
	}))
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return listener.Addr().(*net.TCPAddr).Port
}

// get asks a pod's server from the host.
func get(t *testing.T, ip string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+ip+"/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	connections := &http.Transport{}
	defer connections.CloseIdleConnections()
	answer, err := (&http.Client{Transport: connections, Timeout: harness.Patience}).Do(request)
	if err != nil {
		t.Errorf("ask %s: %v", ip, err)
		return ""
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Errorf("read the answer of %s: %v", ip, err)
	}
	return string(body)
}
