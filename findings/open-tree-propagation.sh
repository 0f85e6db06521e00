#!/bin/bash
# A detached copy of a shared mount misses what is mounted until it is attached.
#
# Kernel:  Linux (seen with 6.18), golang.org/x/sys v0.36.0
# Seen:    A bind mount of a shared mount gets what is mounted below that from then on. A
#          copy that open_tree(2) makes with OPEN_TREE_CLONE is a peer of the same group,
#          as a bind mount is, and gets nothing until move_mount(2) has attached it: what
#          was mounted in between is missing for good, what comes later arrives. Nothing
#          says so; who sets attributes on a tree first and attaches it then, as
#          mount_setattr(2) has it in its example, has such a gap.
#
#          as described: mounted before the copy: bind yes, tree yes
#          as described: mounted before the tree is attached: bind yes, tree no
#          as described: mounted afterwards: bind yes, tree yes
. "$(dirname "$0")/lib/common.sh"
need_root

cat >main.go <<'END'
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	check(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")) // in a namespace of its own
	for _, dir := range []string{"source", "bind", "tree"} {
		check(os.Mkdir(dir, 0o755))
	}
	check(unix.Mount("finding", "source", "tmpfs", 0, ""))
	check(unix.Mount("", "source", "", unix.MS_SHARED, ""))
	mount("before")
	check(unix.Mount("source", "bind", "", unix.MS_BIND|unix.MS_REC, ""))
	tree, err := unix.OpenTree(unix.AT_FDCWD, "source", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	check(err)
	mount("between")
	check(unix.MoveMount(tree, "", unix.AT_FDCWD, "tree", unix.MOVE_MOUNT_F_EMPTY_PATH))
	mount("after")
	for _, name := range []string{"before", "between", "after"} {
		fmt.Printf("bind %s, tree %s\n", there("bind/"+name), there("tree/"+name))
	}
}

func mount(name string) {
	check(os.Mkdir("source/"+name, 0o755))
	check(unix.Mount("finding", "source/"+name, "tmpfs", 0, ""))
	check(os.WriteFile("source/"+name+"/file", nil, 0o644))
}

func there(dir string) string {
	if _, err := os.Stat(dir + "/file"); err != nil {
		return "no"
	}
	return "yes"
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build golang.org/x/sys@v0.36.0
timeout --foreground 60 unshare --mount ./program >seen 2>log || { tail -n 5 log >&2; untried "the program failed"; }
expect "mounted before the copy" "bind yes, tree yes" "$(sed -n 1p seen)"
expect "mounted before the tree is attached" "bind yes, tree no" "$(sed -n 2p seen)"
expect "mounted afterwards" "bind yes, tree yes" "$(sed -n 3p seen)"
