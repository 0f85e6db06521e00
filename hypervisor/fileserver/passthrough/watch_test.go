package passthrough_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/fileserver/passthrough"
	"kata-runtime/internal/fsevents"
)

// listener is a guest whose agent reads events.
type listener struct {
	*guest
	mark fsevents.Mark
	told chan []fsevents.Event
}

// listen serves a directory that has volume, and reads its file of events.
func listen(t *testing.T, most int) *listener {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "volume"), 0o755); err != nil {
		t.Fatal(err)
	}
	return listenIn(t, dir, most)
}

func listenIn(t *testing.T, dir string, most int) *listener {
	t.Helper()
	cache := passthrough.Shared()
	cache.Watch = true
	l := &listener{guest: serveDir(t, dir, passthrough.Options{Cache: cache, Watch: true, MaxWatches: most}), told: make(chan []fsevents.Event)}
	l.open()
	return l
}

// open opens the file of events, and takes what it first tells.
func (l *listener) open() {
	l.t.Helper()
	out, s := l.tryLookup(fuse.FUSE_ROOT_ID, fsevents.FileName)
	if !s.Ok() {
		l.t.Skip("root's alone: run as root")
	}
	fh := l.guest.open(out.NodeId, unix.O_RDONLY)
	if !l.fs.IsEvents(fh) {
		l.t.Fatalf("file handle %#x is not that of events", fh)
	}
	first := l.next()
	if len(first) != 1 || first[0].Kind != fsevents.Marked {
		l.t.Fatalf("first the guest is told %+v", first)
	}
	l.mark = first[0].Mark
}

// next waits for what is told.
func (l *listener) next() []fsevents.Event {
	l.t.Helper()
	text, s := l.fs.ReadEvents(fsevents.ReadSize)
	if !s.Ok() {
		l.t.Fatalf("read events: %v", s)
	}
	events, err := fsevents.Parse(text)
	if err != nil {
		l.t.Fatal(err)
	}
	return events
}

// await waits until something is told, and returns its place.
func (l *listener) await(kind fsevents.Kind) int {
	l.t.Helper()
	for {
		if i := slices.IndexFunc(l.next(), func(e fsevents.Event) bool { return e.Kind == kind }); i >= 0 {
			return i
		}
	}
}

// marked is a header of a request that repeats the n-th event.
func (l *listener) marked(id uint64, n int) fuse.InHeader {
	return fuse.InHeader{NodeId: id, Caller: fuse.Caller{Owner: fuse.Owner{Uid: l.mark.UID, Gid: l.mark.Group(n)}}}
}

// Only so many directories are watched: the ones that the guest came to know last.
func TestWatchesOfAGuestAreBounded(t *testing.T) {
	l := listen(t, 4)
	for n := range 10 {
		l.mkdir(l.lookup("volume"), fmt.Sprint("d", n))
	}
	if n := len(l.watched()); n != 4 {
		t.Errorf("%d directories are watched, want 4", n)
	}
	l.file("volume/d0/unseen", "")
	l.file("volume/d9/seen", "")
	for _, e := range l.next() {
		if e.Directory != "volume/d9" || e.Name != "seen" {
			t.Errorf("the guest is told %+v", e)
		}
	}
}

