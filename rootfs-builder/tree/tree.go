// Package tree puts together the files of a disk image from tar archives, such as the
// layers of an OCI image, each on top of those before it.
//
// Everything is root's in it. Of modes, the permissions and the sticky bit are kept,
// and root can read every file; set-user-id bits, extended attributes, times and
// device nodes are not: the guest's own file system has no other users than root, and
// nothing in it is to give anyone more rights.
package tree

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxLinks bounds the symbolic links on the way to a file, as the kernel does.
	maxLinks = 40
	// Whiteouts of OCI's layers.
	whiteoutPrefix = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

// Tree is a file system's content. Contents of files are kept in a temporary file.
type Tree struct {
	root  *Node
	spool *os.File
	size  int64 // of the spool
	layer int   // number of the layer that is being added
}

// Node is a file, which may have several names.
type Node struct {
	// Mode is the type (directory, symbolic link or regular file) and permissions.
	Mode fs.FileMode
	// Target is a symbolic link's.
	Target string
	// Size and SHA256 are those of a regular file's content.
	Size   int64
	SHA256 [sha256.Size]byte

	offset   int64 // in the spool
	parent   *Node // a directory's; the root's is the root
	children map[string]*Node
	layer    int
}

// New returns a tree with nothing but its root, which keeps its files in dir.
func New(dir string) (*Tree, error) {
	spool, err := os.CreateTemp(dir, "contents.*")
	if err != nil {
		return nil, fmt.Errorf("make a file for the contents of the image: %w", err)
	}
	root := newDirectory(nil, 0)
	root.parent = root
	return &Tree{root: root, spool: spool}, nil
}

// Close removes the temporary file.
func (t *Tree) Close() error {
	if err := errors.Join(t.spool.Close(), os.Remove(t.spool.Name())); err != nil {
		return fmt.Errorf("remove the contents of the image: %w", err)
	}
	return nil
}

func newDirectory(parent *Node, layer int) *Node {
	return &Node{Mode: fs.ModeDir | 0o755, parent: parent, children: make(map[string]*Node), layer: layer}
}

// Layer is how an archive is added.
type Layer struct {
	// Name says in errors what is read.
	Name string
	// Whiteouts: names that begin with ".wh." remove what layers below have (OCI image
	// specification, "Representing Changes").
	Whiteouts bool
}

// Add puts the files of a tar archive, which may be compressed by gzip or zstd, on top of those that are there. A directory in
// the place of a symbolic link to one leaves the link: a system whose /bin is a link
// keeps it.
func (t *Tree) Add(archive io.Reader, layer Layer) error {
	t.layer++
	plain, done, err := decompress(archive)
	if err != nil {
		return fmt.Errorf("read %s: %w", layer.Name, err)
	}
	defer done()
	files := tar.NewReader(plain)
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", layer.Name, err)
		}
		if err := t.add(header, files, layer.Whiteouts); err != nil {
			return fmt.Errorf("add %s of %s: %w", header.Name, layer.Name, err)
		}
	}
}

// decompress finds out what an archive is by its first bytes.
func decompress(archive io.Reader) (plain io.Reader, done func(), err error) {
	buffered := bufio.NewReader(archive)
	magic, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		plain, err = gzip.NewReader(buffered)
		return plain, func() {}, err
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		decoder, err := zstd.NewReader(buffered)
		if err != nil {
			return nil, nil, err
		}
		return decoder, decoder.Close, nil
	default:
		return buffered, func() {}, nil
	}
}

func (t *Tree) add(header *tar.Header, content io.Reader, whiteouts bool) error {
	name := path.Clean("/" + header.Name)
	if name == "/" {
		return nil // what it may be is settled
	}
	parent, err := t.parent(name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	if removed, ok := strings.CutPrefix(base, whiteoutPrefix); ok && whiteouts {
		if base == opaqueWhiteout {
			t.prune(parent)
		} else {
			t.remove(parent, removed)
		}
		return nil
	}
	switch header.Typeflag {
	case tar.TypeReg:
		return t.file(parent, base, header, content)
	case tar.TypeDir:
		return t.directory(parent, base, header)
	case tar.TypeSymlink:
		parent.children[base] = &Node{Mode: fs.ModeSymlink | 0o777, Target: header.Linkname, layer: t.layer}
		return nil
	case tar.TypeLink:
		return t.link(parent, base, path.Clean("/"+header.Linkname))
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo, tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("file of the unknown type %q", header.Typeflag)
	}
}

func (t *Tree) file(parent *Node, base string, header *tar.Header, content io.Reader) error {
	node := &Node{Mode: permissions(header) | 0o400, offset: t.size, layer: t.layer}
	hash := sha256.New()
	size, err := io.Copy(io.MultiWriter(io.NewOffsetWriter(t.spool, t.size), hash), content)
	if err != nil {
		return err
	}
	node.Size = size
	t.size += size
	hash.Sum(node.SHA256[:0])
	parent.children[base] = node
	return nil
}

// link gives a file another name.
func (t *Tree) link(parent *Node, base, target string) error {
	directory, err := t.parent(target)
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", target, err)
	}
	linked := directory.children[path.Base(target)]
	if linked == nil {
		return fmt.Errorf("hard link to %s: %w", target, fs.ErrNotExist)
	}
	if linked.Mode.IsDir() {
		return fmt.Errorf("hard link to %s: it is a directory", target)
	}
	parent.children[base] = linked
	return nil
}

