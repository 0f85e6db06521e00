package container

import (
	"os"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
)

// fitMemoryPolicy drops a policy that says nothing in the guest, after libcontainer
// has found it well-formed: one for memory nodes that the guest does not have, which
// are numbers of the host as in fitCpuset, and any where the guest's kernel knows no
// nodes. online is the kernel's list of them, a file that such a kernel lacks.
func (r *Runtime) fitMemoryPolicy(id string, config *configs.Config, online string) {
	policy := config.MemoryPolicy
	if policy == nil {
		return
	}
	data, err := os.ReadFile(online)
	if err != nil {
		r.log.Debug("the guest's kernel has no memory policies", "container", id, "error", err)
		config.MemoryPolicy = nil
		return
	}
	have := parseList(strings.TrimSpace(string(data)))
	known := 0
	for node := range have {
		if policy.Nodes != nil && policy.Nodes.IsSet(node) {
			known++
		}
	}
	if policy.Nodes != nil && known < policy.Nodes.Count() {
		r.log.Debug("memory nodes of the host are not known in the guest", "container", id, "online", strings.TrimSpace(string(data)))
		config.MemoryPolicy = nil
	}
}
