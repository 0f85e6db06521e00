package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// DefaultContainerdConfig is where containerd reads its configuration.
const DefaultContainerdConfig = "/etc/containerd/config.toml"

// dropInName is the name of our file in a directory that containerd imports.
const dropInName = "50-kata.toml"

const containerdUnit = "containerd.service"

// containerd is the node's containerd and its configuration.
type containerd struct {
	tree    tree
	run     Runner
	program string // on the node
	config  string // on the node

	major, minor int

	text  string // the configuration, with our block if it has one
	found bool
	// main is text without our block, decoded.
	main struct {
		Version  int            `toml:"version"`
		Imports  []string       `toml:"imports"`
		Disabled []string       `toml:"disabled_plugins"`
		Plugins  map[string]any `toml:"plugins"`
	}
}

// openContainerd looks at the node's containerd. It refuses what it would not
// know how to configure.
func openContainerd(ctx context.Context, t tree, run Runner, program, config string) (*containerd, error) {
	c := &containerd{tree: t, run: run, program: program, config: config}
	if c.program == "" {
		var err error
		if c.program, err = t.find("containerd"); err != nil {
			return nil, err
		}
		if c.program == "" {
			return nil, fmt.Errorf("the node has no containerd in %s: name it with --containerd", strings.Join(programDirs(), ", "))
		}
	}
	output, err := run(ctx, c.program, "--version")
	if err != nil {
		return nil, err
	}
	if c.major, c.minor, err = containerdVersion(string(output)); err != nil {
		return nil, err
	}
	if c.text, c.found, err = t.read(config); err != nil {
		return nil, err
	}
	if err := c.decode(); err != nil {
		return nil, fmt.Errorf("containerd's configuration %s: %w", config, err)
	}
	return c, nil
}

var versionPattern = regexp.MustCompile(`^containerd \S+ v?(\d+)\.(\d+)`)

// containerdVersion reads what `containerd --version` prints.
func containerdVersion(output string) (major, minor int, err error) {
	match := versionPattern.FindStringSubmatch(strings.TrimSpace(output))
	if match == nil {
		return 0, 0, fmt.Errorf("`containerd --version` prints %q, in which there is no version", strings.TrimSpace(output))
	}
	if major, err = strconv.Atoi(match[1]); err == nil {
		minor, err = strconv.Atoi(match[2])
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read containerd's version from %q: %w", match[0], err)
	}
	if major < 1 || major == 1 && minor < 6 || major > 2 {
		return 0, 0, fmt.Errorf("containerd %d.%d: only 1.6, 1.7 and 2 are known", major, minor)
	}
	return major, minor, nil
}

func (c *containerd) decode() error {
	if !c.found {
		switch {
		case c.major == 1:
			c.main.Version = 2
		case c.minor < 3:
			c.main.Version = 3
		default:
			c.main.Version = 4
		}
		return nil
	}
	before, body, after, err := splitBlock(c.text)
	if err != nil {
		return err
	}
	text := before + after
	if body != nil && strings.HasPrefix(*body, "version") { // we made the file
		version, _, _ := strings.Cut(*body, "\n")
		text = version + "\n" + text
	}
	if _, err := toml.Decode(text, &c.main); err != nil {
		return fmt.Errorf("read it as TOML: %w", err)
	}
	if c.main.Version < 2 || c.main.Version > 4 {
		return fmt.Errorf("it is of version %d (none is 1), and only 2, 3 and 4 are known: "+
			"`containerd config migrate` prints it in a newer one", c.main.Version)
	}
	for _, plugin := range []string{"cri", pluginVersion2, pluginVersion3} {
		if slices.Contains(c.main.Disabled, plugin) {
			return fmt.Errorf("it disables the CRI plugin (%q in disabled_plugins), through which Kubernetes uses containerd: take it out of that list", plugin)
		}
	}
	return nil
}

// dropIn is the path of our file in a directory that the configuration imports,
// "" where there is none or where that would do harm: before version 2 an
// imported file replaces all that the main one says of a plugin; from then on
// they are merged.
func (c *containerd) dropIn() string {
	if c.major < 2 {
		return ""
	}
	for _, pattern := range c.main.Imports {
		pattern = filepath.Clean(pattern)
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(c.config), pattern)
		}
		name := filepath.Join(filepath.Dir(pattern), dropInName)
		if strings.Contains(filepath.Dir(pattern), "*") || !strings.Contains(pattern, "*") {
			continue
		}
		if matches, err := filepath.Match(pattern, name); err == nil && matches {
			return name
		}
	}
	return ""
}

