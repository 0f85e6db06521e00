//go:build vm && lab

package cri

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// The cluster's own names.
const (
	node = "kata-node"
	// nodeAddress is the node's, on a link of its own: kubelet takes no loopback.
	nodeAddress = "10.88.8.1"
	nodeLink    = "kata-node0"
	apiServer   = "https://127.0.0.1:6443"
	etcdClients = "http://127.0.0.1:2379"
	etcdPeers   = "http://127.0.0.1:2380"
	token       = "kata-test"
)

// cluster is a Kubernetes of one node: etcd, the API server, the controllers and
// scheduler that a Deployment needs, and a kubelet with a container manager.
type cluster struct {
	*kubelet        // the manager
	api      string // the API server's address, for who needs no credentials
	client   *http.Client
}

// newCluster starts a cluster on a container manager, which has the images of
// deploy's manifests. Its pods are to be gone at the end of the test.
func newCluster(t testing.TB, m manager) *cluster {
	t.Helper()
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"} {
		if _, err := exec.LookPath(tool(t, "kubernetes", name)); err != nil {
			t.Fatalf("%v (make kubernetes makes it)", err)
		}
	}
	c := &cluster{kubelet: newKubelet(t, m)}
	c.loadImages()
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: nodeLink}}
	c.must("make the node's link", netlink.LinkAdd(link))
	t.Cleanup(func() {
		if err := netlink.LinkDel(link); err != nil {
			t.Errorf("remove the node's link: %v", err)
		}
	})
	address, err := netlink.ParseAddr(nodeAddress + "/24")
	c.must("parse the node's address", err)
	c.must("set the node's address", errors.Join(netlink.AddrAdd(link, address), netlink.LinkSetUp(link)))
	// Where kubelet has what no option moves.
	for _, dir := range []string{"/var/lib/kubelet", "/var/log/containers"} {
		c.mountEmpty(dir)
	}
	c.must("make a directory", os.Mkdir(c.file(), 0o700))
	c.parent = "/kubepods"
	if harness.OnSystemd() {
		c.parent = "kubepods.slice"
	}
	c.t.Cleanup(c.removeNode)
	c.startServers()
	c.startKubelet()
	return c
}

// removeNode removes what kubelet leaves: a mount of its directory on itself, what
// mount(8) made for that, and the control groups of the classes of pods.
func (c *cluster) removeNode() {
	if err := unix.Unmount(c.file("kubelet"), 0); err != nil {
		c.t.Errorf("unmount kubelet's directory: %v", err)
	}
	c.removeTree("/run/mount")
	for _, class := range []string{"burstable", "besteffort"} {
		groups, err := filepath.Glob("/sys/fs/cgroup/*/kubepods/" + class)
		for _, group := range groups {
			err = errors.Join(err, os.Remove(group))
		}
		if err != nil {
			c.t.Errorf("remove kubelet's control groups: %v", err)
		}
	}
}

// file returns a path in the directory of the cluster's own files.
func (c *cluster) file(name ...string) string {
	return filepath.Join(append([]string{c.h.File("cluster")}, name...)...)
}

// loadImages gives the manager the images that deploy's manifests name, which are
// busybox here: what it runs by default is what it stands for.
func (c *cluster) loadImages() {
	c.t.Helper()
	serve := []string{"/bin/sh", "-c", "mkdir -p /www && hostname >/www/index.html && exec httpd -f -p 80 -h /www"}
	for name, command := range map[string][]string{nginx: serve, busybox: {"/bin/sh"}} {
		archive := c.h.File("image.tar")
		c.must("make an image", bundle.Image(archive, name, c.layer(), command...))
		c.call("ctr", "--namespace", "k8s.io", "images", "import", archive)
	}
	c.end() // see load
	c.start()
}

// daemon makes the command of a service, which ends with the test.
func (c *cluster) daemon(name string, args ...string) *exec.Cmd {
	c.t.Helper()
	command := exec.Command(tool(c.t, "kubernetes", name), args...)
	command.Env = append(os.Environ(), "GOGC=300") // the lab has memory, and little time
	c.t.Cleanup(func() {
		if command.Process == nil {
			return
		}
		_ = command.Process.Signal(unix.SIGTERM) // it may have ended
		c.h.WaitExit(command.Process.Pid)
		_ = command.Wait() // how it ends is its own affair
		if c.t.Failed() {
			text, _ := os.ReadFile(c.file(name + ".log"))
			c.t.Logf("the end of the log of %s:\n%s", name, text[max(0, len(text)-100<<10):])
		}
	})
	return command
}

