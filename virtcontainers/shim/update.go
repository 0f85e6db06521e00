package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"

	"kata-runtime/virtcontainers/sizing"
)

// What containerd's CRI adds to a sandbox that kubelet resizes.
const (
	updatedResources     = "updated-resources"
	updatedResourcesType = "io.containerd.cri.v1/UpdatedResources"
	// extensionsField is what containerd calls the field that has it.
	extensionsField = "extensions"
)

// UpdateSandbox implements the Sandbox API: kubelet changes what the pod's
// containers may use together (UpdatePodSandboxResources of CRI). The machine
// follows; the containers' own limits come with Update.
func (s *service) UpdateSandbox(ctx context.Context, request *sandboxapi.UpdateSandboxRequest) (*sandboxapi.UpdateSandboxResponse, error) {
	h, err := s.sandboxOf(request.GetSandboxID())
	if err != nil {
		return nil, err
	}
	fields := request.GetFields() // none: all
	extension, given := request.GetSandbox().GetExtensions()[updatedResources]
	if !given || len(fields) > 0 && !slices.Contains(fields, extensionsField) {
		return &sandboxapi.UpdateSandboxResponse{}, nil // about nothing that the shim has
	}
	if url := extension.GetTypeUrl(); !strings.HasSuffix(url, updatedResourcesType) {
		return nil, invalid(fmt.Errorf("the sandbox's %s are of type %q, not %s", updatedResources, url, updatedResourcesType))
	}
	// The messages of CRI with the names of their fields.
	var updated struct {
		Resources *struct {
			Period int64 `json:"cpu_period"`
			Quota  int64 `json:"cpu_quota"`
			Shares int64 `json:"cpu_shares"`
			Memory int64 `json:"memory_limit_in_bytes"`
		} `json:"Resources"`
	}
	if err := json.Unmarshal(extension.GetValue(), &updated); err != nil {
		return nil, invalid(fmt.Errorf("decode the sandbox's %s: %w", updatedResources, err))
	}
	r := updated.Resources
	if r == nil {
		return &sandboxapi.UpdateSandboxResponse{}, nil
	}
	demand := sizing.OfSandbox(sizing.Annotations(r.Period, r.Quota, r.Shares, r.Memory))
	if err := h.sandbox.SetDemand(ctx, demand); err != nil {
		return nil, err
	}
	return &sandboxapi.UpdateSandboxResponse{}, nil
}
