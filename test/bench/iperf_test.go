package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLibrariesOfAProgram(t *testing.T) {
	got := libraries(`	linux-vdso.so.1 (0x00007f0616aa2000)
	libiperf.so.0 => /lib/x86_64-linux-gnu/libiperf.so.0 (0x00007f0616a5b000)
	/lib64/ld-linux-x86-64.so.2 (0x00007f0616aa4000)
`)
	want := []string{"/lib/x86_64-linux-gnu/libiperf.so.0", "/lib64/ld-linux-x86-64.so.2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
}

func TestRecordsHaveEachDirectoryOnceAndFirst(t *testing.T) {
	var got []string
	for _, record := range records([]fileCopy{{path: "/usr/bin/x"}, {path: "/usr/lib/y"}, {path: "/bin/z"}}) {
		got = append(got, record.Name)
	}
	want := []string{"usr", "usr/bin", "usr/bin/x", "usr/lib", "usr/lib/y", "bin", "bin/z"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
}

func TestPingTimesAreThoseOfAnswers(t *testing.T) {
	got, err := pingTimes(`PING 10.81.0.2 (10.81.0.2): 56 data bytes
64 bytes from 10.81.0.2: seq=0 ttl=64 time=1.250 ms
64 bytes from 10.81.0.2: seq=1 ttl=64 time=0.080 ms

--- 10.81.0.2 ping statistics ---
round-trip min/avg/max = 0.080/0.665/1.250 ms
`)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]time.Duration{1250 * time.Microsecond, 80 * time.Microsecond}, got); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
	if got, err := pingTimes("2 packets transmitted, 0 packets received, 100% packet loss\n"); err == nil {
		t.Errorf("no answer gives %v", got)
	}
}

func TestReceivedIsWhatTheOtherEndGot(t *testing.T) {
	got, err := received(`{"end": {"sum_sent": {"bits_per_second": 99}, "sum_received": {"bits_per_second": 16777216}}}`)
	if err != nil || got != 2 {
		t.Errorf("%v MiB/s, %v; want 2", got, err)
	}
	if got, err := received(`{"end": {}, "error": "unable to connect"}`); err == nil {
		t.Errorf("no rate gives %v", got)
	}
}

func TestDifferencesAreOfTheSameRound(t *testing.T) {
	got := differences([]time.Duration{5, 20}, []time.Duration{3, 21})
	if diff := cmp.Diff([]time.Duration{2, -1}, got); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
}
