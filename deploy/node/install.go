package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Options say what to install, and where.
type Options struct {
	// Root is the node's root directory as this process sees it: "/" or where a
	// container has it mounted.
	Root string
	// Payload is the prefix of the tree that is copied: bin and share below it.
	Payload string
	// Configuration is the text of the runtime's configuration file.
	Configuration string
	// Handler is what the managers are told; its SystemdCgroup is not used.
	Handler Handler
	// SystemdCgroup is that of the handler; nil: as containerd's default runtime.
	SystemdCgroup *bool
	// Managers are those to configure; empty: those that the node has.
	Managers []Manager
	// Containerd and ContainerdConfig are paths on the node; empty: found, and
	// the default.
	Containerd, ContainerdConfig string
	// SkipCheck configures the managers also on a node that cannot run VMs.
	SkipCheck bool
	// Restart lets systemd restart the managers whose configuration has changed.
	Restart bool
	// Label is set on the node NodeName when all is in place, and taken away
	// before anything is removed. Empty: no label.
	Label, NodeName string
	// Version is the product's.
	Version string
	// Run, Restarter and Labeler reach the node and the cluster. Run and
	// Restarter may be nil: by chroot(2) and the node's system bus.
	Run       Runner
	Restarter Restarter
	Labeler   Labeler
	Log       *slog.Logger

	before func(change, name string) // tree.before
}

// Manager is a program that takes kubelet's calls.
type Manager string

// The managers.
const (
	ManagerContainerd Manager = "containerd"
	ManagerCRIO       Manager = "crio"
)

// configurationPath is where the runtime's configuration is installed.
const configurationPath = "/etc/kata-containers/configuration.toml"

// installation is one run of Install or Remove.
type installation struct {
	Options
	tree    tree
	receipt *receipt
}

// open takes the node's lock and reads what is installed.
func open(o Options) (_ *installation, closeAll func(), err error) {
	root, err := os.OpenRoot(o.Root)
	if err != nil {
		return nil, nil, fmt.Errorf("open the node's root directory: %w", err)
	}
	in := &installation{Options: o, tree: tree{root: root, before: o.before}}
	unlock, err := in.tree.lock()
	if err != nil {
		return nil, nil, errors.Join(err, root.Close())
	}
	closeAll = func() {
		_ = root.Remove(inside(receiptDir)) // it is empty if nothing came of it
		unlock()
		root.Close()
	}
	if in.receipt, err = in.tree.loadReceipt(); err != nil {
		closeAll()
		return nil, nil, err
	}
	if in.Run == nil {
		in.Run = runIn(o.Root)
	}
	if in.Restarter == nil {
		in.Restarter = restartOn(o.Root)
	}
	if in.ContainerdConfig == "" {
		in.ContainerdConfig = DefaultContainerdConfig
	}
	return in, closeAll, nil
}

// Names that stand in TOML keys, paths and labels as they are.
var (
	handlerPattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	prefixPattern  = regexp.MustCompile(`^(/[A-Za-z0-9._-]+)+$`)
	labelPattern   = regexp.MustCompile(`^[A-Za-z0-9./_-]+=[A-Za-z0-9._-]*$`)
)

func (o *Options) validate() error {
	h := o.Handler
	switch {
	case !handlerPattern.MatchString(h.Name) || !strings.Contains(h.Name, "kata"):
		return fmt.Errorf("the handler's name is %q: it needs \"kata\" in it, by which CRI-O knows runtimes with VMs, and else small letters, digits and dashes", h.Name)
	case !prefixPattern.MatchString(h.Prefix) || path.Clean(h.Prefix) != h.Prefix:
		return fmt.Errorf("the prefix is %q: it must be an absolute path of letters, digits, dots, dashes and underscores", h.Prefix)
	case h.FrontEnd != FrontEndOCI && h.FrontEnd != FrontEndShim:
		return fmt.Errorf("the front end is %q: it must be %q or %q", h.FrontEnd, FrontEndOCI, FrontEndShim)
	case o.Label != "" && !labelPattern.MatchString(o.Label):
		return fmt.Errorf("the label is %q: it must be KEY=VALUE", o.Label)
	case o.Label != "" && (o.NodeName == "" || o.Labeler == nil):
		return errors.New("to label a node its name must be known: --node")
	}
	for _, manager := range o.Managers {
		if manager != ManagerContainerd && manager != ManagerCRIO {
			return fmt.Errorf("the manager is %q: it must be %q or %q", manager, ManagerContainerd, ManagerCRIO)
		}
	}
	return nil
}

