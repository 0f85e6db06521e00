// Command rootfs-builder makes the guest's initrd: the agent as /init, the
// directories and device nodes that it needs to get going, and, for a kernel
// that has its virtio drivers as modules, those modules.
//
//	rootfs-builder -agent FILE -o IMAGE [-manifest FILE] [-sbom FILE] [-modules DIR [-kernel-release R]] [-busybox FILE]
//
// -modules names a directory such as /lib/modules, with one directory per
// release. The file /lib/modules/load in the image lists the modules' paths,
// one per line, in the order in which PID 1 loads them. -busybox adds a shell and
// its tools, for kata-runtime exec --guest: an image for those who look for a fault.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"kata-runtime/rootfs-builder/agentcheck"
	"kata-runtime/rootfs-builder/image"
	"kata-runtime/rootfs-builder/sbom"
)

func main() {
	err := run(os.Args[1:], os.Stdout)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rootfs-builder:", err)
		os.Exit(1)
	}
}

// options are the command's flags.
type options struct {
	agent, output, manifest, sbom, modules, release, busybox string
}

func run(args []string, out io.Writer) error {
	var o options
	flags := flag.NewFlagSet("rootfs-builder", flag.ContinueOnError)
	flags.StringVar(&o.agent, "agent", "", "agent `binary`: static, built with seccomp")
	flags.StringVar(&o.output, "o", "", "image `file` to write")
	flags.StringVar(&o.manifest, "manifest", "", "manifest `file` to write")
	flags.StringVar(&o.sbom, "sbom", "", "`file` to write: what the image is made of, as an SPDX 2.3 document in JSON")
	flags.StringVar(&o.modules, "modules", "", "`directory` with the modules of a kernel, one directory per release")
	flags.StringVar(&o.release, "kernel-release", "", "kernel `release` below -modules (default: the only one there)")
	flags.StringVar(&o.busybox, "busybox", "", "static `program` to add as /bin/busybox, with links for all that it does")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.agent == "":
		return errors.New("-agent is missing")
	case o.output == "":
		return errors.New("-o is missing")
	case o.release != "" && o.modules == "":
		return errors.New("-kernel-release needs -modules")
	}
	return build(o, out)
}

func build(o options, out io.Writer) error {
	if err := agentcheck.Check(o.agent); err != nil {
		return err
	}
	var contents image.Contents
	addBase(&contents, o.agent)
	if o.modules != "" {
		release, err := addModules(&contents, o.modules, o.release)
		if err != nil {
			return err
		}
		o.release = release
	}
	if o.busybox != "" {
		if err := addBusybox(&contents, o.busybox); err != nil {
			return err
		}
	}
	manifest, err := contents.WriteFiles(o.output, o.manifest, o.release)
	if err != nil {
		return err
	}
	if o.sbom != "" {
		if err := writeSBOM(o.sbom, &contents, manifest); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, "%s  %s (%d bytes)\n", manifest.SHA256, o.output, manifest.Size)
	return err
}

// writeSBOM writes the image's bill of materials. Its date is SOURCE_DATE_EPOCH's
// (reproducible-builds.org), or 1970's.
func writeSBOM(path string, contents *image.Contents, manifest image.Manifest) error {
	described := sbom.Image{Name: manifest.Image, SHA256: manifest.SHA256, Created: time.Unix(0, 0)}
	if text := os.Getenv("SOURCE_DATE_EPOCH"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
		}
		described.Created = time.Unix(seconds, 0)
	}
	contents.Regular(func(path string, content []byte) {
		described.Files = append(described.Files, sbom.File{Path: path, Content: content})
	})
	text, err := sbom.Write(described)
	if err != nil {
		return err
	}
	return image.WriteFile(path, text)
}

// addBase adds what every guest needs before its first mount. /dev/console is
// what the kernel opens for PID 1's standard streams, before there is a devtmpfs;
// /dev/null is what a Go program wants in place of one that is closed.
func addBase(contents *image.Contents, agent string) {
	contents.HostFile("/init", 0o755, agent)
	for _, name := range []string{"/dev", "/etc", "/proc", "/run", "/sys"} {
		contents.Directory(name, 0o755)
	}
	contents.Directory("/tmp", 0o1777)
	contents.CharDevice("/dev/console", 0o600, 5, 1)
	contents.CharDevice("/dev/null", 0o666, 1, 3)
}
