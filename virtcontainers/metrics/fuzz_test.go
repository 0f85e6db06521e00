package metrics

import (
	"math"
	"testing"

	"kata-runtime/guest/protocol"
)

// FuzzStat: a process has the name that it likes.
func FuzzStat(f *testing.F) {
	f.Add([]byte("7 (a) b) S 1 1 1 0 -1 4194560 1 0 0 0 5 6 7 8 20 0 3 0 12345 0 0"))
	f.Add([]byte(")"))
	f.Fuzz(func(_ *testing.T, data []byte) { parseStat(data) })
}

// FuzzCredible: of what a guest says of itself, what is left is numbers of figures that
// there are, each once.
func FuzzCredible(f *testing.F) {
	f.Add(int32(1), 0.5, int32(1), math.Inf(1))
	f.Add(int32(-1), -1.0, int32(1<<30), math.NaN())
	f.Fuzz(func(t *testing.T, first int32, one float64, second int32, two float64) {
		known := make(map[protocol.Figure]figure)
		for _, figure := range guestFigures() {
			known[figure.of] = figure
		}
		kept := credible([]*protocol.Measurement{
			{Figure: protocol.Figure(first), Value: one}, {Figure: protocol.Figure(second), Value: two}, nil, {},
		}, known)
		seen := make(map[protocol.Figure]bool)
		for _, m := range kept {
			if _, ok := known[m.GetFigure()]; !ok || seen[m.GetFigure()] || !(m.GetValue() >= 0) || math.IsInf(m.GetValue(), 0) {
				t.Errorf("%v", m)
			}
			seen[m.GetFigure()] = true
		}
	})
}
