package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Labeler sets a label of the node in the cluster, or takes it away: a nil value.
type Labeler func(ctx context.Context, node, key string, value *string) error

// serviceAccount is where a container finds its identity in the cluster.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// ClusterLabeler reaches the cluster as a container of it does: by the variables
// KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT and the service account.
func ClusterLabeler() (Labeler, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("this is no container of a cluster (KUBERNETES_SERVICE_HOST is not set): label the node with kubectl")
	}
	return labelBy("https://"+net.JoinHostPort(host, port), serviceAccount)
}

// labelBy talks to the API server at base with the identity in a directory.
func labelBy(base, dir string) (Labeler, error) {
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		return nil, fmt.Errorf("read the service account's token: %w", err)
	}
	authority, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s has no certificate in it", filepath.Join(dir, "ca.crt"))
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	return func(ctx context.Context, node, key string, value *string) error {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]*string{key: value}}})
		if err != nil {
			return fmt.Errorf("encode the label %s: %w", key, err)
		}
		target := base + "/api/v1/nodes/" + url.PathEscape(node)
		request, err := http.NewRequestWithContext(ctx, http.MethodPatch, target, bytes.NewReader(patch))
		if err != nil {
			return fmt.Errorf("label the node %s: %w", node, err)
		}
		request.Header.Set("Content-Type", "application/merge-patch+json")
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		response, err := client.Do(request)
		if err != nil {
			return fmt.Errorf("label the node %s: %w", node, err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			detail, _ := io.ReadAll(io.LimitReader(response.Body, 512))
			return fmt.Errorf("label the node %s: the cluster answers %s: %s", node, response.Status, bytes.TrimSpace(detail))
		}
		return nil
	}, nil
}
