package factory

import (
	"fmt"
	"path"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/share"
)

// The directory of the guest kernel's modules in the share: no container has its
// name, which are all of share.NewName.
const (
	kernelShare   = "kernel"
	kernelModules = "modules"
)

// shareModules lets the guest read the modules of its kernel. Nothing does before the
// kernel asks for one.
func shareModules(settings *config.Config, shared *share.Dir) error {
	if settings.Hypervisor.Modules == "" {
		return nil
	}
	tree, err := share.OpenTree(settings.Hypervisor.Modules, false)
	if err != nil {
		return fmt.Errorf("the guest kernel's modules (modules in [hypervisor] of the configuration): %w", err)
	}
	return shared.Add(kernelShare, []share.Mount{{Name: kernelModules, Tree: tree, Attributes: share.Attributes{ReadOnly: true}}})
}

// guestModules tells the guest where it has them, and which it is not to load.
func guestModules(settings *config.Config) *protocol.Modules {
	if settings.Hypervisor.Modules == "" {
		return nil
	}
	return &protocol.Modules{
		Directory: path.Join(protocol.ShareMountPoint, kernelShare, kernelModules),
		Deny:      settings.Hypervisor.DenyModules,
		Load:      settings.Agent.KernelModules,
	}
}
