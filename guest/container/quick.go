package container

// #include "quick.h"
import "C"

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/capabilities"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// Of an exec's cost three quarters are the start of Go's runtime in the process
// that libcontainer makes for it, and the decoding of its configuration there. A
// process that needs nothing but a user, capabilities and its program is made
// ready by a few lines of C instead (quick.c), which runs once libcontainer's own
// C has joined the namespaces. The agent's side, with the cgroup and the limits,
// is libcontainer's as ever.
//
// Whatever else a process has, a terminal, a system call filter, a user namespace,
// a label, is libcontainer's alone.

// quickName is what a program's name may have, so that it can be quoted in an error
// as it is.
const quickName = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._+:@,=-"

// quickNameLength bounds it.
const quickNameLength = 255

// quicken lets lp become its program without Go where that can be. The caller
// closes the file that is returned, if any, when lp was started.
func quicken(id string, config *configs.Config, lp *libcontainer.Process) *os.File {
	description := describe(id, config, lp)
	if description == nil {
		return nil
	}
	fd, err := unix.MemfdCreate("kata-exec", unix.MFD_CLOEXEC)
	if err != nil {
		return nil // the slow way will tell what is lacking
	}
	file := os.NewFile(uintptr(fd), "kata-exec")
	_, err = file.Write(description)
	if err != nil {
		file.Close()
		return nil
	}
	lp.ExtraFiles, lp.LogLevel = []*os.File{file}, quickLevel
	return file
}

// describe writes down what a process is to become, as quick.h has it; nil when it
// is libcontainer's.
func describe(id string, config *configs.Config, lp *libcontainer.Process) []byte {
	if !isPlain(config, lp) {
		return nil
	}
	var numbers [C.KATA_QUICK_NUMBERS]uint64
	numbers[C.KATA_QUICK_IS] = C.KATA_QUICK_MAGIC
	numbers[C.KATA_QUICK_UID], numbers[C.KATA_QUICK_GID] = uint64(lp.UID), uint64(lp.GID)
	caps := lp.Capabilities
	if caps == nil {
		caps = config.Capabilities
	}
	if caps == nil {
		return nil // all of them stay
	}
	for index, names := range map[int][]string{
		C.KATA_QUICK_BOUNDING: caps.Bounding, C.KATA_QUICK_EFFECTIVE: caps.Effective, C.KATA_QUICK_PERMITTED: caps.Permitted,
		C.KATA_QUICK_INHERITABLE: caps.Inheritable, C.KATA_QUICK_AMBIENT: caps.Ambient,
	} {
		mask, ok := capabilityMask(names)
		if !ok {
			return nil
		}
		numbers[index] = mask
	}
	directories, home, ok := environment(lp.Env)
	if !ok {
		return nil
	}
	if !home {
		numbers[C.KATA_QUICK_FLAGS] |= C.KATA_QUICK_FIND_HOME
	}
	if config.NoNewPrivileges && lp.NoNewPrivileges == nil || lp.NoNewPrivileges != nil && *lp.NoNewPrivileges {
		numbers[C.KATA_QUICK_FLAGS] |= C.KATA_QUICK_NO_NEW_PRIVILEGES
	}
	if config.Umask != nil {
		numbers[C.KATA_QUICK_FLAGS] |= C.KATA_QUICK_SET_UMASK
		numbers[C.KATA_QUICK_UMASK] = uint64(*config.Umask)
	}
	keyring := "_ses." + id
	if config.NoNewKeyring {
		keyring = ""
	}
	numbers[C.KATA_QUICK_GROUPS] = uint64(len(lp.AdditionalGroups))
	numbers[C.KATA_QUICK_DIRECTORIES] = uint64(len(directories))
	numbers[C.KATA_QUICK_ARGUMENTS] = uint64(len(lp.Args))
	numbers[C.KATA_QUICK_VARIABLES] = uint64(len(lp.Env))

	var description []byte
	for _, number := range numbers {
		description = binary.NativeEndian.AppendUint64(description, number)
	}
	for _, group := range lp.AdditionalGroups {
		description = binary.NativeEndian.AppendUint64(description, uint64(group))
	}
	for _, text := range slices.Concat([]string{lp.Cwd, keyring}, directories, lp.Args, lp.Env) {
		if strings.IndexByte(text, 0) >= 0 {
			return nil
		}
		description = append(append(description, text...), 0)
	}
	return description
}

// isPlain tells whether a process is one of those that quick.c knows.
func isPlain(config *configs.Config, lp *libcontainer.Process) bool {
	switch {
	case lp.Init, lp.ConsoleSocket != nil, lp.PidfdSocket != nil, len(lp.ExtraFiles) != 0, lp.LogLevel != plainLevel:
		return false
	case config.Namespaces.Contains(configs.NEWUSER), config.RootlessEUID, config.Seccomp != nil:
		return false
	case config.AppArmorProfile != "", lp.AppArmorProfile != "", config.ProcessLabel != "", lp.Label != "":
		return false
	case config.Scheduler != nil, lp.Scheduler != nil, config.IOPriority != nil, lp.IOPriority != nil:
		return false
	case config.Personality != nil, config.MemoryPolicy != nil:
		return false
	case !filepath.IsAbs(lp.Cwd), len(lp.Args) == 0, lp.Args[0] == "", len(lp.Args[0]) > quickNameLength:
		return false
	}
	return !strings.ContainsFunc(lp.Args[0], func(c rune) bool { return !strings.ContainsRune(quickName, c) })
}

// capabilityMask turns names into bits; false for a name that is unknown.
func capabilityMask(names []string) (mask uint64, ok bool) {
	known := capabilities.KnownCapabilities() // by number
	for _, name := range names {
		number := slices.Index(known, name)
		if number < 0 {
			return 0, false
		}
		mask |= 1 << number
	}
	return mask, true
}

// environment takes the directories of programs from a process's variables, and
// tells whether these have the user's home. False for variables that libcontainer
// refuses or changes.
func environment(variables []string) (directories []string, home, ok bool) {
	seen := map[string]bool{}
	for _, variable := range variables {
		name, value, assigned := strings.Cut(variable, "=")
		if !assigned || name == "" || seen[name] {
			return nil, false, false
		}
		seen[name] = true
		switch name {
		case "HOME":
			if value == "" {
				return nil, false, false
			}
			home = true
		case "PATH":
			for _, directory := range filepath.SplitList(value) {
				if !filepath.IsAbs(directory) {
					return nil, false, false
				}
				directories = append(directories, filepath.Clean(directory))
			}
		}
	}
	return directories, home, true
}
