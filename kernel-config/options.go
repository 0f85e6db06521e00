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
	profile string
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
	flags.StringVar(&o.profile, "profile", string(fragments.Default), "`profile` of options: minimal, default, debug or lsm")
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
	profile := fragments.Profile(o.profile)
	options, err := fragments.Load(o.arch, profile)
	if err != nil {
		return nil, err
	}
	if o.modules {
		if !profile.Modular() {
			return nil, fmt.Errorf("the profile %s has no modules: it lacks the frames that they fit in", profile)
		}
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

// runDiff prints what is different in two complete configurations, or in what two
// profiles ask for.
func runDiff(args []string, out io.Writer) error {
	var wanted optionFlags
	flags := flag.NewFlagSet("diff", flag.ContinueOnError)
	profiles := flags.Bool("profiles", false, "OLD and NEW are profiles, not files")
	wanted.registerArch(flags)
	asJSON := flags.Bool("json", false, "print JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return errors.New("diff: want two files, or profiles (-profiles): OLD NEW")
	}
	var configs [2]kconfig.Config
	reasons := map[string]string{}
	for i, name := range flags.Args() {
		var err error
		if !*profiles {
			configs[i], _, err = kconfig.Read(name)
		} else {
			configs[i], err = profileConfig(wanted.arch, name, reasons)
		}
		if err != nil {
			return err
		}
	}
	changes := configs[0].Diff(configs[1])
	for i := range changes {
		changes[i].Reason = reasons[changes[i].Name]
	}
	if *asJSON {
		return printJSON(out, changes)
	}
	for _, change := range changes {
		line := fmt.Sprintf("%s %s -> %s", change.Name, change.Old, change.New)
		if change.Reason != "" {
			line += "  # " + change.Reason
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	return nil
}

// profileConfig is what a profile asks for, without what that needs in turn. It adds
// the options' reasons, in the place of those of an earlier profile.
func profileConfig(arch, name string, reasons map[string]string) (kconfig.Config, error) {
	options, err := fragments.Load(arch, fragments.Profile(name))
	if err != nil {
		return nil, err
	}
	config := kconfig.Config{}
	for _, option := range options {
		config[option.Name] = option.Value
		reasons[option.Name] = option.Reason
	}
	return config, nil
}

func printJSON[T any](out io.Writer, list []T) error {
	if list == nil {
		list = []T{} // and not null
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(list)
}
