package bootstrap

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"kata-runtime/virtcontainers/oci"
)

// featuresType is how containerd calls the runtime-spec's features, as JSON.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// info says what the runtime supports, and repeats the options that it was
// asked with.
func (p Program) info(stdin *os.File, stdout io.Writer) error {
	var options *anypb.Any
	if input := readInput(stdin, inputPatience); len(input) > 0 {
		options = &anypb.Any{}
		if err := proto.Unmarshal(input, options); err != nil {
			return fmt.Errorf("read the options on standard input: %w", err)
		}
		if _, err := DecodeOptions(options); err != nil {
			return fmt.Errorf("read the options on standard input: %w", err)
		}
	}
	features, err := json.Marshal(oci.Features(p.Version, p.Commit))
	if err != nil {
		return fmt.Errorf("encode the runtime's features: %w", err)
	}
	data, err := proto.Marshal(&types.RuntimeInfo{
		Name:     runtimeName,
		Version:  &types.RuntimeVersion{Version: p.Version, Revision: p.Commit},
		Options:  options,
		Features: &anypb.Any{TypeUrl: featuresType, Value: features},
	})
	if err != nil {
		return fmt.Errorf("encode what the runtime supports: %w", err)
	}
	_, err = stdout.Write(data)
	return err
}