// startServers starts everything but the node.
func (c *cluster) startServers() {
	c.t.Helper()
	c.launch(c.daemon("etcd", "--data-dir="+c.file("etcd.data"), "--unsafe-no-fsync",
		"--listen-client-urls="+etcdClients, "--advertise-client-urls="+etcdClients,
		"--listen-peer-urls="+etcdPeers, "--initial-advertise-peer-urls="+etcdPeers, "--initial-cluster=default="+etcdPeers),
		c.file("etcd.log"))
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	c.must("make the key of service accounts", err)
	c.write(c.file("accounts.key"), string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	c.write(c.file("tokens"), token+",admin,admin,system:masters\n")
	c.launch(c.daemon("kube-apiserver", "--etcd-servers="+etcdClients, "--bind-address=127.0.0.1", "--secure-port=6443",
		"--advertise-address="+nodeAddress, "--endpoint-reconciler-type=none", "--kubelet-preferred-address-types=InternalIP", "--cert-dir="+c.file("certificates"), "--enable-priority-and-fairness=false",
		"--service-cluster-ip-range=10.96.0.0/24", "--authorization-mode=AlwaysAllow", "--token-auth-file="+c.file("tokens"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+c.file("accounts.key"),
		"--service-account-signing-key-file="+c.file("accounts.key")), c.file("kube-apiserver.log"))
	c.write(c.file("kubeconfig"), `{"apiVersion": "v1", "kind": "Config", "current-context": "c",
  "clusters": [{"name": "c", "cluster": {"server": "`+apiServer+`", "certificate-authority": "`+c.file("certificates", "apiserver.crt")+`"}}],
  "users": [{"name": "c", "user": {"token": "`+token+`"}}],
  "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}]}`)
	c.connect()
	// The controllers do not wait for long.
	c.until("the API server is healthy", c.unhealthy)
	c.begin(c.daemon("kube-controller-manager", "--kubeconfig="+c.file("kubeconfig"), "--leader-elect=false", "--secure-port=0",
		"--use-service-account-credentials=false", "--root-ca-file="+c.file("certificates", "apiserver.crt"),
		"--service-account-private-key-file="+c.file("accounts.key"),
		"--controllers=deployment-controller,replicaset-controller,serviceaccount-controller,root-ca-certificate-publisher-controller,"+
			"node-lifecycle-controller,garbage-collector-controller"),
		c.file("kube-controller-manager.log"))
	c.begin(c.daemon("kube-scheduler", "--kubeconfig="+c.file("kubeconfig"), "--leader-elect=false", "--secure-port=0"),
		c.file("kube-scheduler.log"))
	// The controllers make what each pod is given.
	await(c, namespacePath("serviceaccounts"), "default", func(*core.ServiceAccount) bool { return true })
	await(c, namespacePath("configmaps"), "kube-root-ca.crt", func(*core.ConfigMap) bool { return true })
}

// connect lets the test talk with the API server as kubectl proxy does.
func (c *cluster) connect() {
	c.t.Helper()
	certificate, err := os.ReadFile(c.file("certificates", "apiserver.crt"))
	c.must("read the API server's certificate", err)
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(certificate)
	target, err := url.Parse(apiServer)
	c.must("parse the API server's address", err)
	connections := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}
	proxy := httptest.NewServer(&httputil.ReverseProxy{Transport: connections, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Header.Set("Authorization", "Bearer "+token)
	}})
	c.api, c.client = proxy.URL, proxy.Client()
	c.t.Cleanup(func() {
		proxy.Close()
		connections.CloseIdleConnections()
	})
}

// unhealthy is what the API server says of its health while it is not well.
func (c *cluster) unhealthy(ctx context.Context) string {
	c.t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.api+"/healthz", http.NoBody)
	c.must("ask the API server", err)
	answer, err := c.client.Do(request)
	c.must("ask the API server", err)
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusOK {
		return ""
	}
	text, err := io.ReadAll(answer.Body)
	c.must("read the API server's answer", err)
	return string(text)
}

// until asks what is missing, again and again, until nothing is: where nobody
// tells of it.
func (c *cluster) until(what string, missing func(context.Context) string) {
	c.t.Helper()
	ctx := c.bounded()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for {
		text := missing(ctx)
		if text == "" {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			c.t.Fatalf("it does not come that %s:\n%s", what, text)
		}
	}
}

// startKubelet starts the node and waits until the cluster has it.
func (c *cluster) startKubelet() {
	c.t.Helper()
	driver := "cgroupfs"
	if harness.OnSystemd() {
		driver = "systemd"
	}
	c.write(c.file("kubelet.yaml"), `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://`+c.socket()+`
address: 0.0.0.0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: `+driver+`
podLogsDir: `+c.file("pod-logs")+`
volumePluginDir: `+c.file("plugins")+`
clusterDomain: cluster.local
clusterDNS: [10.96.0.10]
# What the test waits for is to come soon.
syncFrequency: 5s
# An emulated machine starts a pod in minutes.
runtimeRequestTimeout: `+harness.Patience.String()+`
# The machine's disk is not the test's.
evictionHard: {imagefs.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.inodesFree: 0%, memory.available: 1Mi}
imageGCHighThresholdPercent: 100
# What the machine that runs the tests may lack.
failSwapOn: false
failCgroupV1: false
oomScoreAdj: 0
makeIPTablesUtilChains: false
`)
	c.launch(c.daemon("kubelet", "--config="+c.file("kubelet.yaml"), "--kubeconfig="+c.file("kubeconfig"), "--root-dir="+c.file("kubelet"),
		"--cert-dir="+c.file("kubelet-certificates"), "--hostname-override="+node, "--node-ip="+nodeAddress,
		// As deploy's installer does.
		"--node-labels=kata-runtime/installed=true"), c.file("kubelet.log"))
	await(c, "/api/v1/nodes", node, func(n *core.Node) bool {
		for _, condition := range n.Status.Conditions {
			if condition.Type == core.NodeReady {
				return condition.Status == core.ConditionTrue
			}
		}
		return false
	})
}

