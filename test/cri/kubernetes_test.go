//go:build vm && lab

package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/test/cri/client"
	"kata-runtime/test/harness"
	"kata-runtime/test/leak"
	"kata-runtime/virtcontainers/turn"
)

// What deploy's manifests name.
const (
	class   = "kata"
	nginx   = "docker.io/library/nginx:1.29-alpine"
	busybox = "docker.io/library/busybox:1.36"
)

// overhead is what deploy's RuntimeClass says that a pod costs.
func overhead() core.ResourceList {
	return core.ResourceList{core.ResourceMemory: resource.MustParse("448Mi"), core.ResourceCPU: resource.MustParse("250m")}
}

// TestKubernetes takes pods of runc and of this runtime through their lives by a
// kubelet, with the manifests of deploy.
func TestKubernetes(t *testing.T) {
	c := newCluster(t, containerd(2))
	c.apply("runtimeclass.yaml", []string{"/apis/node.k8s.io/v1/runtimeclasses"}, "handler: kata", "handler: "+shimHandler)
	c.testPod("pod", "")
	c.testOutOfMemory("hungry", "")
	// What stays on a node that has had a pod of runc's was there before.
	before, err := leak.Take("/run", "/dev/shm", c.h.Temp, c.file("kubelet", "pods"), c.file("pod-logs"), "/var/log/containers")
	c.must("look at the machine", err)
	t.Run("pod", func(t *testing.T) { c.in(t).testPod("kata", class) })
	t.Run("out of memory", func(t *testing.T) { c.in(t).testOutOfMemory("kata-hungry", class) })
	t.Run("deployment", func(t *testing.T) { c.in(t).testDeployment() })
	c.testNothingLeft(before)
}

// in returns the cluster for a subtest.
func (c *cluster) in(t *testing.T) *cluster {
	in := *c
	in.kubelet = c.kubelet.in(t)
	return &in
}

// clusterPod is a pod of the cluster.
type clusterPod struct {
	*cluster
	name string
}

func (p *clusterPod) in(t *testing.T) *clusterPod {
	in := *p
	in.cluster = p.cluster.in(t)
	return &in
}

// await waits for what is to hold of the pod.
func (p *clusterPod) await(holds func(*core.Pod) bool) *core.Pod {
	p.t.Helper()
	return await(p.cluster, namespacePath("pods"), p.name, holds)
}

// ready tells whether a pod is ready.
func ready(pod *core.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(condition core.PodCondition) bool {
		return condition.Type == core.PodReady && condition.Status == core.ConditionTrue
	})
}

// url is the URL of one of the pod's subresources.
func (p *clusterPod) url(subresource, query string) string {
	return p.api + namespacePath("pods") + "/" + p.name + "/" + subresource + "?" + query
}

// session starts a shell script in a container.
func (p *clusterPod) session(container, script string, tty bool) *client.Session {
	p.t.Helper()
	query := fmt.Sprintf("container=%s&stdin=true&stdout=true&stderr=%t&tty=%t&command=sh&command=-c&command=%s",
		container, !tty, tty, url.QueryEscape(script))
	session, err := client.Open(p.bounded(), p.url("exec", query))
	p.must("exec", err)
	return session
}

// output runs a shell script that has to succeed and returns what it writes.
func (p *clusterPod) output(container, script string) string {
	p.t.Helper()
	session := p.session(container, script, false)
	output := p.h.ReadAll(session.Stdout)
	if code, err := session.Wait(); err != nil || code != 0 {
		p.t.Fatalf("%s: exit code %d, %v: %s%s", script, code, err, output, p.h.ReadAll(session.Stderr))
	}
	return output
}

// logs returns a container's log.
func (p *clusterPod) logs(container, query string) string {
	p.t.Helper()
	return string(p.cluster.ask(http.MethodGet, namespacePath("pods")+"/"+p.name+"/log?container="+container+query, "", nil))
}

// script is a container that runs a shell script.
func script(name, text string) core.Container {
	return core.Container{Name: name, Image: busybox, Command: []string{"sh", "-c", text}}
}

// limited is what a container may use.
func limited(memory string) core.ResourceRequirements {
	limits := core.ResourceList{core.ResourceMemory: resource.MustParse(memory)}
	return core.ResourceRequirements{Limits: limits, Requests: core.ResourceList{core.ResourceCPU: resource.MustParse("100m")}}
}

