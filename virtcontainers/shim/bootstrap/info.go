package bootstrap

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/shim/rootfs"
)

// featuresType is how containerd calls the runtime-spec's features, as JSON.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// info says what the runtime supports, and repeats the options that it was
// asked with.
func (p Program) info(ctx context.Context, stdin *os.File, stdout io.Writer) error {
	var options *anypb.Any
	var decoded RuntimeOptions
	if input := readInput(stdin, inputPatience); len(input) > 0 {
		options = &anypb.Any{}
		if err := proto.Unmarshal(input, options); err != nil {
			return fmt.Errorf("read the options on standard input: %w", err)
		}
		var err error
		if decoded, err = DecodeOptions(options); err != nil {
			return fmt.Errorf("read the options on standard input: %w", err)
		}
	}
	features, err := json.Marshal(oci.Features(p.Version, p.Commit, securityModules(ctx, decoded)))
	if err != nil {
		return fmt.Errorf("encode the runtime's features: %w", err)
	}
	data, err := proto.Marshal(&types.RuntimeInfo{
		Name:        runtimeName,
		Version:     &types.RuntimeVersion{Version: p.Version, Revision: p.Commit},
		Options:     options,
		Features:    &anypb.Any{TypeUrl: featuresType, Value: features},
		Annotations: map[string]string{allowMounts: allowedMounts()},
	})
	if err != nil {
		return fmt.Errorf("encode what the runtime supports: %w", err)
	}
	_, err = stdout.Write(data)
	return err
}

// securityModules are those that the configuration has policies for. One that cannot be
// read has none: whoever starts a pod by it is told.
func securityModules(ctx context.Context, options RuntimeOptions) (modules oci.SecurityModules) {
	settings, err := options.Configuration(ctx)
	if err == nil {
		modules.AppArmor, modules.SELinux = settings.Agent.AppArmorPolicies != "", settings.Agent.SELinuxPolicy != ""
	}
	return modules
}

// allowMounts is the annotation by which a runtime tells containerd 2.2 and 2.3 which
// mounts it makes itself. Later ones look for it where they have not started the
// shim that a container joins.
const allowMounts = "containerd.io/runtime-allow-mounts"

func allowedMounts() string {
	kinds, transforms := rootfs.Handled()
	for _, transform := range transforms {
		kinds = append(kinds, transform+"/*")
	}
	return strings.Join(kinds, ",")
}

// mountCapabilities tell the same to containerd 2.4 and later.
func mountCapabilities() (*anypb.Any, error) {
	kinds, transforms := rootfs.Handled()
	return anypb.New(&types.MountCapabilities{Types: kinds, Transforms: transforms})
}
