package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	version16 = "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3\n"
	version17 = "containerd containerd.io 1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da\n"
	version20 = "containerd github.com/containerd/containerd/v2 v2.0.0 207ad711eabd375a01713109a8a197d197ff6542\n"
	version24 = "containerd github.com/containerd/containerd/v2 2.4.2+unknown \n"

	// Somebody's configuration, with what a rewriting would lose.
	config2 = `# Ours. Ask before you touch it.
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "pause:1"   # from the mirror
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = true`
	config3 = `version = 3 # no imports
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = 'runc'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
`
	configImports = "imports = ['conf.d/*.toml']\n" + config3
	configPath    = "etc/containerd/config.toml"
)

// nodes are those of most tests: a version, its files, and the file that gets the
// handler.
func nodes() map[string]struct {
	version string
	files   map[string]string
	handler string
} {
	type node = struct {
		version string
		files   map[string]string
		handler string
	}
	return map[string]node{
		"1.6":                     {version16, map[string]string{configPath: config2}, configPath},
		"1.7 with imports":        {version17, map[string]string{configPath: "imports = ['conf.d/*.toml']\n" + config2, "etc/containerd/conf.d/x.toml": "version = 2\n"}, configPath},
		"1.6 without a file":      {version16, nil, configPath},
		"2.0 and a version 2":     {version20, map[string]string{configPath: config2}, configPath},
		"2.4":                     {version24, map[string]string{configPath: config3}, configPath},
		"2.4 with imports":        {version24, map[string]string{configPath: configImports}, "etc/containerd/conf.d/50-kata.toml"},
		"2.4 with other imports":  {version24, map[string]string{configPath: "imports = ['conf.d/mine*.toml', 'one.toml']\n" + config3}, configPath},
		"2.4, version 4, imports": {version24, map[string]string{configPath: strings.Replace(configImports, "version = 3", "version = 4", 1)}, "etc/containerd/conf.d/50-kata.toml"},
		"2.0 without a file":      {version20, nil, configPath},
		"CRI-O":                   {"", map[string]string{"etc/crio/crio.conf": "[crio.runtime]\n"}, "etc/crio/crio.conf.d/50-kata.conf"},
	}
}

func TestInstallRemove(t *testing.T) {
	for name, node := range nodes() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, node.version, node.files)
			before := w.state(t)
			w.install(t)
			for name, want := range map[string]string{
				"usr/local/bin/kata-runtime": "program 1", "usr/local/bin/kata-device": "device 1", "usr/local/share/kata-containers/vmlinux": "kernel 1",
				"usr/local/share/kata-containers/debian/initrd.img": "image 1", configurationPath: "# configuration 1\n",
			} {
				if got := w.text(t, name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if got := w.text(t, node.handler); !strings.Contains(got, `"/usr/local/bin/kata-runtime"`) ||
				!strings.HasPrefix(got, node.files[node.handler]) || strings.Contains(got, "SystemdCgroup = true\n") != strings.Contains(node.files[configPath], "Systemd") {
				t.Errorf("%s is\n%s", node.handler, got)
			}
			state := w.state(t)
			if got := state["/usr/local/bin/kata-runtime"]; !strings.HasPrefix(got, "-rwxr-xr-x") {
				t.Errorf("the program is %s", got)
			}
			if len(w.restarted) != 1 {
				t.Errorf("restarted %v", w.restarted)
			}

			inodes := w.inodes(t)
			w.install(t) // nothing to do
			sameState(t, "a second installation", w.state(t), state)
			for name, inode := range w.inodes(t) {
				if inodes[name] != inode {
					t.Errorf("%s was written again", name)
				}
			}
			if len(w.restarted) != 1 {
				t.Errorf("restarted %v, with no change", w.restarted)
			}

			w.remove(t)
			sameState(t, "removed", w.state(t), before)
			if len(w.restarted) != 2 {
				t.Errorf("restarted %v", w.restarted)
			}
			w.remove(t)
			sameState(t, "removed twice", w.state(t), before)
		})
	}
}

// killed ends a run.
type killed struct{}

// killAt runs do on the node and ends it before its nth change; false: it had
// fewer, and came to its end.
func killAt(w *world, n int, do func() error) (was bool, err error) {
	w.options.before = func(string, string) {
		if n--; n < 0 {
			panic(killed{})
		}
	}
	defer func() {
		w.options.before = nil
		if r := recover(); r != nil {
			if _, ok := r.(killed); !ok {
				panic(r)
			}
			was = true
		}
	}()
	return false, do()
}