// newPod is a pod with these containers.
func newPod(name, class string, containers ...core.Container) *core.Pod {
	pod := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: name}, Spec: core.PodSpec{Containers: containers, TerminationGracePeriodSeconds: new(int64(1))}}
	if class != "" {
		pod.Spec.RuntimeClassName = &class
	}
	return pod
}

// probe is one whose outcome the test sees soon, and which does not keep the
// lab's processor busy: an exec there takes seconds.
func probe(handler core.ProbeHandler) *core.Probe {
	return &core.Probe{ProbeHandler: handler, PeriodSeconds: 10, FailureThreshold: 1, TimeoutSeconds: 60}
}

// testPod takes a pod with what a pod may have through its life.
func (c *cluster) testPod(name, class string) {
	c.t.Helper()
	settings := &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: name}, Data: map[string]string{"setting": "first"}}
	c.send(http.MethodPost, namespacePath("configmaps"), settings)
	server := script("server", "cp /prepared/index.html /www/; touch /www/health; httpd -p 80 -h /www; echo serving; echo warning >&2; "+
		"while :; do sleep 100000; done")
	server.Resources = limited("128Mi")
	server.LivenessProbe = probe(core.ProbeHandler{HTTPGet: &core.HTTPGetAction{Path: "/health", Port: intstr.FromInt32(80)}})
	server.ReadinessProbe = probe(core.ProbeHandler{Exec: &core.ExecAction{Command: []string{"test", "!", "-e", "/unready"}}})
	server.StartupProbe = probe(core.ProbeHandler{TCPSocket: &core.TCPSocketAction{Port: intstr.FromInt32(80)}})
	server.StartupProbe.PeriodSeconds, server.StartupProbe.FailureThreshold = 1, 600
	server.VolumeMounts = []core.VolumeMount{
		{Name: "settings", MountPath: "/settings"},
		{Name: "prepared", MountPath: "/prepared", ReadOnly: true},
		{Name: "memory", MountPath: "/www"},
		{Name: "settings", MountPath: "/setting", SubPath: "setting"},
	}
	prepare := script("prepare", "echo $POD_NAME >/prepared/index.html")
	prepare.Env = []core.EnvVar{{Name: "POD_NAME", ValueFrom: &core.EnvVarSource{FieldRef: &core.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
	prepare.Resources = limited("16Mi")
	prepare.VolumeMounts = []core.VolumeMount{{Name: "prepared", MountPath: "/prepared"}}
	sidecar := script("sidecar", "echo beside; while :; do sleep 100000; done")
	sidecar.RestartPolicy = new(core.ContainerRestartPolicyAlways)
	sidecar.Resources = limited("16Mi")
	object := newPod(name, class, server)
	object.Spec.InitContainers = []core.Container{prepare, sidecar}
	object.Spec.Volumes = []core.Volume{
		{Name: "settings", VolumeSource: core.VolumeSource{ConfigMap: &core.ConfigMapVolumeSource{LocalObjectReference: core.LocalObjectReference{Name: name}}}},
		{Name: "prepared", VolumeSource: core.VolumeSource{EmptyDir: &core.EmptyDirVolumeSource{}}},
		{Name: "memory", VolumeSource: core.VolumeSource{EmptyDir: &core.EmptyDirVolumeSource{Medium: core.StorageMediumMemory, SizeLimit: new(resource.MustParse("16Mi"))}}},
	}
	c.send(http.MethodPost, namespacePath("pods"), object)
	p := &clusterPod{c, name}
	created := p.await(ready)
	p.checkOverhead(created, class)
	p.checkGroup(created, 128+16)

	p.run("exec", func(p *clusterPod) {
		session := p.session("server", "read line; echo got $line; echo problem >&2; exit 6", false)
		_, err := session.Write([]byte("hello\n"))
		p.must("write", err)
		if out, problem := p.h.ReadAll(session.Stdout), p.h.ReadAll(session.Stderr); out != "got hello\n" || problem != "problem\n" {
			p.t.Errorf("output %q, error %q", out, problem)
		}
		if code, err := session.Wait(); err != nil || code != 6 {
			p.t.Errorf("exit code %d, %v", code, err)
		}
		if got := p.h.ReadAll(p.session("sidecar", "tty; hostname", true).Stdout); !strings.HasPrefix(got, "/dev/") || !strings.HasSuffix(got, "\r\n"+name+"\r\n") {
			p.t.Errorf("on a terminal: %q", got)
		}
	})
	p.run("logs", func(p *clusterPod) {
		if got := p.logs("server", ""); got != "serving\nwarning\n" && got != "warning\nserving\n" {
			p.t.Errorf("the log is %q", got)
		}
		if got := p.logs("sidecar", ""); got != "beside\n" {
			p.t.Errorf("the sidecar's log is %q", got)
		}
	})
	p.run("port-forward", func(p *clusterPod) {
		forward, err := client.OpenForward(p.bounded(), p.url("portforward", "ports=80"))
		p.must("forward a port", err)
		_, err = forward.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
		p.must("write", err)
		p.h.Expect(forward, "\r\n\r\n"+name+"\n")
		p.must("close", forward.Close())
	})
	p.run("volumes", func(p *clusterPod) {
		if got := p.output("server", "df -m /www | tail -n 1 | awk '{print $2}'; cat /setting"); got != "16\nfirst" {
			p.t.Errorf("the size of the volume in memory, and a file: %q", got)
		}
		if got := p.output("server", "cut -c 1-3 /var/run/secrets/kubernetes.io/serviceaccount/token"); got != "eyJ\n" {
			p.t.Errorf("the service account's token begins with %q", got)
		}
	})
	p.run("statistics", func(p *clusterPod) { p.until("kubelet knows what the server uses", p.unmeasured) })
	p.run("configMap", func(p *clusterPod) {
		settings.Data["setting"] = "second"
		p.send(http.MethodPut, namespacePath("configmaps")+"/"+name, settings)
		// Nothing tells who is inside.
		if got := p.output("server", "until grep -q second /settings/setting; do usleep 100000; done; cat /settings/setting /setting"); got != "secondfirst" {
			p.t.Errorf("the updated setting is %q", got)
		}
	})
	p.run("readiness", func(p *clusterPod) {
		p.output("server", "touch /unready")
		p.await(func(pod *core.Pod) bool { return !ready(pod) })
		p.output("server", "rm /unready")
		p.await(ready)
	})
	p.run("resize", func(p *clusterPod) {
		p.cluster.ask(http.MethodPatch, namespacePath("pods")+"/"+name+"/resize", "application/strategic-merge-patch+json",
			[]byte(`{"spec": {"containers": [{"name": "server", "resources": {"limits": {"memory": "160Mi"}}}]}}`))
		resized := p.await(func(pod *core.Pod) bool {
			now := pod.Status.ContainerStatuses[0].Resources
			return now != nil && now.Limits.Memory().Value() == 160<<20
		})
		if got := p.output("server", memoryLimit); got != fmt.Sprintln(160<<20) {
			p.t.Errorf("the memory limit is %q", got)
		}
		p.checkGroup(resized, 160+16)
	})
	p.run("liveness", func(p *clusterPod) {
		p.output("server", "rm /www/health")
		restarted := p.await(func(pod *core.Pod) bool { return pod.Status.ContainerStatuses[0].RestartCount == 1 && ready(pod) })
		last := restarted.Status.ContainerStatuses[0].LastTerminationState.Terminated
		if last == nil { // kubelet's collection of garbage was there first, as was seen with runc
			return
		}
		if last.ExitCode != 137 {
			p.t.Errorf("the container that was not well ended as %+v", last)
		}
		if got := p.logs("server", "&previous=true"); !strings.Contains(got, "serving\n") {
			p.t.Errorf("its log is %q", got)
		}
	})
	p.remove(namespacePath("pods"), name)
	p.remove(namespacePath("configmaps"), name)
}

// run runs a subtest.
func (p *clusterPod) run(name string, test func(*clusterPod)) {
	p.t.(*testing.T).Run(name, func(t *testing.T) { test(p.in(t)) })
}

// unmeasured is what kubelet tells of the pod's use while the server's memory is not
// in it: kubelet asks at times of its own.
func (p *clusterPod) unmeasured(context.Context) string {
	p.t.Helper()
	text := p.cluster.ask(http.MethodGet, "/api/v1/nodes/"+node+"/proxy/stats/summary", "", nil)
	var summary struct {
		Pods []struct {
			PodRef     struct{ Name string }
			Containers []struct {
				Name   string
				Memory struct{ WorkingSetBytes uint64 }
			}
		}
	}
	p.must("decode kubelet's statistics", json.Unmarshal(text, &summary))
	for _, pod := range summary.Pods {
		for _, c := range pod.Containers {
			if pod.PodRef.Name == p.name && c.Name == "server" && c.Memory.WorkingSetBytes > 0 {
				return ""
			}
		}
	}
	return string(text)
}

// checkOverhead checks that a pod of the class costs what the class says.
func (p *clusterPod) checkOverhead(pod *core.Pod, class string) {
	p.t.Helper()
	if class == "" {
		if len(pod.Spec.Overhead) != 0 {
			p.t.Errorf("a pod of no class has an overhead: %v", pod.Spec.Overhead)
		}
		return
	}
	for name, want := range overhead() {
		if got := pod.Spec.Overhead[name]; got.Cmp(want) != 0 {
			p.t.Errorf("the pod's overhead of %s is %v, not %v", name, &got, &want)
		}
	}
}

// checkGroup checks the limit of the pod's control group: what its containers may
// use, in MiB, and its overhead.
func (p *clusterPod) checkGroup(pod *core.Pod, containers int64) {
	p.t.Helper()
	group := "/sys/fs/cgroup/memory/kubepods/burstable/pod" + string(pod.UID) + "/memory.limit_in_bytes"
	if harness.OnSystemd() {
		group = "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" +
			strings.ReplaceAll(string(pod.UID), "-", "_") + ".slice/memory.max"
	}
	got, err := os.ReadFile(group)
	p.must("read the limit of the pod's control group", err)
	if want := containers<<20 + pod.Spec.Overhead.Memory().Value(); string(got) != fmt.Sprintln(want) {
		p.t.Errorf("the limit of the pod's control group is %s, not %d", got, want)
	}
}

// testOutOfMemory has a container use more than it may.
func (c *cluster) testOutOfMemory(name, class string) {
	c.t.Helper()
	hungry := script("hungry", "echo hungry >/dev/termination-log; exec tail /dev/zero")
	hungry.Resources = limited("32Mi")
	object := newPod(name, class, hungry)
	object.Spec.RestartPolicy = core.RestartPolicyNever
	c.send(http.MethodPost, namespacePath("pods"), object)
	p := &clusterPod{c, name}
	pod := p.await(func(pod *core.Pod) bool { return pod.Status.Phase == core.PodFailed })
	if end := pod.Status.ContainerStatuses[0].State.Terminated; end == nil || end.Reason != "OOMKilled" || end.ExitCode != 137 || end.Message != "hungry\n" {
		c.t.Errorf("the container ended as %+v", end)
	}
	p.remove(namespacePath("pods"), name)
}

// testDeployment runs deploy's Deployment.
func (c *cluster) testDeployment() {
	c.t.Helper()
	const deployments = "/apis/apps/v1/namespaces/default/deployments"
	// The lab's machine has one processor, of which two want more.
	c.apply("deployment.yaml", []string{deployments, namespacePath("services")}, "replicas: 2", "replicas: 1")
	await(c, deployments, "kata-nginx", func(d *apps.Deployment) bool { return d.Status.AvailableReplicas == 1 })
	var pod *core.Pod
	watch(c, namespacePath("pods"), "labelSelector=app=kata-nginx", "a pod", func(_ string, object *core.Pod) bool {
		pod = object
		return true
	})
	p := &clusterPod{c, pod.Name}
	p.checkOverhead(pod, class)
	if got := get(c.t.(*testing.T), pod.Status.PodIP); got != pod.Name+"\n" {
		c.t.Errorf("the server answers %q", got)
	}
	c.ask(http.MethodDelete, deployments+"/kata-nginx?propagationPolicy=Foreground", "", nil)
	c.gone(namespacePath("pods"), "labelSelector=app=kata-nginx")
	c.remove(namespacePath("services"), "kata-nginx")
}

// testNothingLeft waits until there is nothing that was not there before: kubelet
// removes what it keeps of a pod some time after the pod is gone, and tells nobody.
func (c *cluster) testNothingLeft(before *leak.Snapshot) {
	c.t.Helper()
	c.until("nothing is left", func(context.Context) string { return strings.Join(c.added(before), "\n") })
}

// added is what there is that was not there before.
func (c *cluster) added(before *leak.Snapshot) []string {
	c.t.Helper()
	added, err := before.Added()
	c.must("look at the machine", err)
	// Processes that have ended are this one's to reap. What the jail knows of
	// programs is kept for the next pod.
	added = slices.DeleteFunc(added, func(entry string) bool {
		return strings.HasPrefix(entry, "process ") || strings.HasPrefix(entry, "file "+jail.DefaultDir) ||
			strings.HasPrefix(entry, "file "+turn.DefaultDir)
	})
	for _, p := range c.h.Processes() {
		if !before.HasProcess(p) {
			added = append(added, p.String())
		}
	}
	return added
}
