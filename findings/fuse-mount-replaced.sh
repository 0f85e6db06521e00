#!/bin/bash
# What is mounted on a file of a FUSE file system is unmounted when the server's file is
# replaced.
#
# Library: github.com/hanwen/go-fuse/v2 v2.12.1, Linux (seen with 6.18)
# Seen:    on a file and a directory of a FUSE mount others are bound, as a runtime binds
#          /etc/hosts and volumes into a container's root. Somebody on the server's side
#          replaces what is below, the file by a rename, as editors save, the directory by
#          another one of its name. The next one who looks up the path, be it with a stat,
#          makes the kernel ask the server; the answer is another node, so the entry is
#          thrown away, and what is mounted there with it: it goes in every namespace,
#          nobody is told, and the path leads to what was hidden. If the file is written
#          in place, or the directory's contents change, the mounts stay. On a local file
#          system the same rename is refused (busy) in the mounts' own namespace.
#
#          as described: mounts after a change in place: file directory
#          as described: read from the path: bound
#          as described: mounts after a replacement: none
#          as described: read from the path: replaced
#          as described: the same rename below a mount on tmpfs: refused
. "$(dirname "$0")/lib/common.sh"
need_root
need unshare mountpoint findmnt
[ -c /dev/fuse ] || untried "no /dev/fuse"

cat >main.go <<'END'
package main

import (
	"os"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Serves a directory at another one.
func main() {
	root, err := fs.NewLoopbackRoot(os.Args[1])
	check(err)
	server, err := fs.Mount(os.Args[2], root, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true}})
	check(err)
	server.Wait()
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build github.com/hanwen/go-fuse/v2@v2.12.1

cat >all.sh <<'END'
mounts() {
	sleep 2 # whatever is cached of an entry is stale then
	for name in file directory; do
		stat "mount/$name" >/dev/null
		mountpoint -q "mount/$name" && echo "$name"
	done | paste -sd ' ' | sed 's/^$/none/'
}
mkdir source source/directory mount bound
echo below >source/file
echo bound >bound/file
./program source mount &
for _ in $(seq 100); do
	mountpoint -q mount && break
	sleep 0.1
done
mount --bind bound/file mount/file
mount --bind bound mount/directory
echo changed >>source/file
touch source/directory/new
mounts
cat mount/file
echo replaced >source/.new
mv source/.new source/file
rm -r source/directory
mkdir source/directory
mounts
cat mount/file
umount --lazy mount
wait

mkdir local view
mount -t tmpfs tmpfs local
mount --bind local view
touch local/file local/.new
mount --bind bound/file view/file
mv local/.new local/file 2>/dev/null && echo done || echo refused
END
timeout --foreground 60 unshare --mount --propagation private bash all.sh >seen 2>log || { cat log >&2; untried "the program failed"; }
expect "mounts after a change in place" "file directory" "$(sed -n 1p seen)"
expect "read from the path" bound "$(sed -n 2p seen)"
expect "mounts after a replacement" none "$(sed -n 3p seen)"
expect "read from the path" replaced "$(sed -n 4p seen)"
expect "the same rename below a mount on tmpfs" refused "$(sed -n 5p seen)"
