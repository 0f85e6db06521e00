// Package needs compares a kernel's configuration with what the runtime and the
// programs of common images need, and tells what is missing and for whom.
package needs

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"kata-runtime/kernel-config/kconfig"
)

//go:embed needs.txt
var text string

// Need is an option, or several of which one will do, and who needs it.
type Need struct {
	// Who needs it: every pod, or a kind of programs.
	Who string `json:"who"`
	// Required says that no pod runs without.
	Required bool `json:"required"`
	// Options start with CONFIG_.
	Options []string `json:"options"`
	// Forbidden says that the option must not be built in.
	Forbidden bool `json:"forbidden,omitempty"`
	// What does not work without, or with what is forbidden.
	What string `json:"what"`
}

// State is what a kernel has of a need.
type State string

// The states of a need.
const (
	// Missing is what the kernel does not have, or what it must not have.
	Missing State = "missing"
	// Module is what the kernel has as a module, when its guest has no modules.
	Module State = "module"
)

// Gap is a need that a kernel does not fulfil.
type Gap struct {
	Need
	State State `json:"state"`
}

// List returns all needs.
func List() ([]Need, error) { return parse(text) }

// parse reads the list: headings, and options with what they are for.
func parse(text string) ([]Need, error) {
	var list []Need
	var head Need
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if kind, who, ok := strings.Cut(line, "]"); ok && strings.HasPrefix(kind, "[") {
			head = Need{Who: strings.TrimSpace(who), Required: kind == "[required"}
			if head.Who == "" || kind != "[required" && kind != "[images" {
				return nil, fmt.Errorf("line %d of the needs: no heading: %q", number, line)
			}
			continue
		}
		option, what, _ := strings.Cut(line, " ")
		need := head
		need.What = strings.TrimSpace(what)
		option, need.Forbidden = strings.CutPrefix(option, "!")
		for name := range strings.SplitSeq(option, "|") {
			need.Options = append(need.Options, "CONFIG_"+name)
		}
		if head.Who == "" || need.What == "" || option == "" {
			return nil, fmt.Errorf("line %d of the needs: want an option and what it is for, below a heading: %q", number, line)
		}
		list = append(list, need)
	}
	return list, nil
}

// Compare returns what the kernel lacks. Modules says whether its guest has modules to
// load; those that every pod needs are in the guest's image in any case.
func Compare(config kconfig.Config, modules bool) ([]Gap, error) {
	list, err := List()
	if err != nil {
		return nil, err
	}
	var gaps []Gap
	for _, need := range list {
		state := Missing
		for _, option := range need.Options {
			switch value := config[option]; {
			case need.Forbidden && value != "y", !need.Forbidden && value == "y",
				value == "m" && (modules || need.Required):
				state = ""
			case value == "m" && state != "":
				state = Module
			}
		}
		if state != "" {
			gaps = append(gaps, Gap{Need: need, State: state})
		}
	}
	return gaps, nil
}

// ErrRequired says that no pod runs with a kernel.
var ErrRequired = errors.New("the kernel lacks what every pod needs")

// Required returns an error that wraps ErrRequired if a gap is of what every pod needs.
func Required(gaps []Gap) error {
	var names []string
	for _, gap := range gaps {
		if gap.Required {
			names = append(names, gap.option())
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrRequired, strings.Join(names, ", "))
}

func (g Gap) option() string {
	option := strings.Join(g.Options, " or ")
	if g.Forbidden {
		return option + "=n"
	}
	return option
}

// Print writes the gaps as a table, those of one kind of programs together.
func Print(out io.Writer, gaps []Gap) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	who, modules := "", false
	for _, gap := range gaps {
		if gap.Who != who {
			who = gap.Who
			fmt.Fprintf(table, "%s:\n", who)
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\n", gap.option(), gap.State, gap.What)
		modules = modules || gap.State == Module
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if modules {
		if _, err := fmt.Fprintln(out, "What is a module is loaded where the configuration has modules (docs/kernel-modules.md)."); err != nil {
			return err
		}
	}
	return nil
}