// dump is what containerd makes of a configuration, the CRI plugin's runtimes
// among it.
type dump struct {
	values   map[string]any // by path
	runtimes map[string]any
	defaults string
}

func (c *containerd) dump(ctx context.Context, config string) (*dump, error) {
	args := []string{"--config", config, "config", "dump"}
	if config == c.config && !c.found {
		args = []string{"config", "default"} // without a file containerd has this; dump of 1.6 needs one
	}
	output, err := c.run(ctx, c.program, args...)
	if err != nil {
		return nil, err
	}
	var all map[string]any
	if _, err := toml.Decode(string(output), &all); err != nil {
		return nil, fmt.Errorf("read what `containerd config dump` prints: %w", err)
	}
	d := &dump{values: make(map[string]any)}
	flatten(d.values, "", all)
	for _, plugin := range []string{pluginVersion3, pluginVersion2} {
		settings := at(all, "plugins", plugin, "containerd")
		if runtimes := at(settings, "runtimes"); runtimes != nil {
			d.runtimes = runtimes
			d.defaults, _ = settings["default_runtime_name"].(string)
			break
		}
	}
	return d, nil
}

// at is a table in a table, nil where there is none.
func at(table map[string]any, keys ...string) map[string]any {
	for _, key := range keys {
		table, _ = table[key].(map[string]any)
	}
	return table
}

func flatten(into map[string]any, prefix string, table map[string]any) {
	for key, value := range table {
		name := strings.TrimPrefix(prefix+"."+strconv.Quote(key), ".")
		if inner, ok := value.(map[string]any); ok {
			flatten(into, name, inner)
			continue
		}
		into[name] = value
	}
}

// systemdCgroup tells whether the runtime that pods have without a class uses
// systemd's control groups.
func (d *dump) systemdCgroup() bool {
	uses, _ := at(d.runtimes, d.defaults, "options")["SystemdCgroup"].(bool)
	return uses
}

// keeps checks a configuration with our handler against the one before: the
// handler is what it should be, and all else what it was.
func (d *dump) keeps(before *dump, h Handler) error {
	got := at(d.runtimes, h.Name)
	if got == nil {
		return fmt.Errorf("containerd does not see the runtime %s in it: a file that is imported (imports = [...]) replaces the CRI plugin's part of this one; "+
			"add the runtime there, or move that part from there into this file", h.Name)
	}
	if got["runtime_type"] != h.runtimeType() || h.FrontEnd == FrontEndOCI && at(got, "options")["BinaryName"] != h.program() {
		return fmt.Errorf("another file that is imported changes the runtime %s: containerd sees %v", h.Name, got)
	}
	ours := `."runtimes".` + strconv.Quote(h.Name)
	for name, was := range before.values {
		if strings.Contains(name, ours) || name == `"imports"` {
			continue
		}
		if is, found := d.values[name]; !found || !reflect.DeepEqual(is, was) {
			return fmt.Errorf("with the runtime %s in it containerd would lose or change what it says of %s: %v becomes %v", h.Name, name, was, is)
		}
	}
	return nil
}

// plan is how the handler gets into the configuration.
type containerdPlan struct {
	handler Handler
	before  *dump
	// name is the file that is written, text its content.
	name, text string
	// edit: the file is containerd's own, and gets a block of ours.
	edit bool
}

// plan decides what to write. explicit is what the caller says of systemd's
// control groups; nil: do what the default runtime does.
func (c *containerd) plan(ctx context.Context, h Handler, explicit *bool, ours func(name string) bool) (*containerdPlan, error) {
	before, err := c.dump(ctx, c.config)
	if err != nil {
		return nil, fmt.Errorf("containerd does not understand its configuration as it is: %w", err)
	}
	if h.SystemdCgroup = before.systemdCgroup(); explicit != nil {
		h.SystemdCgroup = *explicit
	}
	p := &containerdPlan{handler: h, before: before}
	_, block, _, err := splitBlock(c.text)
	if err != nil {
		return nil, fmt.Errorf("containerd's configuration %s: %w", c.config, err)
	}
	dropIn := c.dropIn()
	if block == nil && dropIn != "" {
		p.name = dropIn
		p.text = dropInText(c.main.Version, h)
	} else {
		p.name, p.edit = c.config, true
		body := h.Containerd(c.main.Version)
		if c.losesRuntimes() {
			others, err := runtimesText(before.runtimes, h.Name, c.main.Version)
			if err != nil {
				return nil, err
			}
			body += "# containerd 1 has runtimes of its own only while none is named. These are they:\n" + others
		}
		if !c.found || block != nil && strings.HasPrefix(*block, "version") {
			body = fmt.Sprintf("version = %d\n", c.main.Version) + body
		}
		if p.text, err = setBlock(c.text, body); err != nil {
			return nil, fmt.Errorf("containerd's configuration %s: %w", c.config, err)
		}
	}
	if at(before.runtimes, h.Name) != nil && block == nil && !ours(p.name) {
		return nil, fmt.Errorf("containerd's configuration %s has a runtime %s already, which this program did not write: "+
			"take it out, or choose another name with --handler", c.config, h.Name)
	}
	return p, nil
}

