package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
	runc "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"kata-runtime/virtcontainers/config"
)

// ErrOptions is wrapped by DecodeOptions' errors: the caller has sent what is no
// options of this runtime.
var ErrOptions = errors.New("invalid runtime options")

// RuntimeOptions are what a container manager's configuration says of this
// runtime. The zero value says nothing.
type RuntimeOptions struct {
	// ConfigPath is the configuration file, absolute; or Config is the
	// configuration itself, which is read in the place of a file.
	ConfigPath string
	Config     []byte
	// SystemdCgroup: linux.cgroupsPath is slice:prefix:name, and systemd makes
	// the groups.
	SystemdCgroup bool
	// ShimCgroup is a control group that the server joins, a path from the root of
	// the hierarchies.
	ShimCgroup string
	// Invalid is what is wrong with the options that the shim itself was given; the
	// rest is the zero value then. A sandbox has no others.
	Invalid string
	// Ignored are the names of options that were given and that mean nothing
	// here, for a log.
	Ignored []string
}

// Configuration reads the configuration that the options name or are.
func (o *RuntimeOptions) Configuration(ctx context.Context) (*config.Config, error) {
	if o.ConfigPath == "" && len(o.Config) > 0 {
		return config.Parse("ConfigBody of the runtime options", string(o.Config))
	}
	return config.Load(ctx, o.ConfigPath)
}

// Types of options. That of the first CRI plugin has the same fields as today's.
const (
	generalOptions = "runtimeoptions.v1.Options"
	criOptions     = "cri.runtimeoptions.v1.Options"
	runcOptions    = "containerd.runc.v1.Options"
)

// maxConfig bounds a configuration that is sent, in bytes.
const maxConfig = 1 << 20

// DecodeOptions reads the options of a request, which may be nil. containerd's
// default for any runtime are runc's, of which those are taken that do not speak
// of the program runc.
func DecodeOptions(options *anypb.Any) (RuntimeOptions, error) {
	if options.GetTypeUrl() == "" && len(options.GetValue()) == 0 {
		return RuntimeOptions{}, nil
	}
	switch name := typeName(options); name {
	case generalOptions, criOptions:
		return decodeGeneral(options.GetValue())
	case runcOptions:
		return decodeRunc(options.GetValue())
	default:
		return RuntimeOptions{}, fmt.Errorf("%w: they are of type %q, not %s or %s: remove them from the runtime's section in the container manager's configuration",
			ErrOptions, name, generalOptions, runcOptions)
	}
}

func typeName(options *anypb.Any) string {
	url := options.GetTypeUrl()
	return url[strings.LastIndexByte(url, '/')+1:]
}

func decodeGeneral(value []byte) (RuntimeOptions, error) {
	var general runtimeoptions.Options
	if err := proto.Unmarshal(value, &general); err != nil {
		return RuntimeOptions{}, fmt.Errorf("%w: %s: %w", ErrOptions, generalOptions, err)
	}
	options := RuntimeOptions{ConfigPath: general.GetConfigPath()}
	switch {
	case options.ConfigPath == "" && len(general.GetConfigBody()) > maxConfig:
		return RuntimeOptions{}, fmt.Errorf("%w: ConfigBody has %d bytes, at most %d are read", ErrOptions, len(general.GetConfigBody()), maxConfig)
	case options.ConfigPath == "":
		return decodeBody(general.GetConfigBody())
	case !filepath.IsAbs(options.ConfigPath):
		return RuntimeOptions{}, fmt.Errorf("%w: ConfigPath is %q, no absolute path", ErrOptions, options.ConfigPath)
	case len(general.GetConfigBody()) > 0:
		options.Ignored = append(options.Ignored, "ConfigBody, since there is a ConfigPath")
	}
	return options, nil
}

// decodeBody reads a ConfigBody: what containerd's configuration has in the
// options table of a runtime without a ConfigPath, as TOML. Those of runc's options
// are taken that decodeRunc takes; the rest is this runtime's configuration.
func decodeBody(body []byte) (RuntimeOptions, error) {
	var section map[string]any
	if _, err := toml.Decode(string(body), &section); err != nil {
		return RuntimeOptions{}, fmt.Errorf("%w: ConfigBody is no TOML: %w", ErrOptions, err)
	}
	options, all := RuntimeOptions{}, len(section)
	for _, own := range []struct {
		key    string
		target any
	}{{"SystemdCgroup", &options.SystemdCgroup}, {"ShimCgroup", &options.ShimCgroup}} {
		value, given := section[own.key]
		if !given {
			continue
		}
		delete(section, own.key)
		right := false
		switch target := own.target.(type) {
		case *bool:
			*target, right = value.(bool)
		case *string:
			*target, right = value.(string)
		}
		if !right {
			return RuntimeOptions{}, fmt.Errorf("%w: %s is %v, a %T", ErrOptions, own.key, value, value)
		}
	}
	for _, key := range []string{
		"TypeUrl", "BinaryName", "Root", "NoPivotRoot", "NoNewKeyring", "CriuImagePath", "CriuWorkPath", "IoUid", "IoGid",
	} {
		if _, given := section[key]; given {
			delete(section, key)
			options.Ignored = append(options.Ignored, key)
		}
	}
	switch len(section) {
	case 0:
		return options, nil
	case all: // as it was written, for errors that name a line
		options.Config = body
		return options, nil
	}
	var err error
	if options.Config, err = toml.Marshal(section); err != nil {
		return RuntimeOptions{}, fmt.Errorf("%w: ConfigBody: %w", ErrOptions, err)
	}
	return options, nil
}

func decodeRunc(value []byte) (RuntimeOptions, error) {
	var given runc.Options
	if err := proto.Unmarshal(value, &given); err != nil {
		return RuntimeOptions{}, fmt.Errorf("%w: %s: %w", ErrOptions, runcOptions, err)
	}
	options := RuntimeOptions{SystemdCgroup: given.GetSystemdCgroup(), ShimCgroup: given.GetShimCgroup()}
	for name, is := range map[string]bool{
		"BinaryName": given.GetBinaryName() != "", "Root": given.GetRoot() != "", "NoPivotRoot": given.GetNoPivotRoot(),
		"NoNewKeyring": given.GetNoNewKeyring(), "CriuImagePath": given.GetCriuImagePath() != "", "CriuWorkPath": given.GetCriuWorkPath() != "",
		"IoUid": given.GetIoUid() != 0, "IoGid": given.GetIoGid() != 0,
	} {
		if is {
			options.Ignored = append(options.Ignored, name)
		}
	}
	return options, nil
}
