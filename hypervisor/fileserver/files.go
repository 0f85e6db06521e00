package fileserver

import (
	"os"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// open returns the file system of a directory and what the guest's kernel is to know
// of it.
func open(root *os.File, s settings) (fuse.RawFileSystem, fuse.MountOptions, error) {
	loop, err := fs.NewLoopbackRoot(s.Root)
	if err != nil {
		return nil, fuse.MountOptions{}, err
	}
	second := time.Second
	return fs.NewNodeFS(loop, &fs.Options{EntryTimeout: &second, AttrTimeout: &second}), fuse.MountOptions{MaxBackground: 1024}, nil
}
