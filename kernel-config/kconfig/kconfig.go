// Package kconfig reads fragments of a Linux kernel configuration, merges them,
// and tells which wanted options a kernel's own configuration system dropped.
//
// A fragment has one option per line, followed by the reason for it:
//
//	CONFIG_UNIX=y  # local sockets
//
// The value n, or an absent option in a kernel's .config, means not set. Lines
// that start with # and empty lines are skipped. Whether an option that was
// asked for can be had depends on others: the kernel's configuration system
// drops what lacks a dependency without a word, which is why Survival exists.
package kconfig

import (
	"bufio"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Option is one wanted option.
type Option struct {
	// Name starts with CONFIG_.
	Name string `json:"name"`
	// Value is as in a .config: y, a number, a quoted text; n for not set.
	Value string `json:"value"`
	// Reason says why the option has this value; it may be empty in a user's own
	// fragment.
	Reason string `json:"reason,omitempty"`
	// Origin is the fragment and line: "fragments/fs.config:12".
	Origin string `json:"origin"`
}

// Options is a list of wanted options.
type Options []Option

// linePattern is an option's line: name, value (with quotes or without spaces),
// reason.
var linePattern = regexp.MustCompile(`^(CONFIG_[A-Za-z0-9_]+)=("(?:[^"\\]|\\.)*"|[^\s"#]+)(?:\s+#\s*(.*))?$`)

// Parse reads a fragment. Name is what errors and origins call it. All faulty
// lines are reported, an option without a reason among them.
func Parse(name, text string) (Options, error) {
	return parse(name, text, func(option Option) error {
		if option.Reason == "" {
			return fmt.Errorf("%s: %s has no reason", option.Origin, option.Name)
		}
		return nil
	})
}

// parse reads the options of a fragment that accept has no objection to, and reports
// all faulty lines.
func parse(name, text string, accept func(Option) error) (Options, error) {
	var options Options
	var faults []error
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		origin := fmt.Sprintf("%s:%d", name, number)
		match := linePattern.FindStringSubmatch(line)
		if match == nil {
			faults = append(faults, fmt.Errorf("%s: not an option: %q", origin, line))
			continue
		}
		option := Option{Name: match[1], Value: match[2], Reason: match[3], Origin: origin}
		if err := accept(option); err != nil {
			faults = append(faults, err)
			continue
		}
		options = append(options, option)
	}
	return options, errors.Join(faults...)
}

// Validate returns an error that lists every option that occurs twice: with
// two topics claiming one option, removing it from one would do nothing.
func (o Options) Validate() error {
	seen := make(map[string]string)
	var faults []error
	for _, option := range o {
		if first, ok := seen[option.Name]; ok {
			faults = append(faults, fmt.Errorf("%s: %s was set before, at %s", option.Origin, option.Name, first))
			continue
		}
		seen[option.Name] = option.Origin
	}
	return errors.Join(faults...)
}

// AllConfig renders the options as the file that KCONFIG_ALLCONFIG names.
func (o Options) AllConfig() string {
	var text strings.Builder
	for _, option := range o {
		if option.Value == "n" {
			fmt.Fprintf(&text, "# %s is not set\n", option.Name)
		} else {
			fmt.Fprintf(&text, "%s=%s\n", option.Name, option.Value)
		}
	}
	return text.String()
}

// Config is a kernel's complete .config: what is set, by name.
type Config map[string]string

// ParseConfig reads a .config.
func ParseConfig(text string) (Config, error) {
	config := make(Config)
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok && strings.HasPrefix(name, "CONFIG_") {
			config[name] = value
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the kernel configuration: %w", err)
	}
	return config, nil
}

// Enabled is the number of options that are built in.
func (c Config) Enabled() int {
	count := 0
	for _, value := range c {
		if value == "y" {
			count++
		}
	}
	return count
}

// ErrNotSurvived says that the kernel's configuration system changed a wanted option.
var ErrNotSurvived = errors.New("options did not survive (a dependency is missing, or the kernel has no such option)")

// Survival returns nil if the configuration has every wanted option with its
// value, or built in what may be a module, otherwise an error that wraps ErrNotSurvived and lists the others.
func (o Options) Survival(config Config) error {
	var lost []string
	for _, option := range o {
		got, ok := config[option.Name]
		if !ok {
			got = "n"
		}
		if got != option.Value && (option.Value != "m" || got != "y") {
			lost = append(lost, fmt.Sprintf("  %s: %s=%s, but the kernel has %s (%s)",
				option.Origin, option.Name, option.Value, got, option.Reason))
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return fmt.Errorf("%d %w:\n%s", len(lost), ErrNotSurvived, strings.Join(lost, "\n"))
}
