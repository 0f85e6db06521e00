package kconfig

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseUser(t *testing.T) {
	text := "# a remark\n\nCONFIG_XFS_FS=y\n\n  # CONFIG_EXT4_FS is not set \n\nCONFIG_LOG_BUF_SHIFT=17 # a long log\n"
	got, err := ParseUser("mine", text, false)
	if err != nil {
		t.Fatal(err)
	}
	want := Options{
		{Name: "CONFIG_XFS_FS", Value: "y", Origin: "mine:3"},
		{Name: "CONFIG_EXT4_FS", Value: "n", Origin: "mine:5"},
		{Name: "CONFIG_LOG_BUF_SHIFT", Value: "17", Reason: "a long log", Origin: "mine:7"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	_, err = ParseUser("mine", "CONFIG_A=m\nXFS=y\n", false)
	for _, part := range []string{"mine:1: CONFIG_A: modules are not built", `mine:2: not an option: "XFS=y"`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v, want %q", err, part)
		}
	}
	if got, err := ParseUser("mine", "CONFIG_A=m\n", true); err != nil || len(got) != 1 || got[0].Value != "m" {
		t.Errorf("with modules: %v, %v", got, err)
	}
}

func TestOverride(t *testing.T) {
	own := Options{{Name: "CONFIG_A", Value: "y"}, {Name: "CONFIG_B", Value: "y"}}
	got := own.Override(Options{{Name: "CONFIG_C", Value: "1"}, {Name: "CONFIG_A", Value: "n"}})
	want := Options{{Name: "CONFIG_A", Value: "n"}, {Name: "CONFIG_B", Value: "y"}, {Name: "CONFIG_C", Value: "1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if own[0].Value != "y" {
		t.Error("the list itself has changed")
	}
}

func TestDiff(t *testing.T) {
	before := Config{"CONFIG_A": "y", "CONFIG_B": "y", "CONFIG_SAME": "1"}
	after := Config{"CONFIG_A": "m", "CONFIG_C": `"x"`, "CONFIG_SAME": "1"}
	want := []Change{{"CONFIG_A", "y", "m", ""}, {"CONFIG_B", "y", "n", ""}, {"CONFIG_C", "n", `"x"`, ""}}
	if diff := cmp.Diff(want, before.Diff(after)); diff != "" {
		t.Error(diff)
	}
}
