package jail

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Bits of linux/securebits.h; each has its lock one place above.
const (
	securebitNoRoot         = 1 << 0
	securebitNoSetuidFixup  = 1 << 2
	securebitNoAmbientRaise = 1 << 6
)

// dropPrivileges takes on the user and gives up the capabilities, for good. All
// of it is the calling thread's alone.
func dropPrivileges(spec *Spec) error {
	if err := limitBoundingSet(spec.Capabilities); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if spec.User != 0 && len(spec.Capabilities) > 0 {
		if err := takeAlong(spec); err != nil {
			return err
		}
	} else {
		if len(spec.Capabilities) == 0 {
			if err := lockSecurebits(); err != nil {
				return err
			}
		}
		if err := setUser(spec.User); err != nil {
			return err
		}
		if err := setCapabilities(spec.Capabilities, nil); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}

// lockSecurebits lets no user id bring capabilities any more.
func lockSecurebits() error {
	bits := uintptr(securebitNoRoot | securebitNoSetuidFixup | securebitNoAmbientRaise)
	// Keep-caps, whose lock comes with them, is off.
	locks := bits<<1 | 1<<5
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, bits|locks, 0, 0, 0); err != nil {
		return fmt.Errorf("set securebits: %w", err)
	}
	return nil
}

// takeAlong takes on a user other than root, with capabilities that outlast the
// change and the execution of the program.
func takeAlong(spec *Spec) error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	if err := setUser(spec.User); err != nil {
		return err
	}
	// The change has left them permitted, and not effective.
	if err := setCapabilities(append(slices.Clone(spec.Capabilities), unix.CAP_SETPCAP), spec.Capabilities); err != nil {
		return err
	}
	for _, capability := range spec.Capabilities {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, capability, 0, 0); err != nil {
			return fmt.Errorf("keep capability %d: %w", capability, err)
		}
	}
	if err := lockSecurebits(); err != nil {
		return err
	}
	return setCapabilities(spec.Capabilities, spec.Capabilities)
}

// limitBoundingSet takes all capabilities that the kernel knows from the bounding
// set, but those to keep.
func limitBoundingSet(keep []uintptr) error {
	for capability := uintptr(0); capability < 64; capability++ {
		if slices.Contains(keep, capability) {
			continue
		}
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, capability, 0, 0, 0)
		if err != nil {
			return nil //nolint:nilerr // EINVAL: the kernel knows no further one
		}
		if has == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
	return nil
}

// setUser takes on a user and its group. Root stays what it is, without
// supplementary groups.
func setUser(id int) error {
	// Raw calls, which change the calling thread alone.
	if err := unix.Setgroups(nil); err != nil {
		return fmt.Errorf("leave supplementary groups: %w", err)
	}
	if id == 0 {
		return nil
	}
	if err := unix.Setresgid(id, id, id); err != nil {
		return fmt.Errorf("take on group %d: %w", id, err)
	}
	if err := unix.Setresuid(id, id, id); err != nil {
		return fmt.Errorf("take on user %d: %w", id, err)
	}
	return nil
}

// setCapabilities leaves the calling thread with no other capabilities than
// those to keep, of those that it has; inherit are the inheritable ones.
func setCapabilities(keep, inherit []uintptr) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has, wanted [2]unix.CapUserData
	if err := unix.Capget(&header, &has[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for _, capability := range keep {
		bit := has[capability/32].Permitted & (1 << (capability % 32))
		wanted[capability/32].Permitted |= bit
		wanted[capability/32].Effective |= bit
	}
	for _, capability := range inherit {
		wanted[capability/32].Inheritable |= 1 << (capability % 32)
	}
	if err := unix.Capset(&header, &wanted[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}
