// Command rootfs-builder makes guest images: the agent as /init, and the directories
// that it needs to get going.
//
//	rootfs-builder -agent FILE -o IMAGE [flags]
//
// An initrd (-type initrd, the default) has little more than that: for a kernel that
// has its virtio drivers as modules, those modules. A disk image (-type erofs, -type
// ext4) is a file system with the hashes of dm-verity, on top of what -tar or -oci
// name, if anything.
//
// With an initrd, a kernel that has the parts of a disk image as modules boots from one,
// too (-disk).
//
// -modules names a directory such as /lib/modules, with one directory per
// release. The file /lib/modules/load in the image lists the modules' paths,
// one per line, in the order in which PID 1 loads them. -busybox adds a shell and
// its tools, for kata-runtime exec --guest: an image for those who look for a fault.
//
// The same input always gives the same bytes. Nothing takes privileges.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kata-runtime/rootfs-builder/agentcheck"
	"kata-runtime/rootfs-builder/disk"
	"kata-runtime/rootfs-builder/image"
	"kata-runtime/rootfs-builder/sbom"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rootfs-builder:", err)
		os.Exit(1)
	}
}

// typeInitrd is the kind of image that is no disk.
const typeInitrd = "initrd"

// options are the command's flags.
type options struct {
	agent, output, kind, manifest, sbom, modules, release, busybox string

	// Of initrds alone: its agent mounts a disk image.
	disk bool

	// Of disk images alone.
	tars, files, certificates    []string
	oci, reference, architecture string

	json bool
	out  io.Writer
}

func (o *options) register(flags *flag.FlagSet) {
	flags.StringVar(&o.agent, "agent", "", "agent `binary`: static, built with seccomp")
	flags.StringVar(&o.output, "o", "", "image `file` to write")
	flags.StringVar(&o.kind, "type", typeInitrd, "`type` of image: initrd, or a disk image with dm-verity, erofs (compressed) or ext4")
	flags.StringVar(&o.manifest, "manifest", "", "manifest `file` to write; the runtime looks for a disk image's beside it: guest.manifest.json for guest.img")
	flags.StringVar(&o.sbom, "sbom", "", "`file` to write: what the image is made of, as an SPDX 2.3 document in JSON")
	flags.StringVar(&o.modules, "modules", "", "`directory` with the modules of a kernel, one directory per release")
	flags.StringVar(&o.release, "kernel-release", "", "kernel `release` below -modules (default: the only one there)")
	flags.StringVar(&o.busybox, "busybox", "", "static `program` to add as /bin/busybox, with links for all that it does")
	flags.BoolVar(&o.disk, "disk", false, "initrd: add the modules by which its agent makes a disk image the root file system, for a kernel that does not have them built in")
	list := func(to *[]string) func(string) error {
		return func(value string) error {
			*to = append(*to, value)
			return nil
		}
	}
	flags.Func("tar", "disk image: tar `archive`, plain, gzip or zstd, with files to start from; several lie on top of each other", list(&o.tars))
	flags.StringVar(&o.oci, "oci", "", "disk image: `directory` in the OCI image layout with an image to start from")
	flags.StringVar(&o.reference, "ref", "", "`name` of the image in -oci (default: the only one)")
	flags.StringVar(&o.architecture, "arch", runtime.GOARCH, "`architecture` of the image in -oci: amd64 or arm64")
	flags.Func("add", "disk image: `FILE:PATH[:MODE]`, a file of the host to add under a path, with a mode (default 0644); may be repeated", list(&o.files))
	flags.Func("ca", "disk image: `file` with certificates (PEM) for programs in the guest to trust; may be repeated", list(&o.certificates))
	flags.BoolVar(&o.json, "json", false, "print steps and result as JSON, an object to a line")
}

func (o *options) check() error {
	disks := []string{disk.EROFS, disk.Ext4}
	switch {
	case o.agent == "":
		return errors.New("-agent is missing")
	case o.output == "":
		return errors.New("-o is missing")
	case o.release != "" && o.modules == "":
		return errors.New("-kernel-release needs -modules")
	case o.kind != typeInitrd && o.kind != disk.EROFS && o.kind != disk.Ext4:
		return fmt.Errorf("-type is %q, not %s or %s", o.kind, typeInitrd, strings.Join(disks, " or "))
	case o.kind == typeInitrd && (o.oci != "" || len(o.tars)+len(o.files)+len(o.certificates) > 0):
		return fmt.Errorf("-tar, -oci, -add and -ca are for disk images: say -type %s", strings.Join(disks, " or -type "))
	case o.disk && (o.kind != typeInitrd || o.modules == ""):
		return errors.New("-disk is for initrds, and needs -modules")
	case o.reference != "" && o.oci == "":
		return errors.New("-ref needs -oci")
	default:
		return nil
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o := options{out: out}
	flags := flag.NewFlagSet("rootfs-builder", flag.ContinueOnError)
	o.register(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err := o.check(); err != nil {
		return err
	}
	return build(ctx, o)
}

func build(ctx context.Context, o options) error {
	if err := agentcheck.Check(o.agent); err != nil {
		return err
	}
	var contents image.Contents
	addBase(&contents, o.agent)
	if o.modules != "" {
		release, err := addModules(&contents, o.modules, o.release, o.disk)
		if err != nil {
			return err
		}
		o.release = release
	}
	if o.busybox != "" {
		if err := addBusybox(ctx, &contents, o.busybox); err != nil {
			return err
		}
	}
	created, err := sourceDate()
	if err != nil {
		return err
	}
	var manifest image.Manifest
	described := sbom.Image{Created: created}
	if o.kind == typeInitrd {
		if manifest, err = contents.WriteFiles(o.output, o.manifest, o.release); err != nil {
			return err
		}
		contents.Regular(func(path string, content []byte) {
			described.Files = append(described.Files, sbom.NewFile(path, content))
		})
		err = o.writeSBOM(described, manifest)
	} else {
		manifest, err = buildDisk(ctx, o, &contents, described)
	}
	if err != nil {
		return err
	}
	return o.report(manifest)
}

// report prints what was built.
func (o *options) report(manifest image.Manifest) error {
	if o.json {
		manifest.Entries = nil
		return o.print(struct {
			Event string `json:"event"`
			Path  string `json:"path"`
			image.Manifest
		}{"built", o.output, manifest})
	}
	_, err := fmt.Fprintf(o.out, "%s  %s (%d bytes)\n", manifest.SHA256, o.output, manifest.Size)
	if err == nil && manifest.Verity != nil {
		_, err = fmt.Fprintf(o.out, "root hash %s\n", manifest.Verity.RootHash)
	}
	return err
}

// step says what comes next, of what may take long.
func (o *options) step(what string) error {
	if o.json {
		return o.print(struct {
			Event string `json:"event"`
			Step  string `json:"step"`
		}{"step", what})
	}
	_, err := fmt.Fprintln(os.Stderr, "rootfs-builder:", what)
	return err
}

func (o *options) print(value any) error {
	if err := json.NewEncoder(o.out).Encode(value); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

// sourceDate is SOURCE_DATE_EPOCH (reproducible-builds.org), or 1970: not now, or an
// image is another one each time.
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(0, 0), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0), nil
}

// writeSBOM writes the image's bill of materials, where one is wanted.
func (o *options) writeSBOM(described sbom.Image, manifest image.Manifest) error {
	if o.sbom == "" {
		return nil
	}
	described.Name, described.SHA256 = manifest.Image, manifest.SHA256
	text, err := sbom.Write(described)
	if err != nil {
		return err
	}
	return image.WriteFile(o.sbom, text)
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
