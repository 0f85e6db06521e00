package pod

import (
	"slices"
	"testing"
)

// Every pair of states: those of the drawing follow, the others are refused.
func TestStates(t *testing.T) {
	all := []state{reserving, reserved, creating, live, ended, leaving, gone}
	drawn := map[state][]state{
		reserving: {reserved, leaving},
		reserved:  {creating, leaving},
		creating:  {live, leaving},
		live:      {ended},
		ended:     {leaving},
		leaving:   {gone},
	}
	for _, from := range all {
		for _, to := range all {
			c := &Container{state: from}
			want := slices.Contains(drawn[from], to)
			if got := c.move(to); got != want {
				t.Errorf("from %v to %v: %v, want %v", from, to, got, want)
			}
			if moved := c.state == to; from != to && moved != want {
				t.Errorf("from %v to %v: it is %v now", from, to, c.state)
			}
		}
	}
}
