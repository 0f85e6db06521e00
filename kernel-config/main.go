// Command kernel-config provides guest kernels: Debian's prebuilt one, and one
// built from the option fragments of this directory.
//
//	kernel-config debian -o DIR              Debian's cloud kernel and its modules
//	kernel-config build  -o FILE             the trimmed kernel, built from source
//	kernel-config build  -o FILE -modules DIR    the same with modules beside it
//	kernel-config build  -o FILE -profile lsm    the same of other options
//	kernel-config check                      do all wanted options survive?
//	kernel-config check -config FILE         has another kernel what is wanted?
//	kernel-config check FILE                 what another kernel lacks, and for whom
//	kernel-config list                       the wanted options, each with its reason
//	kernel-config diff OLD NEW               what is different in two kernels' configurations
//	kernel-config diff -profiles OLD NEW     the same of what two profiles ask for
//	kernel-config index DIR                  the index and digests of a release's modules, by which a guest loads them
//	kernel-config package -arch arm64 NAME   a Debian package, unpacked, to compile with
//
// Architectures are amd64 and arm64: kernels of the other one are compiled with Debian's
// cross compiler.
//
// A profile is a choice of options: minimal, what the runtime alone needs; default, what
// runs common images; debug, with symbols, tracing and checks; lsm, with AppArmor and
// SELinux. Options of your own come in files (-fragment).
//
// Nothing is installed on the host. What was fetched and built is kept in a
// cache folder, and any number of runs may share it at the same time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kernel-config:", err)
		os.Exit(1)
	}
}

const usage = `usage:
  kernel-config debian -o DIR [-arch ARCH] [-cache DIR]
  kernel-config build -o FILE [-profile PROFILE] [-modules DIR] [-arch ARCH] [-fragment FILE]... [-source TARBALL] [-cache DIR] [-j N]
  kernel-config check [-profile PROFILE] [-modules] [-fragment FILE]... [-source TARBALL] [-cache DIR] [-arch ARCH] [-config FILE]
  kernel-config check [-modules] [-json] FILE
  kernel-config list [-profile PROFILE] [-modules] [-fragment FILE]... [-arch ARCH] [-json]
  kernel-config diff [-json] OLD NEW
  kernel-config diff -profiles [-arch ARCH] [-json] OLD NEW
  kernel-config package [-arch ARCH] [-cache DIR] NAME...
  kernel-config index DIR`

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("no command\n" + usage)
	}
	switch args[0] {
	case "debian":
		return runDebian(ctx, args[1:], out)
	case "package":
		return runPackage(ctx, args[1:], out)
	case "build":
		return runBuild(ctx, args[1:])
	case "index":
		return runIndex(args[1:])
	case "check":
		return runCheck(ctx, args[1:], out)
	case "list":
		return runList(args[1:], out)
	case "diff":
		return runDiff(args[1:], out)
	default:
		return fmt.Errorf("unknown command %q\n%s", args[0], usage)
	}
}

// defaultCache is the cache folder when -cache is absent: that of the
// environment, or one below the current directory, which is the checkout.
func defaultCache() string {
	if dir := os.Getenv("KATA_CACHE_DIR"); dir != "" {
		return dir
	}
	return "build/cache"
}

// parse reads the flags of one command and refuses anything that follows them.
func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%s: unexpected argument %q", flags.Name(), flags.Arg(0))
	}
	return nil
}
