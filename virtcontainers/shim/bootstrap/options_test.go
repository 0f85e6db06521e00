package bootstrap

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	boot "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runc "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func encode(t testing.TB, message proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// typed wraps a message as containerd does: its type without a host.
func typed(t testing.TB, message proto.Message) *anypb.Any {
	t.Helper()
	return &anypb.Any{TypeUrl: string(message.ProtoReflect().Descriptor().FullName()), Value: encode(t, message)}
}

func TestDecodeOptions(t *testing.T) {
	general := &runtimeoptions.Options{TypeUrl: "x", ConfigPath: "/etc/kata.toml"}
	withHost, err := anypb.New(general)
	if err != nil {
		t.Fatal(err)
	}
	first := typed(t, general)
	first.TypeUrl = criOptions
	tests := map[string]struct {
		given *anypb.Any
		want  RuntimeOptions
		fails string
	}{
		"none":          {},
		"empty":         {given: &anypb.Any{}},
		"general":       {given: typed(t, general), want: RuntimeOptions{ConfigPath: "/etc/kata.toml"}},
		"with a host":   {given: withHost, want: RuntimeOptions{ConfigPath: "/etc/kata.toml"}},
		"the first CRI": {given: first, want: RuntimeOptions{ConfigPath: "/etc/kata.toml"}},
		"body": {
			given: typed(t, &runtimeoptions.Options{ConfigBody: []byte("[runtime]\n")}),
			want:  RuntimeOptions{Config: []byte("[runtime]\n")},
		},
		"body of runc's options": {
			given: typed(t, &runtimeoptions.Options{ConfigBody: []byte("BinaryName = 'crun'\nShimCgroup = '/shims'\nSystemdCgroup = true\n")}),
			want:  RuntimeOptions{SystemdCgroup: true, ShimCgroup: "/shims", Ignored: []string{"BinaryName"}},
		},
		"body of both": {
			given: typed(t, &runtimeoptions.Options{ConfigBody: []byte("SystemdCgroup = true\n[hypervisor]\ndefault_vcpus = 2\n")}),
			want:  RuntimeOptions{SystemdCgroup: true, Config: []byte("[hypervisor]\n  default_vcpus = 2\n")},
		},
		"body of something":           {given: typed(t, &runtimeoptions.Options{ConfigBody: []byte("{\"version\": 1}")}), fails: "ConfigBody is no TOML"},
		"body with an option's value": {given: typed(t, &runtimeoptions.Options{ConfigBody: []byte("SystemdCgroup = 'yes'")}), fails: "SystemdCgroup is yes"},
		"path and body": {
			given: typed(t, &runtimeoptions.Options{ConfigPath: "/a", ConfigBody: []byte("x")}),
			want:  RuntimeOptions{ConfigPath: "/a", Ignored: []string{"ConfigBody, since there is a ConfigPath"}},
		},
		"runc's": {
			given: typed(t, &runc.Options{SystemdCgroup: true, ShimCgroup: "/shims", BinaryName: "crun"}),
			want:  RuntimeOptions{SystemdCgroup: true, ShimCgroup: "/shims", Ignored: []string{"BinaryName"}},
		},
		"runc's, all defaults": {given: typed(t, &runc.Options{})},
		"relative path":        {given: typed(t, &runtimeoptions.Options{ConfigPath: "kata.toml"}), fails: "no absolute path"},
		"long body":            {given: typed(t, &runtimeoptions.Options{ConfigBody: make([]byte, maxConfig+1)}), fails: "at most"},
		"unknown type":         {given: &anypb.Any{TypeUrl: "types.example/other.Options"}, fails: `type "other.Options"`},
		"no type":              {given: &anypb.Any{Value: []byte("x")}, fails: `type ""`},
		"does not decode":      {given: &anypb.Any{TypeUrl: generalOptions, Value: []byte{0xff}}, fails: generalOptions},
		"runc's do not":        {given: &anypb.Any{TypeUrl: runcOptions, Value: []byte{0xff}}, fails: runcOptions},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := DecodeOptions(test.given)
			if test.fails != "" {
				if !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("error %v, want %q", err, test.fails)
				}
				return
			}
			if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
				t.Errorf("%v, -want +got:\n%s", err, diff)
			}
		})
	}
}

