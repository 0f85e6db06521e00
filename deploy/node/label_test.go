package node

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestClusterLabel(t *testing.T) {
	var got []string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.HasSuffix(r.URL.Path, "/other") {
			http.Error(w, `nodes "other" not found`, http.StatusNotFound)
			return
		}
		got = append(got, fmt.Sprint(r.Method, " ", r.URL.Path, " ", r.Header.Get("Content-Type"), " ", r.Header.Get("Authorization"), " ", string(body)))
	}))
	defer server.Close()
	dir := t.TempDir()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	write(t, dir, map[string]string{"token": "secret\n", "ca.crt": string(authority)})
	label, err := labelBy(server.URL, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := label(t.Context(), "node-1", "a/b", new("true")); err != nil {
		t.Error(err)
	}
	if err := label(t.Context(), "node-1", "a/b", nil); err != nil {
		t.Error(err)
	}
	const head = "PATCH /api/v1/nodes/node-1 application/merge-patch+json Bearer secret "
	want := []string{head + `{"metadata":{"labels":{"a/b":"true"}}}`, head + `{"metadata":{"labels":{"a/b":null}}}`}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if err := label(t.Context(), "other", "a", nil); err == nil || !strings.Contains(err.Error(), `404 Not Found: nodes "other" not found`) {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := labelBy(server.URL, dir); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Error(err)
	}
}
