// Command files does in a container what the file server's benchmark measures. It
// says by a line when each part of the work begins and ends, with the seconds that it
// took, waits for a line after either, and begins with what the host has prepared: the
// directory tree and the files random and large.
//
//	files DIRECTORY [PART...]
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	smallFiles = 1000
	largeMiB   = 256
	page       = 4096
	// operations are those of a part with random positions.
	operations = 8192
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "files:", err)
		os.Exit(1)
	}
}

func run(dir string, wanted []string) error {
	from := bufio.NewReader(os.Stdin)
	for _, part := range []struct {
		name string
		work func(dir string) error
	}{
		{"unpack", unpack},
		{"remove", remove},
		{"walk", walk},
		{"small", small},
		{"volume-unpack", inVolume(unpack)},
		{"volume-remove", inVolume(remove)},
		{"volume-walk", inVolume(walk)},
		{"volume-small", inVolume(small)},
		{"read-1", random(1, false)},
		{"read-8", random(8, false)},
		{"write-1", random(1, true)},
		{"write-8", random(8, true)},
		{"read", read},
		{"mmap", mapped},
		{"write", write},
	} {
		if len(wanted) > 0 && !slices.Contains(wanted, part.name) {
			continue
		}
		if err := say(from, part.name, 0); err != nil {
			return err
		}
		begin := time.Now()
		if err := part.work(dir); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		if err := say(from, part.name, time.Since(begin).Seconds()); err != nil {
			return err
		}
	}
	return nil
}

func say(from *bufio.Reader, name string, seconds float64) error {
	if _, err := fmt.Println(name, seconds); err != nil {
		return err
	}
	_, err := from.ReadString('\n')
	return err
}

// unpack makes small files as tar does.
func unpack(dir string) error {
	data := make([]byte, 16<<10)
	at := time.Unix(1_000_000_000, 0)
	for i := range smallFiles {
		folder := filepath.Join(dir, "unpacked", strconv.Itoa(i/20))
		if i%20 == 0 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
		}
		file, err := os.OpenFile(filepath.Join(folder, strconv.Itoa(i)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		size := 100 + i*37%(len(data)-100)
		_, err = file.Write(data[:size])
		times := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
		err = errors.Join(err, file.Chown(0, 0), file.Chmod(0o644),
			unix.UtimesNanoAt(int(file.Fd()), "", times, unix.AT_EMPTY_PATH), file.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

func remove(dir string) error { return os.RemoveAll(filepath.Join(dir, "unpacked")) }

// walk looks at each file of the tree, as git status does.
func walk(dir string) error {
	return filepath.WalkDir(filepath.Join(dir, "tree"), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		_, err = entry.Info()
		return err
	})
}

// small reads each file of the tree, as a compiler does.
func small(dir string) error {
	return filepath.WalkDir(filepath.Join(dir, "tree"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		_, err = os.ReadFile(path)
		return err
	})
}

// inVolume does the work in the container's volume.
func inVolume(work func(dir string) error) func(dir string) error {
	return func(dir string) error { return work(filepath.Join(dir, "volume")) }
}

// random reads or writes pages of a file at random, past the cache, so many at once.
func random(depth int, writes bool) func(dir string) error {
	return func(dir string) error {
		fd, err := unix.Open(filepath.Join(dir, "random"), unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var stat unix.Stat_t
		if err := unix.Fstat(fd, &stat); err != nil {
			return err
		}
		errs := make([]error, depth)
		var workers sync.WaitGroup
		for i := range depth {
			workers.Go(func() {
				// A mapping is aligned.
				buffer, err := unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
				if err != nil {
					errs[i] = err
					return
				}
				where := rand.New(rand.NewPCG(uint64(i), 1))
				for range operations / depth {
					at := where.Int64N(stat.Size/page) * page
					if writes {
						_, err = unix.Pwrite(fd, buffer, at)
					} else {
						_, err = unix.Pread(fd, buffer, at)
					}
					if err != nil {
						errs[i] = err
						return
					}
				}
			})
		}
		workers.Wait()
		return errors.Join(errs...)
	}
}

// read reads a file that the guest does not have in its cache.
func read(dir string) error {
	file, err := os.Open(filepath.Join(dir, "large"))
	if err != nil {
		return err
	}
	defer file.Close()
	buffer := make([]byte, 1<<20)
	for range largeMiB {
		if _, err := file.Read(buffer); err != nil {
			return err
		}
	}
	return nil
}

// mapped touches each page of a file that the guest does not have in its cache.
func mapped(dir string) error {
	file, err := os.Open(filepath.Join(dir, "mapped"))
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	data, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	sum := 0
	for at := 0; at < len(data); at += page {
		sum += int(data[at])
	}
	if sum < 0 {
		return errors.New("cannot be")
	}
	return unix.Munmap(data)
}

// write writes a file and waits until it is on the host's disk.
func write(dir string) error {
	file, err := os.Create(filepath.Join(dir, "written"))
	if err != nil {
		return err
	}
	buffer := make([]byte, 1<<20)
	for range largeMiB {
		if _, err := file.Write(buffer); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	return errors.Join(file.Close(), os.Remove(file.Name()))
}