func TestParseParams(t *testing.T) {
	options := typed(t, &runtimeoptions.Options{ConfigPath: "/etc/kata.toml"})
	dir := "/run/sockets"
	announced := &boot.BootstrapParams{
		InstanceID: "one", Namespace: "k8s.io", LogLevel: boot.LogLevel_LOG_LEVEL_TRACE, SocketDir: &dir,
		ContainerdGrpcAddress: "/run/c.sock", ContainerdTtrpcAddress: "/run/c.sock.ttrpc", ContainerdBinary: "/bin/containerd",
		Extensions: []*boot.Extension{{}, {Value: &anypb.Any{TypeUrl: "example.Other"}}, {Value: options}},
	}
	relative := typed(t, &runtimeoptions.Options{ConfigPath: "kata.toml"})
	invalid := RuntimeOptions{Invalid: ErrOptions.Error() + `: ConfigPath is "kata.toml", no absolute path`}
	tests := map[string]struct {
		input []byte
		want  params
	}{
		"nothing":       {},
		"wrong options": {input: encode(t, relative), want: params{options: invalid}},
		"BootstrapParams with wrong options": {
			input: encode(t, &boot.BootstrapParams{InstanceID: "one", Namespace: "k8s.io", Extensions: []*boot.Extension{{Value: relative}}}),
			want:  params{announced: true, options: invalid},
		},
		"options": {input: encode(t, options), want: params{options: RuntimeOptions{ConfigPath: "/etc/kata.toml"}}},
		"BootstrapParams": {input: encode(t, announced), want: params{
			announced: true, socketDir: dir, debug: true, grpcAddress: "/run/c.sock", ttrpcAddress: "/run/c.sock.ttrpc",
			publishBinary: "/bin/containerd", options: RuntimeOptions{ConfigPath: "/etc/kata.toml"},
		}},
		"BootstrapParams alone": {
			input: encode(t, &boot.BootstrapParams{InstanceID: "one", Namespace: "k8s.io"}), want: params{announced: true},
		},
		"of another container": {input: encode(t, &boot.BootstrapParams{InstanceID: "two", Namespace: "k8s.io", SocketDir: &dir})},
		"of another namespace": {input: encode(t, &boot.BootstrapParams{InstanceID: "one", Namespace: "default"})},
		"unknown options":      {input: encode(t, &anypb.Any{TypeUrl: "example.Other", Value: []byte("x")})},
		"text":                 {input: []byte("start\n")},
		"JSON":                 {input: []byte(`{"version":3}`)},
		"cut":                  {input: encode(t, announced)[:20]},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := parseParams(test.input, "one", "k8s.io")
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(params{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func FuzzParseParams(f *testing.F) {
	dir := "/run/sockets"
	f.Add(encode(f, typed(f, &runtimeoptions.Options{ConfigPath: "/a"})))
	f.Add(encode(f, typed(f, &runc.Options{SystemdCgroup: true})))
	f.Add(encode(f, &boot.BootstrapParams{
		InstanceID: "one", Namespace: "k8s.io", SocketDir: &dir,
		Extensions: []*boot.Extension{{Value: typed(f, &runc.Options{ShimCgroup: "/a"})}},
	}))
	f.Fuzz(func(t *testing.T, input []byte) {
		got := parseParams(input, "one", "k8s.io")
		if !got.announced && (got.socketDir != "" || got.grpcAddress != "" || got.ttrpcAddress != "") {
			t.Errorf("addresses of who has not announced itself: %+v", got)
		}
		if path := got.options.ConfigPath; path != "" && path[0] != '/' {
			t.Errorf("relative path %q", path)
		}
	})
}

// A caller's input is read to its end, and nobody is waited for who writes
// nothing.
func TestReadInput(t *testing.T) {
	const patience = 200 * time.Millisecond
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if got := readInput(null, time.Minute); len(got) > 0 {
		t.Errorf("/dev/null: %q", got)
	}
	closed, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if got := readInput(closed, time.Minute); len(got) > 0 {
		t.Errorf("closed: %q", got)
	}
	pipe := func(patience time.Duration, write func(w *os.File)) []byte {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		go write(w)
		return readInput(r, patience)
	}
	long := bytes.Repeat([]byte("0123456789"), 20_000) // more than a pipe holds
	if got := pipe(time.Minute, func(w *os.File) { w.Write(long); w.Close() }); !bytes.Equal(got, long) {
		t.Errorf("read %d bytes of %d", len(got), len(long))
	}
	if got := pipe(patience, func(w *os.File) { w.WriteString("half") }); string(got) != "half" {
		t.Errorf("of a pipe that stays open: %q", got)
	}
	if got := pipe(patience, func(*os.File) {}); len(got) > 0 {
		t.Errorf("of a pipe to which nobody writes: %q", got)
	}
	endless := make(chan struct{})
	if got := pipe(time.Minute, func(w *os.File) {
		defer close(endless)
		for {
			if _, err := w.Write(long); err != nil {
				return
			}
		}
	}); got != nil {
		t.Errorf("of a pipe without an end: %d bytes", len(got))
	}
	<-endless
}
