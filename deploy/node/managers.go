package node

import (
	"context"
	"errors"
	"slices"
)

// managerPlan is the change of one manager's configuration.
type managerPlan struct {
	unit string
	file file
	// edit: the file is not ours, a block in it is.
	edit    bool
	created bool
	apply   func(ctx context.Context) error
	// changed: the file is not what it is to be.
	changed bool
}

// errNoManager says what was looked for.
var errNoManager = errors.New("the node has neither containerd (in " + DefaultContainerdConfig + " or a program of that name) nor CRI-O (" + crioDir + "): name what to configure with --manager")

// planManagers decides what each manager's configuration becomes.
func (in *installation) planManagers(ctx context.Context, old *receipt) ([]managerPlan, error) {
	managers := in.Managers
	if len(managers) == 0 {
		var err error
		if managers, err = in.findManagers(); err != nil {
			return nil, err
		}
	}
	var plans []managerPlan
	for _, manager := range managers {
		plan := in.planContainerd
		if manager == ManagerCRIO {
			plan = in.planCRIO
		}
		p, err := plan(ctx, old)
		if err != nil {
			return nil, err
		}
		plans = append(plans, *p)
	}
	return plans, nil
}

func (in *installation) findManagers() ([]Manager, error) {
	var managers []Manager
	config, err := in.tree.exists(in.ContainerdConfig)
	if err != nil {
		return nil, err
	}
	program, err := in.tree.find("containerd")
	if err != nil {
		return nil, err
	}
	if config || program != "" || in.Containerd != "" {
		managers = append(managers, ManagerContainerd)
	}
	crio, err := in.tree.hasCRIO()
	if err != nil {
		return nil, err
	}
	if crio {
		managers = append(managers, ManagerCRIO)
	}
	if len(managers) == 0 {
		return nil, errNoManager
	}
	return managers, nil
}

func (in *installation) planContainerd(ctx context.Context, old *receipt) (*managerPlan, error) {
	c, err := openContainerd(ctx, in.tree, in.Run, in.Containerd, in.ContainerdConfig)
	if err != nil {
		return nil, err
	}
	ours := func(name string) bool { return len(old.Files[name]) > 0 }
	p, err := c.plan(ctx, in.Handler, in.SystemdCgroup, ours)
	if err != nil {
		return nil, err
	}
	m := &managerPlan{unit: containerdUnit, file: textFile(p.name, p.text), edit: p.edit}
	if p.edit {
		m.created = !c.found || old.Edited[p.name].Created
		m.changed = p.text != c.text
	} else if m.changed, err = in.ownFile(old, m.file); err != nil {
		return nil, err
	}
	m.apply = func(ctx context.Context) error {
		in.Log.Info("configure containerd", "file", p.name, "added", p.handler.Containerd(c.main.Version))
		return c.apply(ctx, p)
	}
	return m, nil
}

func (in *installation) planCRIO(_ context.Context, old *receipt) (*managerPlan, error) {
	text, err := in.tree.planCRIO(in.Handler)
	if err != nil {
		return nil, err
	}
	m := &managerPlan{unit: crioUnit, file: textFile(crioDropIn, text)}
	if m.changed, err = in.ownFile(old, m.file); err != nil {
		return nil, err
	}
	m.apply = func(context.Context) error { return in.put(m.file) }
	return m, nil
}

// ownFile tells whether a file has to be written, and refuses one that is not ours.
func (in *installation) ownFile(old *receipt, f file) (changed bool, err error) {
	is, err := in.tree.hash(f.name)
	if err != nil {
		return false, err
	}
	if is == "" || slices.Contains(old.Files[f.name], is) {
		return is != f.hash, nil
	}
	_, err = in.needed(old, []file{f})
	return false, err
}

// noteManager writes a manager's change into the receipt.
func (in *installation) noteManager(r *receipt, m managerPlan) error {
	dirs, err := in.tree.missingDirs(m.file.name)
	if err != nil {
		return err
	}
	r.addDirs(dirs)
	if m.edit {
		if r.Edited == nil {
			r.Edited = make(map[string]edited)
		}
		r.Edited[m.file.name] = edited{Created: m.created}
	} else {
		r.addFile(m.file.name, m.file.hash)
	}
	return nil
}
