// Command filer does with a file what no program of the tests' root file system does,
// and says what came of it.
//
//	filer flock|posix FILE       take a lock, if nobody has one
//	filer wait FILE              take a lock of flock(2) when nobody has one
//	filer get FILE NAME          read an extended attribute
//	filer set FILE NAME VALUE    set one
//	filer map FILE               fill it by way of memory, and stay
//	filer watch FILE...          say what inotify tells until there is a file END
package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if args[0] == "watch" {
		return watch(args[1:])
	}
	file, err := os.OpenFile(args[1], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	fd := int(file.Fd())
	switch args[0] {
	case "wait":
		err = unix.Flock(fd, unix.LOCK_EX)
	case "flock":
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	case "posix":
		err = unix.FcntlFlock(file.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	case "get":
		value := make([]byte, 256)
		var n int
		if n, err = unix.Fgetxattr(fd, args[2], value); err == nil {
			fmt.Printf("%s\n", value[:n])
		}
	case "set":
		err = unix.Fsetxattr(fd, args[2], []byte(args[3]), 0)
	case "map":
		err = fill(file)
	default:
		err = errors.ErrUnsupported
	}
	return err
}

// fill writes to the memory of a mapped file, says so, and waits to be killed.
func fill(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	memory, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for i := range memory {
		memory[i] = 'm'
	}
	fmt.Println("mapped")
	for {
		if err := unix.Pause(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
