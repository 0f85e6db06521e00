package store

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// configName is the file of a container's config, after the prefix.
const configName = "config.json"

// SaveConfig keeps the config that a container is made from, as JSON: later
// changes of the bundle have no effect.
func (e *Entry) SaveConfig(config []byte) error {
	if err := os.WriteFile(e.Path(configName), config, 0o600); err != nil {
		return fmt.Errorf("keep the container's config: %w", err)
	}
	return nil
}

// Config is a container's config as it was when it was created. Before
// SaveConfig it is fs.ErrNotExist.
func (e *Entry) Config() (*specs.Spec, error) {
	data, err := os.ReadFile(e.Path(configName))
	if err != nil {
		return nil, fmt.Errorf("read the container's config: %w", err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("decode the container's config: %w", err)
	}
	return &spec, nil
}
