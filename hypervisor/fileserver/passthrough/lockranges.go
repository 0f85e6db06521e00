package passthrough

import (
	"math"

	"golang.org/x/sys/unix"
)

// maxLockRanges bounds the ranges that all owners of the guest have locked. The host's
// kernel has some 200 bytes for each, which it charges to nobody's control group.
const maxLockRanges = 1 << 16

// lockRange is what one owner has locked in one piece, in one way.
type lockRange struct {
	first, last int64
	kind        int16
}

// lockRanges are those of an owner, as the host's kernel has them: in their order, those
// of a kind that touch as one.
type lockRanges []lockRange

// after returns what there is once lk is set.
func (r lockRanges) after(lk *unix.Flock_t) lockRanges {
	set := lockRange{first: lk.Start, last: math.MaxInt64, kind: lk.Type}
	if lk.Len > 0 {
		set.last = lk.Start + lk.Len - 1
	}
	merged := set
	var before, behind lockRanges
	for _, old := range r {
		switch {
		case old.kind == set.kind && old.touches(set):
			merged.first, merged.last = min(merged.first, old.first), max(merged.last, old.last)
			continue
		case old.last < set.first:
			before = append(before, old)
			continue
		case old.first > set.last:
			behind = append(behind, old)
			continue
		}
		if old.first < set.first {
			before = append(before, lockRange{old.first, set.first - 1, old.kind})
		}
		if old.last > set.last {
			behind = append(behind, lockRange{set.last + 1, old.last, old.kind})
		}
	}
	if set.kind != unix.F_UNLCK {
		before = append(before, merged)
	}
	return append(before, behind...)
}

// touches tells whether there is no byte between two ranges.
func (r lockRange) touches(other lockRange) bool {
	return (r.last == math.MaxInt64 || r.last+1 >= other.first) && (other.last == math.MaxInt64 || other.last+1 >= r.first)
}

// setRange sets a lock of an owner, if there may be as many ranges as there are then.
func (l *locks) setRange(o *lockOwner, lk *unix.Flock_t) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	after := o.ranges.after(lk)
	more := len(after) - len(o.ranges)
	if more > 0 && !l.countRanges(more) {
		return unix.ENOLCK
	}
	err := fcntlLock(o.fd, unix.F_OFD_SETLK, lk)
	switch {
	case err == nil:
		o.ranges = after
		if more < 0 {
			l.countRanges(more)
		}
	case more > 0:
		l.countRanges(-more)
	}
	return err
}

// countRanges counts more ranges, or fewer, and reports whether there may be so many.
func (l *locks) countRanges(more int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if more > 0 && l.ranges+more > maxLockRanges {
		return false
	}
	l.ranges += more
	return true
}
