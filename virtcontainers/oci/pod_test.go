package oci

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPodOf(t *testing.T) {
	const (
		containerd = "io.kubernetes.cri.container-type"
		crio       = "io.kubernetes.cri-o.ContainerType"
		dockershim = "io.kubernetes.docker.type"

		containerdID = "io.kubernetes.cri.sandbox-id"
		crioID       = "io.kubernetes.cri-o.SandboxID"
		dockershimID = "io.kubernetes.sandbox.id"
	)
	for name, test := range map[string]struct {
		annotations map[string]string
		want        Pod
		wrong       string
	}{
		"none":             {nil, Pod{}, ""},
		"foreign":          {map[string]string{"org.example": "sandbox"}, Pod{}, ""},
		"containerd pod":   {map[string]string{containerd: "sandbox", containerdID: "me"}, Pod{Declared: true, Annotation: containerd}, ""},
		"containerd":       {map[string]string{containerd: "container", containerdID: "pod"}, Pod{Sandbox: "pod", Annotation: containerdID}, ""},
		"CRI-O pod":        {map[string]string{crio: "sandbox", crioID: "me"}, Pod{Declared: true, Annotation: crio}, ""},
		"CRI-O":            {map[string]string{crio: "container", crioID: "pod"}, Pod{Sandbox: "pod", Annotation: crioID}, ""},
		"podman 4":         {map[string]string{crio: "container", crioID: "infra"}, Pod{Sandbox: "infra", Annotation: crioID}, ""},
		"podman":           {map[string]string{crioID: "infra"}, Pod{Sandbox: "infra", Annotation: crioID}, ""},
		"its own sandbox":  {map[string]string{crioID: "me"}, Pod{Declared: true, Annotation: crioID}, ""},
		"dockershim pod":   {map[string]string{dockershim: "podsandbox"}, Pod{Declared: true, Annotation: dockershim}, ""},
		"dockershim":       {map[string]string{dockershim: "container", dockershimID: "pod"}, Pod{Sandbox: "pod", Annotation: dockershimID}, ""},
		"sandbox of other": {map[string]string{containerd: "sandbox", containerdID: "other"}, Pod{Declared: true, Annotation: containerd}, ""},
		"unknown type":     {map[string]string{containerd: "podsandbox"}, Pod{}, `"podsandbox"`},
		"no sandbox":       {map[string]string{containerd: "container"}, Pod{}, containerdID},
		"in itself":        {map[string]string{containerd: "container", containerdID: "me"}, Pod{}, "itself"},
		"path as sandbox":  {map[string]string{crioID: "../x"}, Pod{}, crioID},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := PodOf(test.annotations, "me")
			if test.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), test.wrong) {
					t.Errorf("error = %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPodName(t *testing.T) {
	named := map[string]string{}
	NamePod(named, "default", "web")
	for _, annotations := range []map[string]string{
		named,
		{"io.kubernetes.cri.sandbox-name": "web", "io.kubernetes.cri.sandbox-namespace": "default"},
		{"io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "default"},
	} {
		if namespace, name := PodName(annotations); namespace != "default" || name != "web" {
			t.Errorf("%v is %s/%s", annotations, namespace, name)
		}
	}
	if namespace, name := PodName(map[string]string{"other": "x"}); namespace != "" || name != "" {
		t.Errorf("another caller's is %s/%s", namespace, name)
	}
}
