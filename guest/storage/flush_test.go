package storage

import (
	"os"
	"path/filepath"
	"testing"
)

func TestHoldsBack(t *testing.T) {
	const clean = "nr_free_pages 9\nnr_dirty 0\nnr_writeback 0\nnr_writeback_temp 0\nnr_dirtied 7\nnr_dirty_threshold 98768\n"
	for name, test := range map[string]struct {
		counts string
		want   bool
	}{
		"nothing":            {clean, false},
		"no FUSE":            {"nr_dirty 0\nnr_writeback 0\n", false},
		"dirty":              {"nr_dirty 1\nnr_writeback 0\nnr_writeback_temp 0\n", true},
		"on the way":         {"nr_dirty 0\nnr_writeback 1\nnr_writeback_temp 0\n", true},
		"on the way by FUSE": {"nr_dirty 0\nnr_writeback 0\nnr_writeback_temp 3\n", true},
		"no such count":      {"nr_dirty 0\n", true},
		"no number":          {"nr_dirty x\nnr_writeback 0\n", true},
		"empty":              {"", true},
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			if err := os.MkdirAll(filepath.Join(proc, "sys/vm"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(proc, "vmstat"), []byte(test.counts), 0o600); err != nil {
				t.Fatal(err)
			}
			if !holdsBack(proc) {
				t.Error("without a way to add the CPUs' counts the sum is not known")
			}
			if err := os.WriteFile(filepath.Join(proc, "sys/vm/stat_refresh"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := holdsBack(proc); got != test.want {
				t.Errorf("holdsBack = %v, want %v", got, test.want)
			}
		})
	}
}
