package pool

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// saveTemplate saves a machine, of which nothing is real.
func saveTemplate(t *testing.T, slot *Slot, f Fit) {
	t.Helper()
	err := slot.SaveTemplate(t.Context(), f, func(memory *os.File) ([]byte, error) {
		if err := memory.Truncate(1 << 20); err != nil {
			return nil, err
		}
		_, err := memory.WriteAt([]byte("memory"), 4096)
		return []byte("state"), err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wantTemplate opens the template that fits, or demands the reason why there is none.
func wantTemplate(t *testing.T, p *Pool, f Fit, want Reason) {
	t.Helper()
	template, reason, err := p.OpenTemplate(f)
	if template != nil {
		defer template.Memory.Close()
	}
	if reason != want || (template == nil) == (want == "") || (err != nil) != (want == ReasonFailed) {
		t.Fatalf("%v, %q, %v; want %q", template, reason, err, want)
	}
	if template == nil {
		return
	}
	memory, err := io.ReadAll(io.NewSectionReader(template.Memory, 4096, 6))
	if err != nil || string(memory) != "memory" || string(template.State) != "state" {
		t.Errorf("%q and %q, %v", memory, template.State, err)
	}
}

func TestATemplateFitsWhoeverHasTheSameFiles(t *testing.T) {
	p := Open(t.TempDir())
	slot := occupied(t, p, fit(), 1)[0]
	wantTemplate(t, p, fit(), ReasonEmpty)
	saveTemplate(t, slot, fit())
	wantTemplate(t, p, fit(), "")
	elsewhere := fit()
	elsewhere.Surroundings = "elsewhere" // which no guest has seen
	wantTemplate(t, p, elsewhere, "")
	for _, change := range []func(*Fit){
		func(f *Fit) { f.Kind = Shim }, func(f *Fit) { f.Config = "other" }, func(f *Fit) { f.Files = "updated" },
	} {
		other := fit()
		change(&other)
		wantTemplate(t, p, other, ReasonEmpty)
	}
	saveTemplate(t, slot, fit()) // in the place of the other
	wantTemplate(t, p, fit(), "")
	for _, name := range []string{memoryName, stateName, templateName} {
		info, err := os.Stat(filepath.Join(p.template(fit()), name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("others may read %s: %v, %v", name, info.Mode(), err)
		}
	}
	if list, err := p.Templates(); err != nil || len(list) != 1 || list[0].Fit != fit() || list[0].Bytes == 0 || list[0].Bytes >= 1<<20 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := p.DropTemplate(t.Context(), fit()); err != nil {
		t.Error(err)
	}
	wantTemplate(t, p, fit(), ReasonEmpty)
}

// What is not whole, or not of this boot, is no template, and goes when the pool is
// filled.
func TestADamagedTemplate(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(dir string) error
		want   Reason
		stays  bool
	}{
		"another boot": {func(dir string) error {
			var record TemplateRecord
			path := filepath.Join(dir, templateName)
			if err := readJSON(path, &record); err != nil {
				return err
			}
			record.Boot = "another"
			return writeJSON(path, record)
		}, ReasonDied, false},
		"no record":        {func(dir string) error { return os.Remove(filepath.Join(dir, templateName)) }, ReasonEmpty, false},
		"half a record":    {func(dir string) error { return os.Truncate(filepath.Join(dir, templateName), 20) }, ReasonFailed, false},
		"half its state":   {func(dir string) error { return os.Truncate(filepath.Join(dir, stateName), 2) }, ReasonFailed, true},
		"half its memory":  {func(dir string) error { return os.Truncate(filepath.Join(dir, memoryName), 1<<19) }, ReasonFailed, true},
		"without memory":   {func(dir string) error { return os.Remove(filepath.Join(dir, memoryName)) }, ReasonTaken, true},
		"somebody else's":  {func(dir string) error { return os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o777) }, ReasonFailed, true},
		"nothing is wrong": {func(string) error { return nil }, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			p := Open(t.TempDir())
			slot := occupied(t, p, fit(), 1)[0]
			saveTemplate(t, slot, fit())
			if err := c.damage(p.template(fit())); err != nil {
				t.Fatal(err)
			}
			wantTemplate(t, p, fit(), c.want)
			if err := os.Chmod(p.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			fillWithSleep(t, p, fit(), 1)
			if _, err := os.Stat(p.template(fit())); errors.Is(err, fs.ErrNotExist) == c.stays {
				t.Errorf("after the pool was filled: %v", err)
			}
		})
	}
}

func TestAMachineThatIsNotSaved(t *testing.T) {
	p := Open(t.TempDir())
	slot := occupied(t, p, fit(), 1)[0]
	full := errors.New("no space left")
	if err := slot.SaveTemplate(t.Context(), fit(), func(*os.File) ([]byte, error) { return nil, full }); !errors.Is(err, full) {
		t.Error(err)
	}
	wantTemplate(t, p, fit(), ReasonEmpty)
	if left, err := os.ReadDir(p.templates()); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	// Somebody destroys the pool meanwhile.
	record, err := readRecord(slot.dir())
	if err != nil {
		t.Fatal(err)
	}
	err = slot.SaveTemplate(t.Context(), fit(), func(*os.File) ([]byte, error) {
		record.State = Ending
		return nil, writeJSON(filepath.Join(slot.dir(), recordName), record)
	})
	if !errors.Is(err, ErrDiscarded) {
		t.Error(err)
	}
	if left, err := os.ReadDir(p.templates()); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// What a maker that was killed leaves behind goes when the pool is filled; what one that
// lives has so far does not.
func TestHalfATemplate(t *testing.T) {
	p := Open(t.TempDir())
	slot := occupied(t, p, fit(), 1)[0]
	unfinished := filepath.Join(p.templates(), slot.Name()+newSuffix)
	dead := filepath.Join(p.templates(), "dead"+newSuffix)
	for _, dir := range []string{unfinished, dead} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, memoryName), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := p.Templates(); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	fillWithSleep(t, p, fit(), 2)
	if _, err := os.Stat(unfinished); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// The templates of this configuration that nobody can start from go; those of others are
// theirs.
func TestOldTemplates(t *testing.T) {
	p := Open(t.TempDir())
	old, other := fit(), fit()
	old.Files, other.Source = "old", "/other.toml"
	other.Config = "other"
	slot := occupied(t, p, fit(), 1)[0]
	for _, f := range []Fit{old, other, fit()} {
		saveTemplate(t, slot, f)
	}
	fillWithSleep(t, p, fit(), 1)
	wantTemplate(t, p, old, ReasonEmpty)
	wantTemplate(t, p, other, "")
	wantTemplate(t, p, fit(), "")
}

func TestDestroyLeavesNoTemplate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pool")
	p := Open(dir)
	slot := occupied(t, p, fit(), 1)[0]
	saveTemplate(t, slot, fit())
	if err := errors.Join(slot.Remove(), slot.mounts.Close()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Destroy(context.WithoutCancel(t.Context())), p.Destroy(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// Copies that were late together say no more than one does, and those of an earlier
// template nothing.
func TestLateCopiesAtTheSameTime(t *testing.T) {
	p := Open(t.TempDir())
	slot := occupied(t, p, fit(), 1)[0]
	late := func(began time.Time) {
		t.Helper()
		if err := p.TemplateLate(t.Context(), fit(), began); err != nil {
			t.Fatal(err)
		}
	}
	late(time.Now()) // there is none
	early := time.Now()
	saveTemplate(t, slot, fit())
	began := time.Now()
	for range 2 * maxLate {
		late(early)
		late(began)
	}
	wantTemplate(t, p, fit(), "")
	for range maxLate - 2 {
		late(time.Now())
	}
	wantTemplate(t, p, fit(), "")
	if err := p.TemplateAnswered(fit()); err != nil {
		t.Fatal(err)
	}
	for range maxLate - 1 {
		late(time.Now())
	}
	wantTemplate(t, p, fit(), "")
	// What cannot be read is no reason to keep it.
	if err := os.WriteFile(filepath.Join(p.template(fit()), lateName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.TemplateLate(t.Context(), fit(), time.Now()); err == nil {
		t.Error("no error")
	}
	wantTemplate(t, p, fit(), ReasonEmpty)
}
