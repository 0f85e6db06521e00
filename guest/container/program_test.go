package container

import "testing"

func TestHasProgram(t *testing.T) {
	for stat, want := range map[string]bool{
		"43 (runc:[2:INIT]) S 33 43 43 0 -1 4194368 570 0":  false, // PF_RANDOMIZE and PF_FORKNOEXEC
		"43 (a) S 0 0 0 0 0 64 (b) S 33 43 43 0 -1 4194304": true,
		"43 (sleep) S 33 43 43 0 -1 4194304 570 0":          true,
		"": true, "43 (sleep) Z 33": true,
	} {
		if got := hasProgram(stat); got != want {
			t.Errorf("%q: %v, want %v", stat, got, want)
		}
	}
}
