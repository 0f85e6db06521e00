package pid1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/bootparam"
)

// imageRoot is where a disk image is mounted before it is the root file system.
const imageRoot = "/.image"

// errTable is wrapped by the errors about a device mapper's table that is none of a
// disk image.
var errTable = errors.New("no table of a disk image")

// rootImage is what the kernel's command line says of a disk image: dm-mod.create and
// rootfstype, as for a kernel that mounts it by itself.
type rootImage struct {
	fileSystem, name, kind, params string
	sectors                        uint64
}

// findImage reads the command line. It is nil where that names no image.
func findImage(params bootparam.Params) (*rootImage, error) {
	if params.MappedRoot == "" {
		return nil, nil //nolint:nilnil // see above
	}
	// NAME,UUID,MINOR,ro,START SECTORS KIND PARAMETERS
	fields := strings.SplitN(params.MappedRoot, ",", 5)
	if len(fields) != 5 {
		return nil, fmt.Errorf("%q: %w", params.MappedRoot, errTable)
	}
	table := strings.SplitN(fields[4], " ", 4)
	if fields[3] != "ro" || len(table) != 4 || table[0] != "0" {
		return nil, fmt.Errorf("%q: %w", params.MappedRoot, errTable)
	}
	sectors, err := strconv.ParseUint(table[1], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%q: %w: %w", params.MappedRoot, errTable, err)
	}
	return &rootImage{fileSystem: params.RootType, name: fields[0], kind: table[2], params: table[3], sectors: sectors}, nil
}

// mountImage makes the mapped device of an image and mounts that, with the file systems
// below root moved onto it. The kernel has its parts as modules, which are loaded by now.
func mountImage(image *rootImage, root string) error {
	device, err := mapDevice(image, filepath.Join(root, "dev"))
	if err != nil {
		return err
	}
	const node = "/kata-image" // in the initramfs, which permits devices
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(device)); err != nil {
		return fmt.Errorf("make a node for the disk image: %w", err)
	}
	if err := os.Mkdir(imageRoot, 0o755); err != nil {
		return fmt.Errorf("make a mount point for the disk image: %w", err)
	}
	if err := unix.Mount(node, imageRoot, image.fileSystem, unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount the disk image (%s): %w", image.fileSystem, err)
	}
	if err := os.Remove(node); err != nil {
		return fmt.Errorf("remove the node of the disk image: %w", err)
	}
	for _, name := range []string{"proc", "sys", "dev", "run", "tmp"} { // with what is mounted below
		if err := unix.Mount(filepath.Join(root, name), filepath.Join(imageRoot, name), "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move /%s onto the disk image: %w", name, err)
		}
	}
	if err := unix.Unmount(root, 0); err != nil {
		return fmt.Errorf("unmount what the disk image stands for: %w", err)
	}
	return nil
}