// file is one that is installed.
type file struct {
	name string // on the node
	mode fs.FileMode
	hash string
	// open gives its content.
	open func() (io.ReadCloser, error)
	// yield: a file that somebody else has put there is kept.
	yield bool
}

func textFile(name, text string) file {
	hash, _ := hashOf(strings.NewReader(text), name) // reading memory does not fail
	return file{name: name, mode: 0o644, hash: hash, open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(text)), nil
	}}
}

// payload lists what is copied from this program's own tree.
func (o *Options) payload() ([]file, error) {
	var files []file
	add := func(name string, mode fs.FileMode) error {
		source := filepath.Join(o.Payload, name)
		from, err := os.Open(source)
		if err != nil {
			return fmt.Errorf("read what is to be installed: %w", err)
		}
		defer from.Close()
		hash, err := hashOf(from, source)
		if err != nil {
			return err
		}
		files = append(files, file{
			name: path.Join(o.Handler.Prefix, name), mode: mode, hash: hash,
			open: func() (io.ReadCloser, error) { return os.Open(source) },
		})
		return nil
	}
	for _, program := range []string{deviceProgram, runtimeProgram, shimProgram} {
		needed := program == runtimeProgram || program == shimProgram && o.Handler.FrontEnd == FrontEndShim
		if _, err := os.Stat(filepath.Join(o.Payload, "bin", program)); err != nil && !needed {
			continue
		}
		if err := add("bin/"+program, 0o755); err != nil {
			return nil, err
		}
	}
	const share = "share/kata-containers"
	err := fs.WalkDir(os.DirFS(o.Payload), share, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("list what is to be installed: %w", err)
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		return add(name, 0o644)
	})
	if err != nil {
		return nil, err
	}
	configuration := textFile(configurationPath, o.Configuration)
	configuration.yield = true
	return append(files, configuration), nil
}

// Install brings a node to what the options say, whatever an earlier
// installation, whole or not, has left.
func Install(ctx context.Context, o Options) error {
	if err := o.validate(); err != nil {
		return err
	}
	files, err := o.payload()
	if err != nil {
		return err
	}
	in, closeAll, err := open(o)
	if err != nil {
		return err
	}
	defer closeAll()
	return in.install(ctx, files)
}

func (in *installation) install(ctx context.Context, files []file) error {
	old := in.receipt
	if old == nil {
		old = &receipt{Prefix: in.Handler.Prefix, Handler: in.Handler.Name}
	}
	if old.Prefix != in.Handler.Prefix || old.Handler != in.Handler.Name {
		return fmt.Errorf("the node has it below %s with the handler %s, and running pods may need that: remove it first", old.Prefix, old.Handler)
	}
	files, err := in.needed(old, files)
	if err != nil {
		return err
	}
	managers, err := in.planManagers(ctx, old)
	if err != nil {
		return err
	}

	// Written before anything is done: what may be found from now on.
	next := old.clone()
	next.Version, next.Complete = in.Version, false
	keep := make(map[string]bool)
	for _, f := range files {
		if err := in.note(next, f); err != nil {
			return err
		}
		keep[f.name] = true
	}
	for _, m := range managers {
		if err := in.noteManager(next, m); err != nil {
			return err
		}
		keep[m.file.name] = true
	}
	if err := in.noteOthers(next, keep); err != nil {
		return err
	}
	if err := in.save(next); err != nil {
		return err
	}

	for _, f := range files {
		if err := in.put(f); err != nil {
			return err
		}
	}
	if err := in.check(ctx); err != nil {
		return err
	}
	for _, m := range managers {
		if err := in.configure(ctx, next, m); err != nil {
			return err
		}
	}
	if err := in.dropOthers(next, keep); err != nil {
		return err
	}
	if err := in.restart(ctx, next); err != nil {
		return err
	}
	if err := in.label(ctx, true); err != nil {
		return err
	}
	for _, f := range files {
		next.Files[f.name] = []string{f.hash}
	}
	for _, m := range managers {
		if !m.edit {
			next.Files[m.file.name] = []string{m.file.hash}
		}
	}
	next.Complete = true
	return in.save(next)
}

// needed leaves out the files that others have put there, and refuses to replace
// any.
func (in *installation) needed(old *receipt, files []file) ([]file, error) {
	var needed []file
	for _, f := range files {
		is, err := in.tree.hash(f.name)
		if err != nil {
			return nil, err
		}
		recorded := old.Files[f.name]
		switch {
		case is == "" || slices.Contains(recorded, is):
			needed = append(needed, f)
		case f.yield:
			in.Log.Info("kept as it is: it is not what was installed", "file", f.name)
		case is == f.hash:
			in.Log.Info("there already, and nobody's to remove", "file", f.name)
		default:
			return nil, fmt.Errorf("%s on the node was not put there by this program, or was changed since: remove it (`make uninstall` for an installation by hand), or choose another --prefix", f.name)
		}
	}
	return needed, nil
}

