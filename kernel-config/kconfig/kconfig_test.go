package kconfig_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata-runtime/kernel-config/kconfig"
)

func TestParse(t *testing.T) {
	text := `# A topic.

CONFIG_UNIX=y   # local sockets
CONFIG_NR_CPUS=256 # enough
CONFIG_NAME="a # b" # quoted text may hold the sign
CONFIG_OFF=n # not wanted
CONFIG_MASK=0x0 # hexadecimal
`
	got, err := kconfig.Parse("x.config", text)
	if err != nil {
		t.Fatal(err)
	}
	want := kconfig.Options{
		{Name: "CONFIG_UNIX", Value: "y", Reason: "local sockets", Origin: "x.config:3"},
		{Name: "CONFIG_NR_CPUS", Value: "256", Reason: "enough", Origin: "x.config:4"},
		{Name: "CONFIG_NAME", Value: `"a # b"`, Reason: "quoted text may hold the sign", Origin: "x.config:5"},
		{Name: "CONFIG_OFF", Value: "n", Reason: "not wanted", Origin: "x.config:6"},
		{Name: "CONFIG_MASK", Value: "0x0", Reason: "hexadecimal", Origin: "x.config:7"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

func TestParseReportsEveryFault(t *testing.T) {
	text := "CONFIG_A=y\nCONFIG_B y # space\nUNIX=y # no prefix\nCONFIG_C=y # fine\nCONFIG_D=y #\n"
	_, err := kconfig.Parse("x.config", text)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"x.config:1: CONFIG_A has no reason", "x.config:2: ", "x.config:3: ", "x.config:5: CONFIG_D has no reason"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "x.config:4") {
		t.Errorf("a correct line is reported: %v", err)
	}
}

func TestValidateRefusesAnOptionOfTwoTopics(t *testing.T) {
	options := kconfig.Options{
		{Name: "CONFIG_A", Value: "y", Origin: "one:1"},
		{Name: "CONFIG_B", Value: "y", Origin: "one:2"},
		{Name: "CONFIG_A", Value: "y", Origin: "two:7"},
	}
	err := options.Validate()
	if err == nil || !strings.Contains(err.Error(), "two:7: CONFIG_A was set before, at one:1") {
		t.Errorf("Validate = %v", err)
	}
	if err := options[:2].Validate(); err != nil {
		t.Errorf("Validate of distinct options = %v", err)
	}
}

func TestAllConfig(t *testing.T) {
	options := kconfig.Options{{Name: "CONFIG_A", Value: "y"}, {Name: "CONFIG_B", Value: "n"}, {Name: "CONFIG_C", Value: `"x"`}}
	want := "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\n"
	if got := options.AllConfig(); got != want {
		t.Errorf("AllConfig = %q, want %q", got, want)
	}
}

func TestSurvival(t *testing.T) {
	config, err := kconfig.ParseConfig("# Linux\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=7\nCONFIG_S=\"a=b\"\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Enabled(); got != 1 {
		t.Errorf("Enabled = %d, want 1", got)
	}
	kept := kconfig.Options{
		{Name: "CONFIG_A", Value: "y"},
		{Name: "CONFIG_B", Value: "n"},
		{Name: "CONFIG_GONE", Value: "n"},
		{Name: "CONFIG_N", Value: "7"},
		{Name: "CONFIG_S", Value: `"a=b"`},
	}
	if err := kept.Survival(config); err != nil {
		t.Errorf("Survival = %v, want nil", err)
	}
	lost := kconfig.Options{
		{Name: "CONFIG_A", Value: "n", Origin: "f:1", Reason: "off"},
		{Name: "CONFIG_B", Value: "y", Origin: "f:2", Reason: "wanted"},
		{Name: "CONFIG_GONE", Value: "y", Origin: "f:3", Reason: "absent"},
		{Name: "CONFIG_N", Value: "8", Origin: "f:4", Reason: "more"},
	}
	err = append(lost, kept[1]).Survival(config)
	if !errors.Is(err, kconfig.ErrNotSurvived) {
		t.Fatalf("Survival = %v, want ErrNotSurvived", err)
	}
	for _, want := range []string{
		"4 options", "f:1: CONFIG_A=n, but the kernel has y (off)", "f:2: CONFIG_B=y, but the kernel has n (wanted)",
		"f:3: CONFIG_GONE=y", "f:4: CONFIG_N=8, but the kernel has 7 (more)",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
}
