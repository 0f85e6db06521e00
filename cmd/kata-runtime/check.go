package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/architecture"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/machine"
	"kata-runtime/virtcontainers/rootimage"
)

// checkReport is check's output.
type checkReport struct {
	Usable   bool              `json:"usable"`
	Findings []machine.Finding `json:"findings"`
}

// errUnusable makes check exit with 1.
var errUnusable = errors.New("this host cannot run virtual machines yet: see what is missing")

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "tell whether this host can run VMs, and what will be used; or what the guest's kernel lacks; or what a pod's processes are on the host",
		ArgsUsage: "[--guest | --security ID]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Value: "text", Usage: "`FORMAT`: text or json"},
			&cli.BoolFlag{Name: "json", Usage: "the same as --format json"},
			&cli.BoolFlag{Name: "guest", Usage: "compare the guest's kernel with what the runtime and common images need: what is missing, for whom"},
			&cli.StringFlag{Name: "security", Usage: "compare the host's processes of the pod with this `ID`, or with a container of it, with what is promised of them"},
			stateDirFlag(),
		},
		Action: func(c *cli.Context) error {
			format := c.String("format")
			if c.Bool("json") {
				format = "json"
			}
			if format != "text" && format != "json" {
				return fmt.Errorf("--format is %q, not text or json", format)
			}
			if c.Args().Present() {
				return fmt.Errorf("check takes no argument: %q (a pod is named by --security)", c.Args().First())
			}
			if c.Bool("guest") && c.IsSet("security") {
				return errors.New("check: --guest is of the configuration, --security of a pod: give one of them")
			}
			if c.Bool("guest") {
				return checkGuest(c, format == "json")
			}
			if c.IsSet("security") {
				return checkSecurity(c, c.String("security"), format == "json")
			}
			report := check(c.Context, c.String("config"))
			var err error
			if format == "json" {
				err = printJSON(c.App.Writer, report)
			} else {
				err = report.print(c.App.Writer)
			}
			if err == nil && !report.Usable {
				err = errUnusable
			}
			return err
		},
	}
}

func check(ctx context.Context, configPath string) checkReport {
	settings, err := config.Load(ctx, configPath)
	findings := []machine.Finding{checkPrivileges(), checkHostKernel()}
	if err != nil {
		findings = append(findings, machine.Finding{
			Name: "configuration", Status: machine.StatusMissing, Detail: err.Error(), NextStep: "correct the file",
		})
		settings = config.Default()
	}
	findings = append(findings, machine.Check(ctx, settings)...)
	findings = append(findings, checkReadable(settings.Hypervisor, checkAssets(settings))...)
	findings = append(findings, checkForeign(settings)...)
	report := checkReport{Usable: true, Findings: findings}
	for _, f := range findings {
		report.Usable = report.Usable && f.Status != machine.StatusMissing
	}
	return report
}

func checkPrivileges() machine.Finding {
	f := machine.Finding{Name: "privileges", Status: machine.StatusOK, Value: "root"}
	if os.Geteuid() != 0 {
		f.Status, f.Value = machine.StatusMissing, fmt.Sprintf("user %d", os.Geteuid())
		f.NextStep = "run containers as root: mounts and namespaces need it"
	}
	return f
}

// checkHostKernel looks for the newest system call that the share needs.
func checkHostKernel() machine.Finding {
	var name unix.Utsname
	f := machine.Finding{Name: "host kernel", Status: machine.StatusOK}
	if err := unix.Uname(&name); err == nil {
		f.Value = unix.ByteSliceToString(name.Release[:])
	}
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{})
	if errors.Is(err, unix.ENOSYS) {
		f.Status, f.Detail, f.NextStep = machine.StatusMissing, "it lacks mount_setattr(2)", "use Linux 5.12 or newer"
	}
	return f
}