// TestKilled ends installations, upgrades and removals before each of their
// changes: what comes next finishes or undoes them.
func TestKilled(t *testing.T) {
	all := nodes()
	for _, name := range []string{"1.6", "1.6 without a file", "2.4 with imports", "CRI-O"} { // a way each
		node := all[name]
		t.Run(name, func(t *testing.T) {
			whole := newWorld(t, node.version, node.files)
			before := whole.state(t)
			whole.install(t)
			after := whole.state(t)
			upgrade := func(w *world) {
				write(t, w.payload, map[string]string{"bin/kata-runtime": "program 2", "share/kata-containers/initrd.img": "image 2"})
				if err := os.Remove(filepath.Join(w.payload, "share/kata-containers/debian/initrd.img")); err != nil {
					t.Fatal(err)
				}
				w.options.Version, w.options.Configuration = "2", "# configuration 2\n"
				w.options.Handler.FrontEnd = FrontEndShim
				write(t, w.payload, map[string]string{"bin/" + shimProgram: "shim 2"})
			}
			upgrade(whole)
			whole.install(t)
			upgraded := whole.state(t)

			run := func(at, n int) (ended bool) {
				w := newWorld(t, node.version, node.files)
				do, want := Install, after
				if at > 0 {
					w.install(t)
				}
				switch at {
				case 1:
					upgrade(w)
					want = upgraded
				case 2:
					do, want = Remove, before
				}
				was, err := killAt(w, n, func() error { return do(t.Context(), w.options) })
				if err != nil {
					t.Fatalf("change %d of run %d: %v", n, at, err)
				}
				if !was {
					sameState(t, fmt.Sprintf("run %d, to its end", at), w.state(t), want)
					return true
				}
				restarted := len(w.restarted)
				switch {
				case n%2 == 0:
				case at == 2:
					w.remove(t)
				default:
					w.install(t)
				}
				if n%2 == 1 {
					sameState(t, fmt.Sprintf("run %d, ended at change %d, and again", at, n), w.state(t), want)
					if !slices.Contains(w.restarted, unitOf("/"+node.handler)) {
						t.Errorf("run %d, ended at change %d: no restart: %v before, then %v", at, n, restarted, w.restarted)
					}
				}
				w.remove(t)
				sameState(t, fmt.Sprintf("run %d, ended at change %d, and removed", at, n), w.state(t), before)
				return false
			}
			for at := range 3 {
				for n := 0; !run(at, n); n++ {
					if n > 500 {
						t.Fatal("it does not end")
					}
				}
			}
		})
	}
}

// TestRefusals: what is not understood stays as it is, and so does all else.
func TestRefusals(t *testing.T) {
	ours := map[string]string{configPath: config2}
	for name, test := range map[string]struct {
		version string
		files   map[string]string
		change  func(w *world)
		want    string
	}{
		"no manager":         {"", nil, nil, "neither containerd"},
		"no containerd":      {"", ours, nil, "name it with --containerd"},
		"an old containerd":  {"containerd github.com/containerd/containerd 1.4.13 x\n", ours, nil, "only 1.6, 1.7 and 2"},
		"no version":         {"containerd\n", ours, nil, "there is no version"},
		"version 1":          {version16, map[string]string{configPath: "root = '/x'\n"}, nil, "config migrate"},
		"version 5":          {version24, map[string]string{configPath: "version = 5\n"}, nil, "config migrate"},
		"no TOML":            {version16, map[string]string{configPath: "version = 2\n]["}, nil, "as TOML"},
		"CRI is off":         {version16, map[string]string{configPath: "version = 2\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n"}, nil, "disables the CRI plugin"},
		"a handler is there": {version16, map[string]string{configPath: config2 + "\n[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.kata]\nruntime_type='x'\n"}, nil, "did not write"},
		"a handler is imported": {version24, map[string]string{configPath: configImports, "etc/containerd/conf.d/kata.toml": "version = 3\n" +
			"[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata]\nruntime_type='x'\n"}, nil, "did not write"},
		"our file's name": {version24, map[string]string{configPath: configImports, "etc/containerd/conf.d/50-kata.toml": "version = 3\n"}, nil, "was not put there"},
		"an import replaces it": {version17, map[string]string{configPath: "imports = ['conf.d/*.toml']\n" + config2, "etc/containerd/conf.d/x.toml": "version = 2\n" +
			"[plugins.'io.containerd.grpc.v1.cri']\nsandbox_image = 'x'\n"}, nil, "does not see the runtime kata"},
		"half a block":      {version16, map[string]string{configPath: config2 + "\n" + beginMark + "\n"}, nil, "by hand"},
		"another program":   {version16, map[string]string{configPath: config2, "usr/local/bin/kata-runtime": "mine"}, nil, "was not put there"},
		"a directory":       {version16, map[string]string{configPath: config2, "usr/local/bin/kata-runtime/x": ""}, nil, "no regular file"},
		"CRI-O has it":      {"", map[string]string{"etc/crio/crio.conf.d/10.conf": "[crio.runtime.runtimes.kata]\n"}, nil, "did not write"},
		"CRI-O's is broken": {"", map[string]string{"etc/crio/crio.conf.d/10.conf": "]["}, nil, "10.conf"},
		"no virtualization": {version16, ours, func(w *world) { write(t, w.payload, map[string]string{"bin/kata-runtime": "broken"}) }, "qemu is missing"},
		"no shim":           {version16, ours, func(w *world) { w.options.Handler.FrontEnd = FrontEndShim }, shimProgram},
		"a handler's name":  {version16, ours, func(w *world) { w.options.Handler.Name = "vm" }, "kata"},
		"a prefix":          {version16, ours, func(w *world) { w.options.Handler.Prefix = "/opt/\"x" }, "prefix"},
		"a link": {version16, nil, func(w *world) {
			write(t, w.root, map[string]string{"etc/containerd/real.toml": config2})
			if err := os.Symlink("real.toml", filepath.Join(w.root, configPath)); err != nil {
				t.Fatal(err)
			}
		}, "no regular file"},
		"a link that leads out": {version16, nil, func(w *world) {
			if err := errors.Join(os.RemoveAll(filepath.Join(w.root, "usr/local")), os.Symlink("/tmp", filepath.Join(w.root, "usr/local"))); err != nil {
				t.Fatal(err)
			}
		}, "escapes"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, test.version, test.files)
			if test.change != nil {
				test.change(w)
			}
			before := w.state(t)
			err := Install(t.Context(), w.options)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("%v, want %q", err, test.want)
			}
			if name == "no virtualization" || name == "an import replaces it" { // known only once the files are there
				w.remove(t)
			}
			sameState(t, "refused", w.state(t), before)
			if len(w.restarted) > 0 {
				t.Errorf("restarted %v", w.restarted)
			}
		})
	}
}

