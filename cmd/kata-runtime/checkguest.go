package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"kata-runtime/kernel-config/kconfig"
	"kata-runtime/kernel-config/needs"
	"kata-runtime/virtcontainers/config"
)

// guestReport is the output of check --guest.
type guestReport struct {
	// Kernel is the guest's kernel, Config the file that its configuration is from.
	Kernel string `json:"kernel"`
	Config string `json:"config"`
	// Modules is the directory of the modules that a guest can load; empty for none.
	Modules string `json:"modules,omitempty"`
	// Missing is what the kernel lacks.
	Missing []needs.Gap `json:"missing"`
}

// checkGuest tells what the configured kernel lacks that the runtime and common images
// need, and for whom. It fails if no pod can run with that kernel.
func checkGuest(c *cli.Context, asJSON bool) error {
	settings, err := config.Load(c.Context, c.String("config"))
	if err != nil {
		return err
	}
	executable, err := os.Executable()
	if err == nil {
		err = settings.ResolveAssets(executable)
	}
	if err != nil {
		return fmt.Errorf("find the guest's kernel: %w", err)
	}
	report, err := compareGuest(settings.Hypervisor)
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(c.App.Writer, report)
	} else {
		err = report.print(c.App.Writer)
	}
	return errors.Join(err, needs.Required(report.Missing))
}

func compareGuest(settings config.Hypervisor) (guestReport, error) {
	report := guestReport{Kernel: settings.Kernel, Modules: settings.Modules}
	kernel, from, err := kconfig.Read(settings.Kernel)
	if err != nil {
		return report, err
	}
	report.Config = from
	report.Missing, err = needs.Compare(kernel, settings.Modules != "")
	return report, err
}

func (r guestReport) print(out io.Writer) error {
	modules := r.Modules
	if modules == "" {
		modules = "none"
	}
	fmt.Fprintf(out, "kernel   %s\nmodules  %s\n", r.Kernel, modules)
	if len(r.Missing) == 0 {
		_, err := fmt.Fprintln(out, "nothing that the runtime or common images need is missing")
		return err
	}
	if _, err := fmt.Fprintln(out, "what is missing, for whom:"); err != nil {
		return err
	}
	return needs.Print(out, r.Missing)
}
