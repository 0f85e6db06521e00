package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Remove takes away what Install has done, all of it or what there is. Of the
// options it needs Root, what a label and a restart need, and Log.
func Remove(ctx context.Context, o Options) error {
	if o.Label != "" && (!labelPattern.MatchString(o.Label) || o.NodeName == "" || o.Labeler == nil) {
		return fmt.Errorf("the label is %q: it must be KEY=VALUE, and the node's name must be known: --node", o.Label)
	}
	in, closeAll, err := open(o)
	if err != nil {
		return err
	}
	defer closeAll()
	// The scheduler first: no more pods come.
	if err := in.label(ctx, false); err != nil {
		return err
	}
	if in.receipt == nil {
		in.Log.Info("nothing is installed")
		return in.tree.removeDir(receiptDir)
	}
	pods, err := in.tree.runningPods()
	if err != nil {
		return err
	}
	if pods > 0 {
		return fmt.Errorf("%d pods of this runtime still run on the node, and could not be ended without it: drain the node (kubectl drain), then try again", pods)
	}
	return in.remove(ctx)
}

func (in *installation) remove(ctx context.Context) error {
	r := in.receipt.clone()
	r.Complete = false
	if err := in.removeHandlers(r); err != nil {
		return err
	}
	if err := in.restart(ctx, r); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		if err := in.removeOwn(r, name); err != nil {
			return err
		}
	}
	for _, dir := range slices.Backward(r.Dirs) {
		if err := in.tree.removeDir(dir); err != nil {
			return err
		}
	}
	if err := errors.Join(in.tree.removeFile(temporary(receiptPath)), in.tree.removeFile(receiptPath)); err != nil {
		return err
	}
	return in.tree.removeDir(receiptDir)
}

// removeHandlers makes the managers forget the handler, the receipt first.
func (in *installation) removeHandlers(r *receipt) error {
	for _, name := range r.managerFiles() {
		text, found, err := in.tree.read(name)
		if err != nil {
			return err
		}
		if _, edited := r.Edited[name]; edited {
			_, block, _, err := splitBlock(text)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			found = block != nil
		}
		if found {
			r.addRestart(unitOf(name))
		}
	}
	if err := in.save(r); err != nil {
		return err
	}
	for _, name := range r.managerFiles() {
		edit, edited := r.Edited[name]
		if !edited {
			if err := in.removeOwn(r, name); err != nil {
				return err
			}
			continue
		}
		if err := in.tree.removeFile(temporary(name)); err != nil {
			return err
		}
		changed, err := in.tree.undo(name, edit.Created)
		if err != nil {
			return err
		}
		if changed {
			in.Log.Info("take the handler out", "file", name)
		}
	}
	return nil
}

// removeOwn removes an installed file unless somebody has changed it.
func (in *installation) removeOwn(r *receipt, name string) error {
	if err := in.tree.removeFile(temporary(name)); err != nil {
		return err
	}
	is, err := in.tree.hash(name)
	if err != nil {
		return err
	}
	switch {
	case is == "":
		return nil
	case !slices.Contains(r.Files[name], is):
		in.Log.Warn("left: it was changed since it was installed", "file", name)
		return nil
	}
	in.Log.Info("remove", "file", name)
	return in.tree.removeFile(name)
}
