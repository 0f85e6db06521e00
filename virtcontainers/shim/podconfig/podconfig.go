package podconfig

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// typeName is what CRI calls the message.
const typeName = "runtime.v1.PodSandboxConfig"

// Decode reads a sandbox's options. Those of a caller that has none to give are
// an empty description.
func Decode(options *anypb.Any) (*PodSandboxConfig, error) {
	config := &PodSandboxConfig{}
	if options.GetTypeUrl() == "" && len(options.GetValue()) == 0 {
		return config, nil
	}
	url := options.GetTypeUrl()
	if name := url[strings.LastIndexByte(url, '/')+1:]; name != typeName {
		return nil, fmt.Errorf("%w: the sandbox's options are of type %q, not %s", errdefs.ErrInvalidArgument, name, typeName)
	}
	if err := proto.Unmarshal(options.GetValue(), config); err != nil {
		return nil, fmt.Errorf("%w: the sandbox's options: %w", errdefs.ErrInvalidArgument, err)
	}
	return config, nil
}

// ResolvConf is the resolver's configuration that a pod is to have. It is empty
// without any of it.
func (c *DNSConfig) ResolvConf() string {
	var text strings.Builder
	if list := c.GetSearches(); len(list) > 0 {
		fmt.Fprintf(&text, "search %s\n", strings.Join(list, " "))
	}
	for _, server := range c.GetServers() {
		fmt.Fprintf(&text, "nameserver %s\n", server)
	}
	if list := c.GetOptions(); len(list) > 0 {
		fmt.Fprintf(&text, "options %s\n", strings.Join(list, " "))
	}
	return text.String()
}
