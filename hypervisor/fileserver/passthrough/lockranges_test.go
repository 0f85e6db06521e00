package passthrough

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The ranges of an owner are those that the kernel has.
func TestRangesAreTheKernels(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	random := rand.New(rand.NewPCG(1, 2))
	var ranges lockRanges
	for i := range 5000 {
		lk := unix.Flock_t{Type: int16(random.IntN(3)), Start: random.Int64N(30)}
		switch random.IntN(20) {
		case 0: // to the end
		case 1:
			lk.Start = math.MaxInt64 - random.Int64N(3)
			lk.Len = 1
		default:
			lk.Len = 1 + random.Int64N(8)
		}
		ranges = ranges.after(&lk)
		if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
			t.Fatal(err)
		}
		if want := kernelRanges(t, file); fmt.Sprint(ranges) != fmt.Sprint(want) {
			t.Fatalf("after %d, %+v: %v, the kernel has %v", i, lk, ranges, want)
		}
	}
}

// kernelRanges are those of an open file, by its file in procfs.
func kernelRanges(t *testing.T, file *os.File) (ranges lockRanges) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line) // lock: 1: OFDLCK ADVISORY WRITE -1 00:01:2 0 EOF
		if fields[0] != "lock:" {
			continue
		}
		r := lockRange{last: math.MaxInt64, kind: unix.F_RDLCK}
		if fields[4] == "WRITE" {
			r.kind = unix.F_WRLCK
		}
		_, err := fmt.Sscan(fields[7], &r.first)
		if fields[8] != "EOF" && err == nil {
			_, err = fmt.Sscan(fields[8], &r.last)
		}
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		ranges = append(ranges, r)
	}
	return ranges
}

// A guest locks as many ranges as it may, and no more until it gives some up.
func TestLockRangesAreBounded(t *testing.T) {
	const files, each = 512, maxLockRanges / 512
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	fs, err := New(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	header := fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID, Caller: fuse.Caller{Owner: fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}}}
	requests := make([]fuse.LkIn, files)
	for i := range requests {
		var out fuse.CreateOut
		create := fuse.CreateIn{InHeader: header, Flags: unix.O_RDWR, Mode: 0o600}
		if s := fs.Create(nil, &create, fmt.Sprint(i), &out); !s.Ok() {
			t.Fatal(s)
		}
		requests[i] = fuse.LkIn{InHeader: header, Fh: out.Fh, Owner: 7}
		requests[i].NodeId = out.NodeId
	}
	set := func(i int, kind uint32, first, last uint64) fuse.Status {
		requests[i].Lk = fuse.FileLock{Start: first, End: last, Typ: kind}
		return fs.SetLk(nil, &requests[i])
	}
	for i := range requests {
		for n := range uint64(each) {
			if s := set(i, unix.F_WRLCK, 3*n, 3*n+1); !s.Ok() {
				t.Fatalf("range %d of file %d: %v", n, i, s)
			}
		}
	}
	const enolck = fuse.Status(unix.ENOLCK)
	if s := set(0, unix.F_WRLCK, 1<<20, 1<<20); s != enolck {
		t.Errorf("one too many: %v", s)
	}
	if s := set(0, unix.F_RDLCK, 0, 0); s != enolck {
		t.Errorf("a part in another way: %v", s)
	}
	if s := set(0, unix.F_WRLCK, 0, 4); !s.Ok() { // two become one
		t.Errorf("what makes fewer: %v", s)
	}
	if s := set(1, unix.F_WRLCK, 1<<20, 1<<20); !s.Ok() {
		t.Errorf("in the place of that: %v", s)
	}
	if s := set(1, unix.F_UNLCK, 0, 1<<19); !s.Ok() {
		t.Errorf("unlock: %v", s)
	}
	flush := fuse.FlushIn{InHeader: requests[2].InHeader, Fh: requests[2].Fh, LockOwner: 7}
	if s := fs.Flush(nil, &flush); !s.Ok() {
		t.Error(s)
	}
	if s := set(3, unix.F_UNLCK, 0, math.MaxInt64); !s.Ok() {
		t.Errorf("unlock all: %v", s)
	}
	if want := maxLockRanges - 3*each; fs.locks.ranges != want {
		t.Errorf("%d ranges are counted, want %d", fs.locks.ranges, want)
	}
	fs.OnUnmount()
	if fs.locks.ranges != 0 {
		t.Errorf("%d ranges are counted of nobody", fs.locks.ranges)
	}
}