func checkAssets(settings *config.Config) []machine.Finding {
	kernel := machine.Finding{Name: "guest kernel", Status: machine.StatusOK}
	initrd := machine.Finding{Name: "guest initrd", Status: machine.StatusOK}
	image := machine.Finding{Name: "guest image", Status: machine.StatusOK}
	executable, err := os.Executable()
	if err == nil {
		err = settings.ResolveAssets(executable)
	}
	if err != nil {
		kernel.Status, kernel.Detail, kernel.NextStep = machine.StatusMissing, err.Error(), "make build image, or set kernel and initrd in [hypervisor]"
		image.Status, image.NextStep = machine.StatusMissing, kernel.NextStep
		return []machine.Finding{kernel, image}
	}
	kernel.Value, initrd.Value, image.Value = settings.Hypervisor.Kernel, settings.Hypervisor.Initrd, settings.Hypervisor.Image
	if file, err := os.Open(kernel.Value); err != nil {
		kernel.Status, kernel.Detail, kernel.NextStep = machine.StatusMissing, err.Error(), "make build image, or correct the configuration"
	} else {
		file.Close()
	}
	findings := []machine.Finding{kernel}
	if initrd.Value != "" {
		findings = append(findings, checkInitrd(initrd))
	}
	if image.Value != "" {
		findings = append(findings, checkImage(image))
	}
	return findings
}

// checkInitrd reads an initrd as a whole, which a start of a VM does once for each.
func checkInitrd(f machine.Finding) machine.Finding {
	err := rootimage.VerifyInitrd(f.Value)
	if _, gone := os.Stat(f.Value); err == nil {
		err = gone
	}
	if err != nil {
		f.Status, f.Detail, f.NextStep = machine.StatusMissing, err.Error(), "make build image, or correct the configuration"
	}
	return f
}

// checkForeign tells whether there is what pods of other architectures take.
func checkForeign(settings *config.Config) []machine.Finding {
	if runtime.GOARCH == architecture.ARM64 || settings.Hypervisor.Architecture != config.ArchitectureAuto {
		return nil
	}
	f := machine.Finding{Name: "arm64 guests", Status: machine.StatusOK, Value: "none"}
	executable, err := os.Executable()
	if err == nil {
		settings, err = settings.ForArchitecture(executable, architecture.ARM64)
	}
	switch {
	case errors.Is(err, config.ErrNoAssets):
		f.Detail = "a pod for arm64 is refused: make arm64 builds what it takes"
		return []machine.Finding{f}
	case err != nil:
		f.Status, f.Detail, f.NextStep = machine.StatusWarning, err.Error(), "correct [guest.arm64] in the configuration"
		return []machine.Finding{f}
	}
	f.Value, f.Detail = settings.Hypervisor.Kernel, "emulated by "+settings.Hypervisor.QEMU.Path
	for _, path := range []string{settings.Hypervisor.Kernel, cmp.Or(settings.Hypervisor.Initrd, settings.Hypervisor.Image), settings.Hypervisor.QEMU.Path} {
		if _, err := os.Stat(path); err != nil {
			f.Status, f.Detail = machine.StatusWarning, err.Error()
			f.NextStep = "install QEMU for arm64 (Debian: apt-get install qemu-system-arm), or correct [guest.arm64] in the configuration"
		}
	}
	return []machine.Finding{f}
}

// checkImage reads a disk image as a whole, which no start of a VM does.
func checkImage(f machine.Finding) machine.Finding {
	image, err := rootimage.Open(f.Value)
	if err == nil {
		f.Detail = fmt.Sprintf("%s with dm-verity, root hash %s", image.FileSystem(), image.RootHash())
		err = errors.Join(image.Verify(), image.Close())
	}
	if err != nil {
		f.Status, f.Detail, f.NextStep = machine.StatusMissing, err.Error(), "build the image again, see docs/guest-assets.md"
	}
	return f
}

func (r checkReport) print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 1, 2, ' ', 0)
	for _, f := range r.Findings {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", f.Name, f.Status, f.Value, f.Detail)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, f := range r.Findings {
		if f.NextStep != "" {
			fmt.Fprintf(w, "next step for %s: %s\n", f.Name, f.NextStep)
		}
	}
	verdict := "this host can run virtual machines"
	if !r.Usable {
		verdict = "this host cannot run virtual machines yet"
	}
	_, err := fmt.Fprintln(w, verdict)
	return err
}