func (t *Tree) directory(parent *Node, base string, header *tar.Header) error {
	existing := parent.children[base]
	if existing != nil && existing.Mode&fs.ModeSymlink != 0 {
		if target, err := t.resolve(parent, base, 0); err == nil && target.Mode.IsDir() {
			return nil
		}
	}
	if existing == nil || !existing.Mode.IsDir() {
		existing = newDirectory(parent, t.layer)
		parent.children[base] = existing
	}
	existing.Mode, existing.layer = fs.ModeDir|permissions(header)|0o500, t.layer
	return nil
}

func permissions(header *tar.Header) fs.FileMode {
	return header.FileInfo().Mode() & (fs.ModePerm | fs.ModeSticky)
}

// remove deletes what layers below have of that name.
func (t *Tree) remove(parent *Node, name string) {
	child := parent.children[name]
	if child == nil {
		return
	}
	if child.Mode.IsDir() {
		t.prune(child)
	}
	if child.layer < t.layer && len(child.children) == 0 {
		delete(parent.children, name)
	}
}

// prune deletes what layers below have in a directory.
func (t *Tree) prune(directory *Node) {
	for name := range directory.children {
		t.remove(directory, name)
	}
}

var (
	errNotDirectory = errors.New("not a directory")
	errTooManyLinks = errors.New("too many symbolic links")
)

// resolve returns what a path leads to from a directory, symbolic links followed.
func (t *Tree) resolve(at *Node, name string, links int) (*Node, error) {
	return t.walk(at, name, false, &links)
}

// walk is resolve; it makes the directories that are missing if it is to.
func (t *Tree) walk(at *Node, name string, create bool, links *int) (*Node, error) {
	if path.IsAbs(name) {
		at = t.root
	}
	for element := range strings.SplitSeq(name, "/") {
		if !at.Mode.IsDir() {
			return nil, errNotDirectory
		}
		child := at.children[element]
		switch {
		case element == "" || element == ".":
			continue
		case element == "..":
			child = at.parent
		case child == nil && !create:
			return nil, fs.ErrNotExist
		case child == nil:
			child = newDirectory(at, t.layer)
			at.children[element] = child
		case child.Mode&fs.ModeSymlink != 0:
			if *links++; *links > maxLinks {
				return nil, errTooManyLinks
			}
			var err error
			if child, err = t.walk(at, child.Target, create, links); err != nil {
				return nil, fmt.Errorf("symbolic link %s: %w", element, err)
			}
		}
		at = child
	}
	return at, nil
}

// parent returns the directory that a cleaned path is in.
func (t *Tree) parent(name string) (*Node, error) {
	directory, err := t.walk(t.root, path.Dir(name), true, new(int))
	if err != nil {
		return nil, err
	}
	if !directory.Mode.IsDir() {
		return nil, errNotDirectory
	}
	return directory, nil
}

// Open returns the content of a regular file of the tree, which has one until Close.
func (t *Tree) Open(file *Node) *io.SectionReader {
	return io.NewSectionReader(t.spool, file.offset, file.Size)
}

// Read returns the content of the regular file at a path, symbolic links followed. The
// error wraps fs.ErrNotExist if there is none.
func (t *Tree) Read(name string) ([]byte, error) {
	file, err := t.resolve(t.root, name, 0)
	if err == nil && !file.Mode.IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of the image: %w", name, err)
	}
	return io.ReadAll(t.Open(file))
}

// Size is that of all files' contents, at most.
func (t *Tree) Size() int64 { return t.size }

// Walk calls visit with every file but the root, by its absolute path: directories
// before what is in them, names in order. first is the path of a file that was visited
// before under another name, and empty otherwise.
func (t *Tree) Walk(visit func(name string, file *Node, first string) error) error {
	return walk(t.root, "/", make(map[*Node]string), visit)
}

func walk(directory *Node, at string, seen map[*Node]string, visit func(string, *Node, string) error) error {
	for _, base := range slices.Sorted(maps.Keys(directory.children)) {
		name, file := path.Join(at, base), directory.children[base]
		if err := visit(name, file, seen[file]); err != nil {
			return err
		}
		seen[file] = cmp.Or(seen[file], name)
		if file.Mode.IsDir() {
			if err := walk(file, name, seen, visit); err != nil {
				return err
			}
		}
	}
	return nil
}