// namespacePath is the API's path of a kind of the core API, in the namespace of the pods.
func namespacePath(kind string) string { return "/api/v1/namespaces/default/" + kind }

// ask asks the API server and returns its answer.
func (c *cluster) ask(method, path, contentType string, body []byte) []byte {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.bounded(), method, c.api+path, bytes.NewReader(body))
	c.must("ask the API server", err)
	request.Header.Set("Content-Type", contentType)
	answer, err := c.client.Do(request)
	c.must("ask the API server", err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	c.must("read the API server's answer", err)
	if answer.StatusCode >= http.StatusBadRequest {
		c.t.Fatalf("%s %s: %s: %s", method, path, answer.Status, text)
	}
	return text
}

// send gives the API server an object.
func (c *cluster) send(method, path string, object any) {
	c.t.Helper()
	text, err := json.Marshal(object)
	c.must("encode an object", err)
	c.ask(method, path+"?fieldValidation=Strict", "application/json", text)
}

// apply makes the objects of one of deploy's manifests, at a path each, with
// changes to its text.
func (c *cluster) apply(manifest string, paths []string, change ...string) {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Repository(c.t), "deploy", manifest))
	c.must("read what is deployed", err)
	for i := 0; i < len(change); i += 2 {
		if !strings.Contains(string(text), change[i]) {
			c.t.Fatalf("%s has no %q", manifest, change[i])
		}
	}
	documents := strings.Split(strings.NewReplacer(change...).Replace(string(text)), "\n---\n")
	if len(documents) != len(paths) {
		c.t.Fatalf("%s has %d objects, not %d", manifest, len(documents), len(paths))
	}
	for i, document := range documents {
		c.ask(http.MethodPost, paths[i]+"?fieldValidation=Strict", "application/yaml", []byte(document))
	}
}

// watch hands over a kind's objects, as they are and as they change, with what has
// happened to them, until one is what is waited for.
func watch[T any](c *cluster, path, query, what string, holds func(event string, object *T) bool) {
	c.t.Helper()
	address := c.api + path + "?watch=1&" + query
	request, err := http.NewRequestWithContext(c.bounded(), http.MethodGet, address, http.NoBody)
	c.must("watch", err)
	answer, err := c.client.Do(request)
	c.must("watch", err)
	defer answer.Body.Close()
	events := json.NewDecoder(answer.Body)
	var last json.RawMessage
	for {
		var event struct {
			Type   string
			Object json.RawMessage
		}
		if err := events.Decode(&event); err != nil {
			c.t.Fatalf("%s has not come: %v; the last object: %s", what, err, last)
		}
		last = event.Object
		object := new(T)
		c.must("decode an object", json.Unmarshal(event.Object, object))
		if holds(event.Type, object) {
			return
		}
	}
}

// await waits for what is to hold of an object, which need not be there yet.
func await[T any](c *cluster, path, name string, holds func(*T) bool) *T {
	c.t.Helper()
	var found *T
	watch(c, path, "fieldSelector=metadata.name="+name, name, func(event string, object *T) bool {
		found = object
		return event != "DELETED" && holds(object)
	})
	return found
}

// remove deletes an object and waits until it is gone.
func (c *cluster) remove(path, name string) {
	c.t.Helper()
	c.ask(http.MethodDelete, path+"/"+name, "application/json", nil)
	c.gone(path, "fieldSelector=metadata.name="+name)
}

// gone waits until no object is left of a list.
func (c *cluster) gone(path, query string) {
	c.t.Helper()
	var list struct {
		Metadata struct{ ResourceVersion string }
		Items    []struct{}
	}
	c.must("decode a list", json.Unmarshal(c.ask(http.MethodGet, path+"?"+query, "", nil), &list))
	left := len(list.Items)
	if left == 0 {
		return
	}
	watch(c, path, query+"&resourceVersion="+list.Metadata.ResourceVersion, fmt.Sprintf("the end of what %s has of %s", path, query),
		func(event string, _ *struct{}) bool {
			if event == "DELETED" {
				left--
			}
			return left == 0
		})
}
