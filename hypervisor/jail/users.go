package jail

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// DefaultDir is where all runtimes of a host keep what they share: who has which
// user, and what programs need.
const DefaultDir = "/run/kata-jail"

// ErrNoUser says that each user of a range is taken.
var ErrNoUser = errors.New("every user id of the range is taken")

// Range is a range of user ids, which are group ids too.
type Range struct {
	First, Last int
}

// User is a user id that nobody else has who claims it in the same directory.
type User struct {
	ID   int
	file *os.File
}

// Claim takes a user id of a range until Release, or the end of this process,
// also a violent one. dir is a directory of root's alone.
//
// The claim is a lock on the byte of a file that the id counts to. The kernel
// keeps it with the open file, so that nothing has to be found again and cleaned
// up after whoever was killed. The search starts anywhere in the range: the id of
// a process that is still dying is not the next to be taken.
func Claim(dir string, ids Range) (*User, error) {
	if ids.First < 1 || ids.Last < ids.First {
		return nil, fmt.Errorf("claim a user of %d-%d: %w", ids.First, ids.Last, unix.EINVAL)
	}
	if err := ownDirectory(dir); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, "users"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claim a user: %w", err)
	}
	count := ids.Last - ids.First + 1
	start := rand.IntN(count) //nolint:gosec // spreads claims, and hides nothing
	for i := range count {
		id := ids.First + (start+i)%count
		lock := unix.Flock_t{Type: unix.F_WRLCK, Start: int64(id), Len: 1}
		err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &lock)
		if err == nil {
			return &User{ID: id, file: file}, nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return nil, errors.Join(fmt.Errorf("claim user %d: %w", id, err), file.Close())
		}
	}
	return nil, errors.Join(fmt.Errorf("claim a user of %d-%d: %w", ids.First, ids.Last, ErrNoUser), file.Close())
}

// Release gives the user back, once no process of it is left. Idempotent; a nil
// User is none.
func (u *User) Release() {
	if u != nil {
		_ = u.file.Close()
	}
}
