package virtcontainers

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Turns is where machines wait for each other before they boot, as turn.Line implements
// it.
type Turns interface {
	// Take waits for a turn, which ends with done. It tells how many boots are ahead each
	// time that it has to wait. An error before ctx has ended is a host where nobody waits.
	Take(ctx context.Context, waiting func(ahead int)) (done func(), err error)
}

// line is what a sandbox knows of its wait for a turn. The zero value waits for none.
type line struct {
	mu    sync.Mutex
	since time.Time // zero: it does not wait
	ahead int
}

// note begins the wait, or says how it goes on.
func (l *line) note(ahead int) (begins bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	begins = l.since.IsZero()
	if begins {
		l.since = time.Now()
	}
	l.ahead = ahead
	return begins
}

func (l *line) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = time.Time{}
}

// explain adds to the error of a caller who waits no longer that it was the turn that he
// has waited for.
func (l *line) explain(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() {
		return err
	}
	return fmt.Errorf("%w; it has waited %v for its turn to boot, behind %d others (boots_at_once)",
		err, time.Since(l.since).Round(100*time.Millisecond), l.ahead)
}

// awaitTurn waits until the machine may boot, or the sandbox ends. over lets others boot.
func (s *Sandbox) awaitTurn() (over func(), err error) {
	if s.options.Turns == nil {
		return func() {}, nil
	}
	defer s.watch.begin(StageTurn)()
	over, err = s.options.Turns.Take(s.life, func(ahead int) {
		if s.line.note(ahead) {
			s.log.Debug("the machine waits for its turn to boot", "ahead", ahead)
		}
	})
	s.line.leave()
	switch {
	case err == nil:
		return over, nil
	case s.life.Err() != nil:
		return nil, context.Cause(s.life)
	default:
		s.log.Debug("the machine boots without waiting for its turn", "reason", err)
		return func() {}, nil
	}
}
