package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMedian(t *testing.T) {
	middle, low, high := median([]float64{9, 1, 4, 2, 8})
	if middle != 4 || low != 1 || high != 9 {
		t.Errorf("median %v, low %v, high %v; want 4, 1, 9", middle, low, high)
	}
}

func TestOptionValuesOfABareMachine(t *testing.T) {
	line := []string{"qemu", "-machine", "q35,memory-backend=ram,accel=tcg", "-device", "x", "-m", "size=64M", "-device", "y", "-append"}
	var got []string
	for _, option := range []string{"-machine", "-m", "-device", "-append", "-cpu"} {
		for _, value := range optionValues(line, option) {
			got = append(got, bareValue(option, value))
		}
	}
	if diff := cmp.Diff([]string{"q35,accel=tcg", "size=64M", "x", "y"}, got); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
}

func TestReadStagesPassesOverOtherLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	text := `{"level":"debug","msg":"agent","rss_bytes":1048576}
{"level":"debug","msg":"stage","name":"boot kernel","begin_ms":1.5,"duration_ms":20}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	stages, err := readStages(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []stage{{Msg: "stage", Name: "boot kernel", Begin: 1.5, Duration: 20}}
	if diff := cmp.Diff(want, stages); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
	if resident, ok := agentResident(path); !ok || resident != 1 {
		t.Errorf("the agent's memory is %v, %v; want 1 MiB", resident, ok)
	}
}

func TestReadTakesTheContainersTimes(t *testing.T) {
	rate, err := read(exec.Command("echo", "10.50 12.50"))
	if want := volumeMiB / 2.0; err != nil || rate != want {
		t.Errorf("%v MiB/s, %v; want %v", rate, err, want)
	}
	if _, err := read(exec.Command("echo", "10.50")); err == nil {
		t.Error("one time alone is taken")
	}
}
