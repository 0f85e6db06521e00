package qmp

import (
	"testing"
	"time"
)

// Events that take long to read count as many small ones.
func TestPaceOfLargeEvents(t *testing.T) {
	begin := time.Now()
	p := pace{left: eventBurst, at: begin}
	var pause time.Duration
	for range 12 {
		pause = p.take(begin, 2<<20)
	}
	if least := 2 * time.Second; pause < least {
		t.Errorf("24 MiB of events take %s", pause)
	}
	if pause := p.take(begin.Add(time.Minute), 100); pause > 0 {
		t.Errorf("one after a minute waits for %s", pause)
	}
}
