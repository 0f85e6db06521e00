package pool

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

// Counters tell, since the pool was made, what became of pods and machines, by front
// end.
type Counters map[Kind]*Counts

// Counts are those of one front end.
type Counts struct {
	// Hits are the pods that have taken a machine, Misses those that started cold.
	Hits   int            `json:"hits"`
	Misses map[Reason]int `json:"misses"`
	// Prepared are the machines that were ready; Discarded those that no pod has taken.
	// Restored are the machines, and pods without one, that began as a copy of a saved
	// machine; Booted those that did not, though they were to.
	Restored int            `json:"restored,omitempty"`
	Booted   map[Reason]int `json:"booted,omitempty"`
	// LastTemplateFailure is why a machine could last not be saved, or restored.
	LastTemplateFailure   string    `json:"lastTemplateFailure,omitempty"`
	LastTemplateFailureAt time.Time `json:"lastTemplateFailureAt,omitzero"`

	Prepared  int            `json:"prepared"`
	Discarded map[Reason]int `json:"discarded"`
	// Failures are the machines that did not boot, LastFailure why the last did not.
	Failures      int       `json:"failures"`
	LastFailure   string    `json:"lastFailure,omitempty"`
	LastFailureAt time.Time `json:"lastFailureAt,omitzero"`
}

// of finds the counts of a front end, which may be none yet.
func (c Counters) of(kind Kind) *Counts {
	counts := c[kind]
	if counts == nil {
		counts = &Counts{}
		c[kind] = counts
	}
	if counts.Misses == nil {
		counts.Misses = make(map[Reason]int)
	}
	if counts.Booted == nil {
		counts.Booted = make(map[Reason]int)
	}
	if counts.Discarded == nil {
		counts.Discarded = make(map[Reason]int)
	}
	return counts
}

// Counters reads the counters; of a pool that is not there they are empty.
func (p *Pool) Counters() (Counters, error) {
	counters := make(Counters)
	err := readJSON(p.path(countersName), &counters)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return counters, err
}

// Hit counts a pod that has taken a machine.
func (p *Pool) Hit(ctx context.Context, kind Kind) error {
	return p.count(ctx, kind, func(c *Counts) { c.Hits++ })
}

// Miss counts a pod that starts cold.
func (p *Pool) Miss(ctx context.Context, kind Kind, reason Reason) error {
	return p.count(ctx, kind, func(c *Counts) { c.Misses[reason]++ })
}

// Prepared counts a machine that is ready.
func (p *Pool) Prepared(ctx context.Context, kind Kind) error {
	return p.count(ctx, kind, func(c *Counts) { c.Prepared++ })
}

// Restored counts a machine that began as a copy of a saved one.
func (p *Pool) Restored(ctx context.Context, kind Kind) error {
	return p.count(ctx, kind, func(c *Counts) { c.Restored++ })
}

// Booted counts a machine that was to be a copy, and was not.
func (p *Pool) Booted(ctx context.Context, kind Kind, reason Reason) error {
	return p.count(ctx, kind, func(c *Counts) { c.Booted[reason]++ })
}

// TemplateFailed notes why a machine could not be saved, or restored.
func (p *Pool) TemplateFailed(ctx context.Context, kind Kind, cause error) error {
	return p.count(ctx, kind, func(c *Counts) {
		c.LastTemplateFailure, c.LastTemplateFailureAt = cause.Error(), time.Now().UTC()
	})
}

// Discarded counts a machine that no pod has taken.
func (p *Pool) Discarded(ctx context.Context, kind Kind, reason Reason) error {
	return p.count(ctx, kind, func(c *Counts) { c.Discarded[reason]++ })
}

// Failed counts a machine that did not boot.
func (p *Pool) Failed(ctx context.Context, kind Kind, cause error) error {
	return p.count(ctx, kind, func(c *Counts) {
		c.Failures++
		c.LastFailure, c.LastFailureAt = cause.Error(), time.Now().UTC()
	})
}

func (p *Pool) count(ctx context.Context, kind Kind, change func(*Counts)) error {
	if err := p.prepare(); err != nil {
		return err
	}
	lock, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	return p.change(func(c *Counters) { change(c.of(kind)) })
}

// change changes the counters. The pool is locked. Counters that cannot be read begin
// anew.
func (p *Pool) change(change func(*Counters)) error {
	counters, err := p.Counters()
	if err != nil {
		counters = make(Counters)
	}
	change(&counters)
	return writeJSON(p.path(countersName), counters)
}
