package podconfig_test

import (
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kata-runtime/virtcontainers/shim/podconfig"
)

// What kubelet writes by CRI's own types is read by ours.
func TestDecode(t *testing.T) {
	ids := []*cri.IDMapping{{HostId: 100000, ContainerId: 1, Length: 65536}}
	options, err := anypb.New(&cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "pod", Uid: "uid", Namespace: "ns"}, Hostname: "pod-1", LogDirectory: "/var/log",
		DnsConfig:   &cri.DNSConfig{Servers: []string{"10.0.0.1", "10.0.0.2"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5"}},
		Annotations: map[string]string{"key": "value"},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods", Sysctls: map[string]string{"net.core.somaxconn": "7"},
			SecurityContext: &cri.LinuxSandboxSecurityContext{Privileged: true, NamespaceOptions: &cri.NamespaceOption{
				Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_NODE,
				UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids},
			}},
			Overhead:  &cri.LinuxContainerResources{MemoryLimitInBytes: 1},
			Resources: &cri.LinuxContainerResources{CpuPeriod: 2, CpuQuota: 3, CpuShares: 4, MemoryLimitInBytes: 5},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	config, err := podconfig.Decode(options)
	if err != nil {
		t.Fatal(err)
	}
	linux := config.GetLinux()
	namespaces, resources := linux.GetSecurityContext().GetNamespaceOptions(), linux.GetResources()
	users := namespaces.GetUsernsOptions()
	for name, same := range map[string]bool{
		"name":        config.GetMetadata().GetName() == "pod" && config.GetMetadata().GetNamespace() == "ns",
		"hostname":    config.GetHostname() == "pod-1",
		"annotations": config.GetAnnotations()["key"] == "value",
		"dns":         config.GetDnsConfig().ResolvConf() == "search a b\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n",
		"cgroup":      linux.GetCgroupParent() == "/kubepods",
		"sysctls":     linux.GetSysctls()["net.core.somaxconn"] == "7",
		"namespaces": namespaces.GetNetwork() == podconfig.NamespaceMode_NODE && namespaces.GetPid() == podconfig.NamespaceMode_CONTAINER &&
			namespaces.GetIpc() == podconfig.NamespaceMode_NODE,
		"users": users.GetMode() == podconfig.NamespaceMode_POD && len(users.GetGids()) == 1 && users.GetUids()[0].GetHostId() == 100000 &&
			users.GetUids()[0].GetContainerId() == 1 && users.GetUids()[0].GetLength() == 65536,
		"resources": resources.GetCpuPeriod() == 2 && resources.GetCpuQuota() == 3 && resources.GetCpuShares() == 4 && resources.GetMemoryLimitInBytes() == 5,
	} {
		if !same {
			t.Errorf("%s: %v", name, config)
		}
	}
}

func TestDecodeNothing(t *testing.T) {
	if config, err := podconfig.Decode(nil); err != nil || config.GetHostname() != "" || config.GetDnsConfig().ResolvConf() != "" {
		t.Errorf("%v, %v", config, err)
	}
	other, err := anypb.New(&cri.ContainerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for name, options := range map[string]*anypb.Any{
		"another type": other,
		"nonsense":     {TypeUrl: "runtime.v1.PodSandboxConfig", Value: []byte{0xff}},
	} {
		if _, err := podconfig.Decode(options); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