// note writes a file that will be installed into the receipt.
func (in *installation) note(r *receipt, f file) error {
	dirs, err := in.tree.missingDirs(f.name)
	if err != nil {
		return err
	}
	r.addDirs(dirs)
	r.addFile(f.name, f.hash)
	return nil
}

func (in *installation) save(r *receipt) error {
	if in.receipt != nil && r.equal(in.receipt) {
		return nil
	}
	if err := in.tree.saveReceipt(r); err != nil {
		return err
	}
	in.receipt = r.clone()
	return nil
}

// put installs a file unless it is there.
func (in *installation) put(f file) error {
	is, err := in.tree.hash(f.name)
	if err != nil || is == f.hash {
		return err
	}
	content, err := f.open()
	if err != nil {
		return fmt.Errorf("read what is to be installed as %s: %w", f.name, err)
	}
	defer content.Close()
	in.Log.Info("install", "file", f.name)
	return in.tree.write(f.name, f.mode, content)
}

// check asks the installed program whether the node can run VMs.
func (in *installation) check(ctx context.Context) error {
	if in.SkipCheck {
		return nil
	}
	program := path.Join(in.Handler.Prefix, "bin", runtimeProgram)
	output, err := in.Run(ctx, program, "check")
	if err != nil {
		return fmt.Errorf("the files are installed, the managers do not know of them yet, because the node cannot run VMs (--skip-check goes on all the same): %w", err)
	}
	in.Log.Debug("the node can run VMs", "check", string(bytes.TrimSpace(output)))
	return nil
}

// noteOthers writes into the receipt what dropOthers will make known to managers.
func (in *installation) noteOthers(r *receipt, keep map[string]bool) error {
	for _, name := range r.managerFiles() {
		if keep[name] {
			continue
		}
		found, err := in.tree.exists(name)
		if err != nil {
			return err
		}
		if found {
			r.addRestart(unitOf(name))
		}
	}
	return nil
}

// configure changes one manager's configuration. The receipt tells first that the
// manager has to be restarted.
func (in *installation) configure(ctx context.Context, r *receipt, m managerPlan) error {
	if !m.changed {
		return nil
	}
	before := r.clone()
	r.addRestart(m.unit)
	if err := in.save(r); err != nil {
		return err
	}
	if err := m.apply(ctx); err != nil {
		return errors.Join(err, in.save(before)) // nothing has changed
	}
	return nil
}

// dropOthers removes what an earlier installation did and this one does not.
func (in *installation) dropOthers(r *receipt, keep map[string]bool) error {
	for _, name := range slices.Sorted(maps.Keys(r.Edited)) {
		if keep[name] {
			continue
		}
		in.Log.Info("take the handler out, no longer needed", "file", name)
		if _, err := in.tree.undo(name, r.Edited[name].Created); err != nil {
			return err
		}
		delete(r.Edited, name)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		if keep[name] {
			continue
		}
		is, err := in.tree.hash(name)
		if err != nil {
			return err
		}
		if is != "" && !slices.Contains(r.Files[name], is) {
			// Somebody has changed it: it is theirs now, and stays in the
			// receipt only if it may become ours again.
			continue
		}
		in.Log.Info("remove, no longer needed", "file", name)
		if err := in.tree.removeFile(name); err != nil {
			return err
		}
		delete(r.Files, name)
	}
	return nil
}

// restart makes the managers read their configurations.
func (in *installation) restart(ctx context.Context, r *receipt) error {
	for len(r.Restart) > 0 {
		unit := r.Restart[0]
		if !in.Restart {
			in.Log.Warn("restart it to make the change known: systemctl restart "+unit, "unit", unit)
			r.Restart = r.Restart[1:]
			continue
		}
		in.Log.Info("restart", "unit", unit)
		if err := in.Restarter(ctx, unit); err != nil {
			return err
		}
		r.Restart = r.Restart[1:]
		if err := in.save(r); err != nil {
			return err
		}
	}
	return nil
}

// label tells the cluster that the node has the runtime, or has it no longer.
func (in *installation) label(ctx context.Context, present bool) error {
	if in.Label == "" {
		return nil
	}
	key, value, _ := strings.Cut(in.Label, "=")
	in.Log.Info("label", "node", in.NodeName, "key", key, "present", present)
	if present {
		return in.Labeler(ctx, in.NodeName, key, &value)
	}
	return in.Labeler(ctx, in.NodeName, key, nil)
}
