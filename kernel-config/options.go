package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"text/tabwriter"

	"kata-runtime/kernel-config/fragments"
	"kata-runtime/kernel-config/kconfig"
)

// optionFlags are what the commands that need the wanted options share.
type optionFlags struct {
	arch    string
	modules bool // the kernel has them
	files   fileList
}

// fileList is a flag that may stand more than once.
type fileList []string

func (l *fileList) String() string { return fmt.Sprint(*l) }

func (l *fileList) Set(path string) error {
	*l = append(*l, path)
	return nil
}

func (o *optionFlags) register(flags *flag.FlagSet) {
	o.arch = runtime.GOARCH
	flags.Var(&o.files, "fragment", "`file` of options of your own, which win over those that are here; may be repeated, the last one wins")
}

func (o *optionFlags) registerModules(flags *flag.FlagSet) {
	flags.BoolVar(&o.modules, "modules", false, "of a kernel with modules")
}

func (o *optionFlags) registerArch(flags *flag.FlagSet) {
	flags.StringVar(&o.arch, "arch", runtime.GOARCH, "`architecture`: amd64 or arm64")
}

// load returns the options of this directory, with those of the user's files.
func (o *optionFlags) load() (kconfig.Options, error) {
	options, err := fragments.Load(o.arch)
	if err != nil {
		return nil, err
	}
	if o.modules {
		own, err := fragments.Modules()
		if err != nil {
			return nil, err
		}
		options = options.Override(own)
	}
	for _, path := range o.files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read a fragment: %w", err)
		}
		own, err := kconfig.ParseUser(path, string(text), o.modules)
		if err == nil {
			err = own.Validate()
		}
		if err != nil {
			return nil, err
		}
		options = options.Override(own)
	}
	return options, nil
}

// runList prints the wanted options with their reasons.
func runList(args []string, out io.Writer) error {
	var wanted optionFlags
	flags := flag.NewFlagSet("list", flag.ContinueOnError)
	wanted.register(flags)
	wanted.registerArch(flags)
	wanted.registerModules(flags)
	asJSON := flags.Bool("json", false, "print JSON")
	if err := parse(flags, args); err != nil {
		return err
	}
	options, err := wanted.load()
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(out, options)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, option := range options {
		fmt.Fprintf(table, "%s\t%s=%s\t%s\n", option.Origin, option.Name, option.Value, option.Reason)
	}
	return table.Flush()
}

// runDiff prints what is different in two complete configurations.
func runDiff(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("diff", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "print JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return errors.New("diff: want two files: OLD NEW")
	}
	before, _, err := kconfig.Read(flags.Arg(0))
	if err != nil {
		return err
	}
	after, _, err := kconfig.Read(flags.Arg(1))
	if err != nil {
		return err
	}
	changes := before.Diff(after)
	if *asJSON {
		return printJSON(out, changes)
	}
	for _, change := range changes {
		if _, err := fmt.Fprintf(out, "%s %s -> %s\n", change.Name, change.Old, change.New); err != nil {
			return err
		}
	}
	return nil
}

func printJSON[T any](out io.Writer, list []T) error {
	if list == nil {
		list = []T{} // and not null
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(list)
}