// losesRuntimes tells whether the first runtime in the configuration replaces
// those that containerd has by itself, runc: so it is before version 2, whereas
// later ones add to them.
func (c *containerd) losesRuntimes() bool {
	return c.major < 2 && len(at(c.main.Plugins, pluginVersion2, "containerd", "runtimes")) == 0
}

// runtimesText writes runtimes out as a dump has them, but for the one named.
func runtimesText(runtimes map[string]any, but string, version int) (string, error) {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(runtimes)) {
		if name == but {
			continue
		}
		table := Handler{Name: name}.table(version)
		settings := maps.Clone(at(runtimes, name))
		options := at(settings, "options")
		delete(settings, "options")
		for _, part := range []struct {
			table  string
			values map[string]any
		}{{table, settings}, {table + ".options", options}} {
			if len(part.values) == 0 {
				continue
			}
			fmt.Fprintf(&b, "[%s]\n", part.table)
			if err := toml.NewEncoder(&b).Encode(part.values); err != nil {
				return "", fmt.Errorf("write out containerd's runtime %s: %w", name, err)
			}
		}
	}
	return b.String(), nil
}

func dropInText(version int, h Handler) string {
	return fmt.Sprintf("# Written by `kata-runtime node install`, removed by `kata-runtime node remove`.\nversion = %d\n%s", version, h.Containerd(version))
}

// apply writes the file, unless containerd would not see in it what it should.
func (c *containerd) apply(ctx context.Context, p *containerdPlan) error {
	if p.edit {
		return c.applyEdit(ctx, p)
	}
	old, existed, err := c.tree.read(p.name)
	if err != nil {
		return err
	}
	if err := c.tree.write(p.name, 0o644, strings.NewReader(p.text)); err != nil {
		return err
	}
	// Nothing reads it before containerd is started again.
	if err = c.verify(ctx, c.config, p); err == nil {
		return nil
	}
	if existed {
		return errors.Join(err, c.tree.write(p.name, 0o644, strings.NewReader(old)))
	}
	return errors.Join(err, c.tree.removeFile(p.name))
}

func (c *containerd) applyEdit(ctx context.Context, p *containerdPlan) error {
	mode, err := c.tree.modeOf(p.name)
	if err != nil {
		return err
	}
	if err := c.tree.stage(p.name, mode, strings.NewReader(p.text)); err != nil {
		return err
	}
	// In the same directory, so that relative imports are found.
	if err := c.verify(ctx, temporary(p.name), p); err != nil {
		return errors.Join(err, c.tree.removeFile(temporary(p.name)))
	}
	return c.tree.commit(p.name)
}

func (c *containerd) verify(ctx context.Context, config string, p *containerdPlan) error {
	after, err := c.dump(ctx, config)
	if err != nil {
		return fmt.Errorf("containerd's configuration %s is left as it is, because containerd does not understand it with this at its end "+
			"(are tables written as `name = {...}`? then add it by hand):\n%s%w", c.config, p.handler.Containerd(c.main.Version), err)
	}
	if err := after.keeps(p.before, p.handler); err != nil {
		return fmt.Errorf("containerd's configuration %s is left as it is: %w", c.config, err)
	}
	return nil
}

// undo takes our block out of a configuration. created tells that there was no
// file before.
func (t tree) undo(name string, created bool) (changed bool, err error) {
	text, found, err := t.read(name)
	if err != nil || !found {
		return false, err
	}
	_, block, _, err := splitBlock(text)
	if err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	if block == nil {
		return false, nil
	}
	rest, err := dropBlock(text)
	if err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	if created && strings.TrimSpace(rest) == "" {
		if err := t.removeFile(name); err != nil {
			return false, err
		}
		return true, t.syncDir(path.Dir(name))
	}
	if version, _, _ := strings.Cut(*block, "\n"); strings.HasPrefix(version, "version") {
		rest = version + "\n" + rest // somebody has added to the file that we made
	}
	mode, err := t.modeOf(name)
	if err != nil {
		return false, err
	}
	return true, t.write(name, mode, strings.NewReader(rest))
}
