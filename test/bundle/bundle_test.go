package bundle_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
)

func TestWriteConfigIsReadBackAsItWas(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bundle")
	want := bundle.Spec("/bin/true")
	if err := bundle.WriteConfig(dir, want); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got specs.Spec
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &got); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
}

func TestNamespace(t *testing.T) {
	spec := bundle.Spec("/bin/true")
	bundle.Namespace(spec, specs.NetworkNamespace).Path = "/proc/1/ns/net"
	if path := bundle.Namespace(spec, specs.NetworkNamespace).Path; path != "/proc/1/ns/net" {
		t.Errorf("path %q", path)
	}
	if n := bundle.Namespace(spec, specs.UserNamespace); n != nil {
		t.Errorf("a user namespace: %v", n)
	}
}