// What the guest forgets is not watched any more.
func TestForgottenDirectoriesAreNotWatched(t *testing.T) {
	l := listen(t, 0)
	id := l.lookup("volume")
	if n := len(l.watched()); n != 1 {
		t.Fatalf("%d directories are watched, want 1", n)
	}
	l.fs.Forget(id, 1)
	if err := os.Mkdir(filepath.Join(l.dir, "other"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.lookup("other")
	if n := len(l.watched()); n != 1 {
		t.Errorf("%d directories are watched, want 1", n)
	}
}

// A guest that is slow to repeat what it is told is told so much of it, and not all at once.
func TestEventsThatWaitAreTold(t *testing.T) {
	l := listen(t, 0)
	l.lookup("volume")
	const many = 6000
	names := [2]string{l.dir + "/volume/a", l.dir + "/volume/b"}
	l.file("volume/a", "")
	for n := range many {
		if err := os.Rename(names[n%2], names[(n+1)%2]); err != nil {
			t.Fatal(err)
		}
	}
	const waiting = 4096             // at most; more where those before were read sooner
	for told := 0; told < waiting; { // the test's own timeout is the judge
		events := l.next()
		told += len(events)
		if len(events) > fsevents.MaxEvents {
			t.Fatalf("%d events are told at once", len(events))
		}
	}
}

// Events that one answer has no room for come with the next: none is lost, and their order
// is the same.
func TestEventsWithLongPaths(t *testing.T) {
	l := listen(t, 0)
	id, dir := l.lookup("volume"), filepath.Join(l.dir, "volume")
	for range 3 {
		name := strings.Repeat("d", 200)
		var status fuse.Status
		if id, status = l.mkdir(id, name); !status.Ok() {
			t.Fatal(status)
		}
		dir = filepath.Join(dir, name)
	}
	const many = 200 // each of 800 bytes and more, and 64 KiB are an answer
	for n := range many {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprint("made", n)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for told := 0; told < many; {
		for _, e := range l.next() {
			if want := fmt.Sprint("made", told); e.Kind != fsevents.Created || e.Name != want {
				t.Fatalf("the guest is told %d of %.20q, want that %q is made", e.Kind, e.Name, want)
			}
			told++
		}
	}
}

// What has moved and is gone before the guest repeats that is not what it replaces there:
// Linux renames nothing to itself, and tells nobody.
func TestMovedAndGone(t *testing.T) {
	l := listen(t, 0)
	volume := l.lookup("volume")
	for _, from := range []string{"elsewhere", "volume/from"} {
		l.file(from, "content")
		to := filepath.Join(l.dir, "volume", "to")
		if err := os.Rename(filepath.Join(l.dir, from), to); err != nil {
			t.Fatal(err)
		}
		moved := l.await(fsevents.Moved)
		in := l.marked(volume, moved)
		var limbo, source, target fuse.EntryOut
		directory, name := volume, "from"
		if from == "elsewhere" {
			if s := l.fs.Lookup(nil, &in, fsevents.Limbo, &limbo); !s.Ok() {
				t.Fatal(s)
			}
			directory, name = limbo.NodeId, "to"
		}
		in = l.marked(directory, moved)
		if s := l.fs.Lookup(nil, &in, name, &source); !s.Ok() {
			t.Fatalf("%s: what has moved: %v", from, s)
		}
		if err := os.Remove(to); err != nil {
			t.Fatal(err)
		}
		in = l.marked(volume, moved)
		if s := l.fs.Lookup(nil, &in, "to", &target); s.Ok() && target.NodeId == source.NodeId {
			t.Errorf("%s: the file is what it replaces", from)
		}
		l.await(fsevents.Deleted)
	}
}

// Whoever has the mark changes nothing by it, and reaches nothing.
func TestForgedMarksDoNothing(t *testing.T) {
	l := listen(t, 0)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	volume := l.lookup("volume")
	l.file("volume/kept", "content")
	told := l.next()
	kept := l.lookup("volume/kept")
	before := snapshot(t, l.dir)
	names := []string{"kept", "new", "..", ".", "", "a/b", "../" + filepath.Base(l.dir), secret, fsevents.Limbo, strings.Repeat("x", 300)}
	for n := range len(told) + 2 {
		for _, name := range names {
			for _, id := range []uint64{fuse.FUSE_ROOT_ID, volume, kept, 12345, ^uint64(0)} {
				in := l.marked(id, n)
				var entry fuse.EntryOut
				var attr fuse.AttrOut
				if s := l.fs.Lookup(nil, &in, name, &entry); s.Ok() && name != "kept" && name != fsevents.Limbo && name != "new" {
					t.Errorf("a marked lookup of %q in %d finds %+v", name, id, entry)
				}
				l.fs.Unlink(nil, &in, name)
				l.fs.Rmdir(nil, &in, name)
				l.fs.Mkdir(nil, &fuse.MkdirIn{InHeader: in, Mode: 0o755}, name, &entry)
				l.fs.Mknod(nil, &fuse.MknodIn{InHeader: in, Mode: unix.S_IFREG | 0o755}, name, &entry)
				l.fs.Symlink(nil, &in, secret, name, &entry)
				l.fs.Link(nil, &fuse.LinkIn{InHeader: in, Oldnodeid: kept}, name, &entry)
				l.fs.Rename(nil, &fuse.RenameIn{InHeader: in, Newdir: volume}, "kept", name)
				l.fs.Rename(nil, &fuse.RenameIn{InHeader: in, Newdir: id}, name, "new")
				set := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{
					InHeader: in, Valid: fuse.FATTR_SIZE | fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_MTIME, Mtime: 5,
				}}
				l.fs.SetAttr(nil, &set, &attr)
				var create fuse.CreateOut
				if s := l.fs.Create(nil, &fuse.CreateIn{InHeader: in, Flags: unix.O_RDWR, Mode: 0o644}, name, &create); s.Ok() {
					t.Errorf("a marked create of %q in %d succeeds", name, id)
				}
				var open fuse.OpenOut
				if s := l.fs.Open(nil, &fuse.OpenIn{InHeader: in, Flags: unix.O_RDWR | unix.O_TRUNC}, &open); s.Ok() {
					write := fuse.WriteIn{InHeader: in, Fh: open.Fh, Size: 1}
					if _, s := l.fs.Write(nil, &write, []byte("x")); s.Ok() {
						t.Error("what a marked request has opened can be written")
					}
				}
			}
		}
	}
	if after := snapshot(t, l.dir); after != before {
		t.Errorf("marked requests have changed\n%s\nto\n%s", before, after)
	}
}

// Who repeats a change while another takes its place, or as the guest starts again, does
// nothing to the files.
func TestFormerMarksDoNothing(t *testing.T) {
	l := listen(t, 0)
	volume := l.lookup("volume")
	l.file("volume/kept", "content")
	before := snapshot(t, l.dir)
	for _, replace := range []func(){l.open, l.fs.OnUnmount} {
		old := l.marked(volume, 0)
		replace()
		if s := l.fs.Unlink(nil, &old, "kept"); !s.Ok() {
			t.Error(s)
		}
		var entry fuse.EntryOut
		l.fs.Mkdir(nil, &fuse.MkdirIn{InHeader: old, Mode: 0o755}, "made", &entry)
		volume = l.lookup("volume")
	}
	if after := snapshot(t, l.dir); after != before {
		t.Errorf("requests with a former mark have changed\n%s\nto\n%s", before, after)
	}
}

// snapshot describes all files.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintln(&text, path, st.Mode, st.Nlink, st.Uid, st.Gid, st.Size, st.Mtim, st.Ctim)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// Nobody but root finds the file of events, and each who opens it has another mark.
func TestFileOfEventsIsOnes(t *testing.T) {
	l := listen(t, 0)
	in := header(fuse.FUSE_ROOT_ID)
	in.Uid = 1000
	var out fuse.EntryOut
	l.want("lookup as somebody", l.fs.Lookup(nil, &in, fsevents.FileName, &out), unix.ENOENT)
	old := l.mark
	l.open()
	if old == l.mark {
		t.Error("two readers have the same mark")
	}
}

// What is about to be watched is not another file whose descriptor has taken the place of
// its own.
func TestWatchesAreOfTheFileThatWasLookedUp(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"volume", "other"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cache := passthrough.Shared()
	cache.Watch = true
	l := &listener{guest: serveDir(t, dir, passthrough.Options{Cache: cache, Watch: true, MaxNodeDescriptors: 2})}
	l.open()
	const files = 20
	for i := range files {
		l.file(fmt.Sprint(i), "")
	}
	resume := l.fs.StallEvents()
	done := make(chan fuse.Status, 1)
	go func() {
		_, s := l.tryLookup(fuse.FUSE_ROOT_ID, "volume")
		done <- s
	}()
	waitFor(t, "the directory to be watched next", func() bool {
		stacks := make([]byte, 1<<20)
		return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("(*watcher).add"))
	})
	for i := range files {
		l.lookup(fmt.Sprint(i))
	}
	for range files {
		other, err := os.Open(filepath.Join(dir, "other"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = other.Close() })
	}
	resume()
	l.want("lookup", <-done, 0)
	l.file("other/file", "")
	l.file("volume/file", "")
	for _, e := range l.next() {
		if e.Directory != "volume" || e.Name != "file" {
			t.Errorf("the guest is told %+v", e)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "volume"), &st); err != nil {
		t.Fatal(err)
	}
	if got, want := l.watched(), []string{fmt.Sprintf("%x", st.Ino)}; !slices.Equal(got, want) {
		t.Errorf("inodes %v are watched, want %v", got, want)
	}
}

// watched are the inodes, in hexadecimal, that this process watches.
func (l *listener) watched() (inodes []string) {
	l.t.Helper()
	list, err := os.ReadDir("/proc/self/fdinfo")
	if err != nil {
		l.t.Fatal(err)
	}
	for _, e := range list {
		text, _ := os.ReadFile("/proc/self/fdinfo/" + e.Name()) // or it is closed
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "inotify wd:"); ok {
				_, inode, _ := strings.Cut(rest, "ino:")
				inode, _, _ = strings.Cut(inode, " ")
				inodes = append(inodes, inode)
			}
		}
	}
	return inodes
}
