#!/bin/bash
# go-fuse answers for one name in the root of every file system by itself.
#
# Library: github.com/hanwen/go-fuse/v2 v2.12.1
# Seen:    The name .go-fuse-epoll-hack in a mount's root is there for the library's own
#          use, when it mounts. It stays reserved for the mount's life, also behind
#          ProtocolServer: a stat finds an empty regular file, whatever the served
#          directory has, and a directory of that name cannot be made; the listing, which
#          comes from the file system, has no such entry. A passthrough that is to be
#          indistinguishable is not, for this name. Below the root it is a name like any.
#
#          as described: stat of the name in the root: found, 0 bytes
#          as described: mkdir of it: file exists
#          as described: in the listing: false
#          as described: stat of the name below the root: not found
. "$(dirname "$0")/lib/common.sh"
need_root
need unshare
[ -c /dev/fuse ] || untried "no /dev/fuse"

cat >main.go <<'END'
package main

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

const name = ".go-fuse-epoll-hack"

// With an argument it uses the mount: a process that uses a file system of its own may
// wait for itself.
func main() {
	if len(os.Args) > 1 {
		use(os.Args[1])
		return
	}
	source, mount := dir(), dir()
	check(os.Mkdir(filepath.Join(source, "sub"), 0o755))
	root, err := fs.NewLoopbackRoot(source)
	check(err)
	server, err := fs.Mount(mount, root, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true}})
	check(err)
	fmt.Println(mount)
	server.Wait()
}

func use(mount string) {
	tell(os.Stat(filepath.Join(mount, name)))
	err := os.Mkdir(filepath.Join(mount, name), 0o755)
	fmt.Println(errors.Is(err, iofs.ErrExist))
	entries, err := os.ReadDir(mount)
	check(err)
	fmt.Println(slices.ContainsFunc(entries, func(e iofs.DirEntry) bool { return e.Name() == name }))
	tell(os.Stat(filepath.Join(mount, "sub", name)))
}

func tell(info iofs.FileInfo, err error) {
	switch {
	case err == nil:
		fmt.Printf("found, %d bytes\n", info.Size())
	case errors.Is(err, iofs.ErrNotExist):
		fmt.Println("not found")
	default:
		fmt.Println(err)
	}
}

func dir() string {
	d, err := os.MkdirTemp("", "")
	check(err)
	return d
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build github.com/hanwen/go-fuse/v2@v2.12.1
cat >all.sh <<'END'
export TMPDIR=$PWD
./program >mount &
until [ -s mount ]; do sleep 0.1; done
timeout 20 ./program "$(cat mount)" >seen
umount "$(cat mount)"
wait
END
unshare --mount --propagation private bash all.sh
expect "stat of the name in the root" "found, 0 bytes" "$(sed -n 1p seen)"
expect "mkdir of it says that it exists" "true" "$(sed -n 2p seen)"
expect "in the listing" "false" "$(sed -n 3p seen)"
expect "stat of the name below the root" "not found" "$(sed -n 4p seen)"
