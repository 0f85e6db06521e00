package main

import (
	"bytes"
	"os"
	"regexp"
	"testing"

	"github.com/urfave/cli/v2"
)

// TestNodeOptions looks for the options that the DaemonSets use.
func TestNodeOptions(t *testing.T) {
	option := regexp.MustCompile(`(?m)^ +- --([a-z-]+)(=|$)`)
	for name, command := range map[string]*cli.Command{"install": nodeInstallCommand(), "remove": nodeRemoveCommand()} {
		manifest, err := os.ReadFile("../../deploy/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		has := map[string]bool{}
		for _, flag := range command.Flags {
			for _, name := range flag.Names() {
				has[name] = true
			}
		}
		used := option.FindAllStringSubmatch(string(manifest), -1)
		for _, match := range used {
			if !has[match[1]] {
				t.Errorf("node %s has no --%s, which deploy/%s.yaml uses", name, match[1], name)
			}
		}
		if len(used) < 3 {
			t.Errorf("deploy/%s.yaml uses %q", name, used)
		}
	}
}

func TestNodeOverhead(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "overhead:\n  podFixed:\n    memory: 448Mi\n    cpu: 250m\n"},
		{[]string{"--emulated"}, "overhead:\n  podFixed:\n    memory: 704Mi\n    cpu: 250m\n"},
		{[]string{"--format", "json"}, "{\n  \"podFixed\": {\n    \"cpu\": \"250m\",\n    \"memory\": \"448Mi\"\n  }\n}\n"},
	} {
		app := newApp()
		var output bytes.Buffer
		app.Writer = &output
		args := append([]string{"kata-runtime", "--config", "../../deploy/configuration.toml", "node", "overhead"}, test.args...)
		if err := app.RunContext(t.Context(), args); err != nil || output.String() != test.want {
			t.Errorf("%v: %q, %v; want %q", test.args, output.String(), err, test.want)
		}
	}
	for _, args := range [][]string{{"node", "overhead", "--format", "xml"}, {"node", "none"}, {"node", "install", "x"}, {"node", "remove", "x"}} {
		app := newApp()
		app.Writer = new(bytes.Buffer)
		if err := app.RunContext(t.Context(), append([]string{"kata-runtime"}, args...)); err == nil {
			t.Errorf("%v is no error", args)
		}
	}
}
