package jail

import "testing"

func TestIsInitialMap(t *testing.T) {
	for text, want := range map[string]bool{
		"         0          0 4294967295\n": true,
		"         0       1000          1\n": false,
		"0 0 65536\n":                        false,
		"":                                   false,
		"0 100000 65536\n65536 0 1\n":        false,
	} {
		if isInitialMap([]byte(text)) != want {
			t.Errorf("%q: want %v", text, want)
		}
	}
}

// However large the host's limits are, what serves a guest has a bound that leaves most
// to others.
func TestFileLimit(t *testing.T) {
	limit, err := FileLimit(200_000)
	all, ok := parameter("/proc/sys/fs/file-max")
	if err != nil || !ok || limit == 0 || limit > 200_000 || limit > all/10 {
		t.Errorf("%d of %d, %v", limit, all, err)
	}
}
