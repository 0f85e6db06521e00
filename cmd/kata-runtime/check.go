package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/accel"
	"kata-runtime/hypervisor/qemu"
	"kata-runtime/hypervisor/virtiofsd"
	"kata-runtime/hypervisor/vsock"
	"kata-runtime/virtcontainers/config"
)

// finding is what check says about one thing that a VM needs.
type finding struct {
	Name string `json:"name"`
	// Status is "ok", "warning" (it works, but worse than it could) or
	// "missing" (no VM can run).
	Status string `json:"status"`
	// Value is what will be used.
	Value string `json:"value,omitempty"`
	// Detail says why.
	Detail string `json:"detail,omitempty"`
	// NextStep is what the reader can do about it.
	NextStep string `json:"nextStep,omitempty"`
}

const (
	statusOK      = "ok"
	statusWarning = "warning"
	statusMissing = "missing"
)

// checkReport is check's output.
type checkReport struct {
	Usable   bool      `json:"usable"`
	Findings []finding `json:"findings"`
}

// errUnusable makes check exit with 1.
var errUnusable = errors.New("this host cannot run virtual machines yet: see what is missing")

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "tell whether this host can run VMs, and what will be used",
		Flags: []cli.Flag{&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Value: "text", Usage: "`FORMAT`: text or json"}},
		Action: func(c *cli.Context) error {
			format := c.String("format")
			if format != "text" && format != "json" {
				return fmt.Errorf("--format is %q, not text or json", format)
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
	findings := []finding{checkPrivileges(), checkHostKernel()}
	if err != nil {
		findings = append(findings, finding{
			Name: "configuration", Status: statusMissing, Detail: err.Error(), NextStep: "correct the file",
		})
		settings = config.Default()
	}
	findings = append(findings,
		checkAccelerator(ctx, settings.Hypervisor),
		checkQEMU(ctx, settings.Hypervisor),
		checkShare(settings.Hypervisor),
		checkVsock(ctx, settings.Hypervisor),
		checkNetwork(settings.Runtime))
	findings = append(findings, checkAssets(settings)...)
	report := checkReport{Usable: true, Findings: findings}
	for _, f := range findings {
		report.Usable = report.Usable && f.Status != statusMissing
	}
	return report
}

func checkPrivileges() finding {
	f := finding{Name: "privileges", Status: statusOK, Value: "root"}
	if os.Geteuid() != 0 {
		f.Status, f.Value = statusMissing, fmt.Sprintf("user %d", os.Geteuid())
		f.NextStep = "run containers as root: mounts and namespaces need it"
	}
	return f
}

// checkHostKernel looks for the newest system call that the share needs.
func checkHostKernel() finding {
	var name unix.Utsname
	f := finding{Name: "host kernel", Status: statusOK}
	if err := unix.Uname(&name); err == nil {
		f.Value = unix.ByteSliceToString(name.Release[:])
	}
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{})
	if errors.Is(err, unix.ENOSYS) {
		f.Status, f.Detail, f.NextStep = statusMissing, "it lacks mount_setattr(2)", "use Linux 5.12 or newer"
	}
	return f
}

func checkAccelerator(ctx context.Context, settings config.Hypervisor) finding {
	f := finding{Name: "accelerator", Status: statusOK}
	choice, err := accel.Select(ctx, settings.Accelerator)
	if err != nil {
		f.Status, f.Detail, f.NextStep = statusMissing, err.Error(), `set accelerator = "auto", or enable virtualization in the firmware`
		return f
	}
	f.Value, f.Detail = choice.Name, choice.Reason
	if choice.Warning {
		f.Status, f.NextStep = statusWarning, "for speed, use a host with hardware virtualization (nested, if it is a VM)"
	}
	return f
}

func checkQEMU(ctx context.Context, settings config.Hypervisor) finding {
	f := finding{Name: "qemu", Status: statusOK}
	path, err := qemu.Find(settings.Path)
	if err == nil {
		f.Value = path
		f.Detail, err = qemu.Version(ctx, path)
	}
	if err != nil {
		f.Status, f.Detail, f.NextStep = statusMissing, err.Error(), "install it (Debian: apt-get install qemu-system-x86) or set path in [hypervisor.qemu]"
	}
	return f
}

func checkShare(settings config.Hypervisor) finding {
	f := finding{Name: "virtiofsd", Status: statusOK}
	if settings.SharedFS == config.SharedFS9P {
		f.Value, f.Detail = "virtio-9p", "shared_fs says so; no daemon is needed"
		return f
	}
	daemon, err := virtiofsd.Find(settings.VirtioFSDaemon)
	if err == nil {
		f.Value, f.Detail = daemon.Path, strings.TrimSpace(fmt.Sprintf("%v %s", daemon.Kind, daemon.Version))
		return f
	}
	f.Detail = err.Error()
	f.NextStep = "install it (Debian 12: it comes with qemu-system-common; later: apt-get install virtiofsd)"
	f.Status, f.Value = statusWarning, "virtio-9p"
	if settings.SharedFS == config.SharedFSVirtioFS {
		f.Status, f.Value = statusMissing, ""
	}
	return f
}

func checkVsock(ctx context.Context, settings config.Hypervisor) finding {
	f := finding{Name: "vsock", Status: statusOK}
	host, err := vsock.Open(ctx, vsock.Mode(settings.Vsock), slog.New(slog.DiscardHandler))
	if err != nil {
		f.Status, f.Detail, f.NextStep = statusMissing, err.Error(), `set vsock = "auto", or load the module: modprobe vhost_vsock`
		return f
	}
	f.Value = host.Kind()
	if f.Value == config.VsockUser {
		f.Detail = "served by the runtime itself (vhost-user)"
	}
	if err := host.Close(); err != nil {
		f.Status, f.Detail = statusWarning, err.Error()
	}
	return f
}

func checkAssets(settings *config.Config) []finding {
	kernel := finding{Name: "guest kernel", Status: statusOK}
	image := finding{Name: "guest image", Status: statusOK}
	executable, err := os.Executable()
	if err == nil {
		err = settings.ResolveAssets(executable)
	}
	if err != nil {
		kernel.Status, kernel.Detail, kernel.NextStep = statusMissing, err.Error(), "make build image, or set kernel and initrd in [hypervisor.qemu]"
		image.Status, image.NextStep = statusMissing, kernel.NextStep
		return []finding{kernel, image}
	}
	kernel.Value, image.Value = settings.Hypervisor.Kernel, settings.Hypervisor.Initrd
	for _, f := range []*finding{&kernel, &image} {
		if file, err := os.Open(f.Value); err != nil {
			f.Status, f.Detail, f.NextStep = statusMissing, err.Error(), "make build image, or correct the configuration"
		} else {
			file.Close()
		}
	}
	return []finding{kernel, image}
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