// TestOthersFiles: what somebody else has put there or changed stays.
func TestOthersFiles(t *testing.T) {
	w := newWorld(t, version16, map[string]string{
		configPath: config2, configurationPath: "mine",
		"usr/local/share/kata-containers/vmlinux": "kernel 1", // as by hand
	})
	before := w.state(t)
	w.install(t)
	if got := w.text(t, configurationPath); got != "mine" {
		t.Errorf("the configuration became %q", got)
	}
	w.remove(t)
	sameState(t, "removed", w.state(t), before)

	w = newWorld(t, version16, nil)
	w.install(t)
	write(t, w.root, map[string]string{configurationPath: "edited"})
	write(t, w.root, map[string]string{configPath: w.text(t, configPath) + "[debug]\nlevel = 'debug'\n"})
	w.install(t)
	w.remove(t)
	if got := w.text(t, configurationPath); got != "edited" {
		t.Errorf("the configuration became %q", got)
	}
	if got, want := w.text(t, configPath), "version = 2\n[debug]\nlevel = 'debug'\n"; got != want {
		t.Errorf("containerd's configuration is %q, want %q", got, want)
	}
}

// TestElsewhere: a node that has it below one prefix gets no second one.
func TestElsewhere(t *testing.T) {
	w := newWorld(t, version16, nil)
	w.options.Handler.Prefix = "/opt/kata"
	w.install(t)
	if got := w.text(t, configPath); !strings.Contains(got, `"/opt/kata/bin/kata-runtime"`) {
		t.Error(got)
	}
	w.options.Handler.Prefix = DefaultPrefix
	if err := Install(t.Context(), w.options); err == nil || !strings.Contains(err.Error(), "below /opt/kata") {
		t.Error(err)
	}
}

// TestRunningPods: a node whose pods run keeps what they need.
func TestRunningPods(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"a supervisor": {"proc/7/comm": supervisorName + "\n", "proc/7/cmdline": "/proc/self/exe\x00supervisor\x00"},
		"a shim":       {"proc/7/comm": "containerd-shim\n", "proc/7/cmdline": "/usr/local/bin/" + shimProgram + "\x00-id\x00x\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, version16, nil)
			w.install(t)
			write(t, w.root, files)
			state := w.state(t)
			if err := Remove(t.Context(), w.options); err == nil || !strings.Contains(err.Error(), "drain") {
				t.Error(err)
			}
			sameState(t, "refused", w.state(t), state)
		})
	}
}

// TestLabel: it is set last and taken away first.
func TestLabel(t *testing.T) {
	w := newWorld(t, version16, nil)
	w.options.Label, w.options.NodeName = "kata-runtime/installed=true", "node-1"
	var calls []string
	w.options.Labeler = func(_ context.Context, node, key string, value *string) error {
		what := "taken away"
		if value != nil && *value == "true" {
			what = "set"
		}
		if _, err := os.Stat(filepath.Join(w.root, "usr/local/bin/kata-runtime")); err == nil {
			what += ", programs there"
		}
		calls = append(calls, fmt.Sprintf("%s %s %s, %d restarts", node, key, what, len(w.restarted)))
		return nil
	}
	w.install(t)
	w.remove(t)
	if want := []string{"node-1 kata-runtime/installed set, programs there, 1 restarts", "node-1 kata-runtime/installed taken away, programs there, 1 restarts"}; !slices.Equal(calls, want) {
		t.Errorf("%q, want %q", calls, want)
	}
}
