package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor"
)

func updateCommand() *cli.Command {
	return &cli.Command{
		Name:      "update",
		Usage:     "change the limits of a container",
		ArgsUsage: "ID",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "resources", Aliases: []string{"r"}, Usage: "`FILE` with an OCI resources object, - for standard input"},
			sizeFlag("memory", "memory limit in `BYTES`"),
			sizeFlag("memory-reservation", "memory that is protected from reclaim, in `BYTES`"),
			sizeFlag("memory-swap", "limit of memory and swap together, in `BYTES`"),
			signedFlag("cpu-quota", "CPU time in a period, in `MICROSECONDS`"),
			unsignedFlag("cpu-period", "the period, in `MICROSECONDS`"),
			unsignedFlag("cpu-burst", "unused CPU time that may be saved up, in `MICROSECONDS`"),
			signedFlag("cpu-idle", "1: run only when nobody else wants to"),
			unsignedFlag("cpu-share", "CPU `WEIGHT`, relative to other containers"),
			&cli.StringFlag{Name: "cpuset-cpus", Usage: "`CPUS` to run on"},
			&cli.StringFlag{Name: "cpuset-mems", Usage: "memory `NODES` to use"},
			&cli.Int64Flag{Name: "pids-limit", Usage: "`NUMBER` of processes at most"},
			&cli.UintFlag{Name: "blkio-weight", Usage: "block I/O `WEIGHT`, 10 to 1000"},
			&cli.StringFlag{Name: "cpu-rt-period", Usage: "accepted and ignored: cgroups of version 2 have none", Hidden: true},
			&cli.StringFlag{Name: "cpu-rt-runtime", Usage: "accepted and ignored: cgroups of version 2 have none", Hidden: true},
			&cli.StringFlag{Name: "l3-cache-schema", Usage: "not supported", Hidden: true},
			&cli.StringFlag{Name: "mem-bw-schema", Usage: "not supported", Hidden: true},
			&cli.StringFlag{Name: "kernel-memory", Usage: "accepted and ignored, as by runc", Hidden: true},
			&cli.StringFlag{Name: "kernel-memory-tcp", Usage: "accepted and ignored, as by runc", Hidden: true},
		},
		Action: func(c *cli.Context) error {
			id, err := containerID(c)
			if err != nil {
				return err
			}
			resources, err := updatedResources(c)
			if err != nil {
				return err
			}
			guest, dropped, err := oci.TransformResources(resources)
			if err != nil {
				return err
			}
			for _, field := range dropped {
				logger(c).Debug("field of the resources does not reach the guest", "field", field)
			}
			encoded, err := json.Marshal(guest)
			if err != nil {
				return fmt.Errorf("encode the resources: %w", err)
			}
			return withSupervisor(c, id, func(ctx context.Context, client *supervisor.Client, state store.State) error {
				return client.Update(ctx, state.ID, encoded)
			})
		},
	}
}

// updatedResources are those of the file, or of the flags.
func updatedResources(c *cli.Context) (*specs.LinuxResources, error) {
	for _, schema := range []string{"l3-cache-schema", "mem-bw-schema"} {
		if c.String(schema) != "" {
			return nil, fmt.Errorf("--%s is %w", schema, oci.ErrUnsupported)
		}
	}
	if path := c.String("resources"); path != "" {
		return readResources(path)
	}
	resources := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{
			Limit: limit[int64](c, "memory"), Reservation: limit[int64](c, "memory-reservation"), Swap: limit[int64](c, "memory-swap"),
		},
		CPU: &specs.LinuxCPU{
			Quota: limit[int64](c, "cpu-quota"), Period: limit[uint64](c, "cpu-period"), Burst: limit[uint64](c, "cpu-burst"),
			Shares: limit[uint64](c, "cpu-share"), Idle: limit[int64](c, "cpu-idle"),
		},
	}
	resources.CPU.Cpus, resources.CPU.Mems = c.String("cpuset-cpus"), c.String("cpuset-mems")
	if c.IsSet("pids-limit") {
		pids := c.Int64("pids-limit")
		resources.Pids = &specs.LinuxPids{Limit: &pids}
	}
	if given := c.Uint("blkio-weight"); given != 0 { // 0 is none, as for runc
		weight := uint16(min(given, 1000))
		resources.BlockIO = &specs.LinuxBlockIO{Weight: &weight}
	}
	return resources, nil
}

func readResources(path string) (*specs.LinuxResources, error) {
	var reader io.Reader = os.Stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read the resources: %w", err)
		}
		defer file.Close()
		reader = file
	}
	resources := &specs.LinuxResources{}
	if err := json.NewDecoder(reader).Decode(resources); err != nil {
		return nil, fmt.Errorf("decode the resources: %w", err)
	}
	return resources, nil
}
