package tsc

import (
	"math"
	"runtime"
	"testing"
)

// Linux keeps the frequency that it was told if that is within 1 % of what it finds out
// later.
func TestFrequencyRepeats(t *testing.T) {
	t.Parallel()
	if runtime.GOARCH != "amd64" {
		if got := Frequency(); got != 0 {
			t.Fatalf("a machine without the counter has one of %d kHz", got)
		}
		return
	}
	var measured []int
	for range 200 {
		if kHz := Frequency(); kHz != 0 {
			measured = append(measured, kHz)
		}
		if len(measured) == 5 {
			break
		}
	}
	if len(measured) < 5 {
		t.Fatalf("of 200 measurements, %d worked", len(measured))
	}
	for _, kHz := range measured {
		if math.Abs(float64(kHz-measured[0])) > float64(measured[0])/200 {
			t.Fatalf("frequencies %v kHz differ by more than 0.5 %%", measured)
		}
	}
}
