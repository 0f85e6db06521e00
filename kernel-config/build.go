package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"kata-runtime/kernel-config/cache"
	"kata-runtime/kernel-config/debpkg"
	"kata-runtime/kernel-config/kconfig"
	"kata-runtime/kernel-config/kernel"
	"kata-runtime/kernel-config/needs"
)

// sourceFlags are what the commands that need the kernel's source share.
type sourceFlags struct {
	tarball, cache string
}

func (s *sourceFlags) register(flags *flag.FlagSet) {
	flags.StringVar(&s.tarball, "source", "", "kernel source `tarball` (default: Debian's linux-source package)")
	flags.StringVar(&s.cache, "cache", defaultCache(), "cache `folder`")
}

// open finds the source and says where it comes from.
func (s *sourceFlags) open(ctx context.Context) (kernel.Source, error) {
	if s.tarball != "" {
		return kernel.FromTarball(s.tarball)
	}
	return kernel.FromDebian(ctx, &debpkg.Source{CacheDir: filepath.Join(s.cache, "debian")})
}

// runBuild compiles the trimmed guest kernel, or takes it from the cache.
func runBuild(ctx context.Context, args []string) error {
	var source sourceFlags
	var wanted optionFlags
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	source.register(flags)
	wanted.register(flags)
	wanted.registerArch(flags)
	output := flags.String("o", "", "kernel image `file` to write")
	modules := flags.String("modules", "", "`directory` to make, of the modules that go with the kernel (default: it has none)")
	jobs := flags.Int("j", runtime.NumCPU(), "`number` of compilers at once")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *output == "" {
		return errors.New("build: -o is missing")
	}
	wanted.modules = *modules != ""
	options, err := wanted.load()
	if err != nil {
		return err
	}
	from, err := source.open(ctx)
	if err != nil {
		return err
	}
	builder := &kernel.Builder{
		CacheDir: filepath.Join(source.cache, "kernel"), Arch: wanted.arch, Jobs: *jobs, Log: os.Stderr,
	}
	built, err := builder.Build(ctx, from, options)
	if err != nil {
		return err
	}
	if *modules != "" {
		if err := cache.Symlink(built.Modules, *modules); err != nil {
			return err
		}
	}
	if built.Symbols != "" {
		if err := cache.CopyFile(built.Symbols, *output+".debug"); err != nil {
			return err
		}
	}
	if err := cache.CopyFile(built.Config, kconfig.Recorded(*output)); err != nil {
		return err
	}
	return cache.CopyFile(built.Image, *output)
}

// runCheck reports whether all wanted options survive, without compiling; or, of a
// file, what that kernel lacks that the runtime and common images need.
func runCheck(ctx context.Context, args []string, out io.Writer) error {
	var source sourceFlags
	var wanted optionFlags
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	source.register(flags)
	wanted.register(flags)
	wanted.registerArch(flags)
	wanted.registerModules(flags)
	other := flags.String("config", "", "configuration `file` of another kernel, such as /boot/config-6.1.0 or /proc/config.gz, instead of a source")
	asJSON := flags.Bool("json", false, "print JSON, of a FILE")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return checkNeeds(flags.Args(), wanted.modules, *asJSON, out)
	}
	options, err := wanted.load()
	if err != nil {
		return err
	}
	if *other != "" {
		return checkOther(*other, options, wanted.modules, out)
	}
	from, err := source.open(ctx)
	if err != nil {
		return err
	}
	builder := &kernel.Builder{CacheDir: filepath.Join(source.cache, "kernel"), Arch: wanted.arch, Log: os.Stderr}
	config, err := builder.Check(ctx, from, options)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: all %d wanted options survive; %d options are enabled in all\n",
		from.ID, len(options), config.Enabled())
	return err
}

// checkNeeds tells what a kernel lacks that the runtime and common images need, and for
// whom. What no pod runs without is an error.
func checkNeeds(paths []string, modules, asJSON bool, out io.Writer) error {
	if len(paths) != 1 {
		return fmt.Errorf("check: want one file, not %q", paths)
	}
	config, from, err := kconfig.Read(paths[0])
	if err != nil {
		return err
	}
	gaps, err := needs.Compare(config, modules)
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(out, gaps)
	} else if _, err = fmt.Fprintf(out, "%s: %d options are enabled; %d that images may need are not there\n", from, config.Enabled(), len(gaps)); err == nil {
		err = needs.Print(out, gaps)
	}
	return errors.Join(err, needs.Required(gaps))
}

// checkOther reports whether a kernel that somebody else has built has all that is
// wanted. A module is only if the guest has any.
func checkOther(path string, options kconfig.Options, modules bool, out io.Writer) error {
	config, _, err := kconfig.Read(path)
	if err != nil {
		return err
	}
	if modules {
		for name, value := range config {
			if value == "m" {
				config[name] = "y"
			}
		}
	}
	if err := options.Survival(config); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	_, err = fmt.Fprintf(out, "%s: all %d wanted options are there; %d options are enabled in all\n", path, len(options), config.Enabled())
	return err
}
