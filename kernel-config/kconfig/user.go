package kconfig

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// unsetPattern is how a .config says that an option is not set.
var unsetPattern = regexp.MustCompile(`(?m)^[ \t]*# (CONFIG_[A-Za-z0-9_]+) is not set[ \t\r]*$`)

// ParseUser reads a fragment as the kernel's own tools take them, of whoever builds a
// kernel: as Parse does, but a reason may be absent, and "# CONFIG_X is not set" is
// the value n. Without modules the value m is an error, since none are built.
func ParseUser(name, text string, modules bool) (Options, error) {
	return parse(name, unsetPattern.ReplaceAllString(text, "$1=n"), func(option Option) error {
		if option.Value == "m" && !modules {
			return fmt.Errorf("%s: %s: modules are not built (build -modules): want y or n", option.Origin, option.Name)
		}
		return nil
	})
}

// Override returns the options with those of others in the place of the ones of the
// same names, and with the rest of others at the end. Neither list may have a name
// twice, see Validate.
func (o Options) Override(others Options) Options {
	merged := make(Options, 0, len(o)+len(others))
	places := make(map[string]int, len(o))
	for _, option := range o {
		places[option.Name] = len(merged)
		merged = append(merged, option)
	}
	for _, option := range others {
		if place, ok := places[option.Name]; ok {
			merged[place] = option
			continue
		}
		merged = append(merged, option)
	}
	return merged
}

// Change is an option that two configurations have with other values; "n" is not set.
type Change struct {
	Name string `json:"name"`
	Old  string `json:"old"`
	New  string `json:"new"`
	// Reason is empty for a configuration that was not made from fragments.
	Reason string `json:"reason,omitempty"`
}

// Diff lists what another configuration has otherwise, by name.
func (c Config) Diff(other Config) []Change {
	value := func(config Config, name string) string {
		if value, ok := config[name]; ok {
			return value
		}
		return "n"
	}
	names := make(map[string]bool, len(c)+len(other))
	for _, config := range []Config{c, other} {
		for name := range config {
			names[name] = true
		}
	}
	var changes []Change
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if before, after := value(c, name), value(other, name); before != after {
			changes = append(changes, Change{Name: name, Old: before, New: after})
		}
	}
	return changes
}
