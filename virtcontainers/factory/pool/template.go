package pool

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/store"
)

const (
	templatesName = "templates"
	// What a template consists of. Its record is written last.
	templateName = "template.json"
	memoryName   = "memory"
	stateName    = "state"
	// lateName is there while copies were late and none has answered since.
	lateName = "late.json"
	// newSuffix is that of a template that is being saved, by the machine of that name.
	newSuffix = ".new"
	// maxState is more than the state of a machine takes.
	maxState = 64 << 20
	// maxLate is how often copies may be late, one after the other, before it is the
	// template that they are late for. A host that is that slow for so long gains nothing
	// from it.
	maxLate = 3
)

// Template is a saved machine.
type Template struct {
	// Memory is the guest's, with holes where there is nothing. Whoever opens the template
	// closes it.
	Memory *os.File
	State  []byte
}

// TemplateRecord is what is known of a template.
type TemplateRecord struct {
	// Bytes is what it takes of memory, or of a disk; only Templates tells.
	Bytes int64 `json:"-"`

	Fit  Fit       `json:"fit"`
	Made time.Time `json:"made"`
	// Boot is the host's boot that it belongs to.
	Boot string `json:"boot"`
	// MemoryBytes is the size of its memory, holes included; StateSum tells whether its
	// state is whole.
	MemoryBytes int64  `json:"memoryBytes"`
	StateSum    string `json:"stateSum"`
}

func (p *Pool) templates() string { return p.path(templatesName) }

// template is the directory of the template that fits. What the surroundings of its maker
// were does not count: nothing of them is in the guest.
func (p *Pool) template(fit Fit) string {
	return filepath.Join(p.templates(), digestOf(fmt.Appendf(nil, "%s %s %s", fit.Kind, fit.Config, fit.Files)))
}

// bootID tells the host's boots apart.
func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("find out which boot of the host this is: %w", err)
	}
	return string(bytes.TrimSpace(id)), nil
}

// OpenTemplate opens the template that fits. Without one it tells why.
func (p *Pool) OpenTemplate(fit Fit) (*Template, Reason, error) {
	dir := p.template(fit)
	var record TemplateRecord
	err := readJSON(filepath.Join(dir, templateName), &record)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ReasonEmpty, nil
	}
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return nil, ReasonFailed, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, ReasonFailed, err
	}
	if record.Boot != boot {
		return nil, ReasonDied, nil
	}
	template, err := openTemplate(dir, record)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ReasonTaken, nil // it was removed just now
	}
	if err != nil {
		return nil, ReasonFailed, fmt.Errorf("open the saved machine %s: %w", dir, err)
	}
	return template, "", nil
}

func openTemplate(dir string, record TemplateRecord) (_ *Template, err error) {
	t := &Template{}
	if t.State, err = readState(filepath.Join(dir, stateName)); err != nil {
		return nil, err
	}
	if sumOf(t.State) != record.StateSum {
		return nil, errors.New("its state is not what was saved")
	}
	if t.Memory, err = os.Open(filepath.Join(dir, memoryName)); err != nil {
		return nil, err
	}
	info, err := t.Memory.Stat()
	if err == nil && info.Size() != record.MemoryBytes {
		err = fmt.Errorf("its memory has %d bytes, not %d", info.Size(), record.MemoryBytes)
	}
	if err != nil {
		return nil, errors.Join(err, t.Memory.Close())
	}
	return t, nil
}

func readState(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxState))
}

func sumOf(state []byte) string {
	sum := sha256.Sum256(state)
	return hex.EncodeToString(sum[:])
}

// SaveTemplate makes a template that fits, of what save writes to its memory, which is
// returned to it as a file, and returns as its state. Nobody sees half a template.
func (s *Slot) SaveTemplate(ctx context.Context, fit Fit, save func(memory *os.File) (state []byte, err error)) error {
	if err := s.saveTemplate(ctx, fit, save); err != nil {
		return fmt.Errorf("save a machine in the pool %s: %w", s.pool.dir, err)
	}
	return nil
}

func (s *Slot) saveTemplate(ctx context.Context, fit Fit, save func(memory *os.File) ([]byte, error)) (err error) {
	boot, err := bootID()
	if err != nil {
		return err
	}
	dir := filepath.Join(s.pool.templates(), s.name+newSuffix)
	err = os.Mkdir(s.pool.templates(), 0o700)
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	memory, err := os.OpenFile(filepath.Join(dir, memoryName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, memory.Close()) }()
	state, err := save(memory)
	if err != nil {
		return err
	}
	info, err := memory.Stat()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, stateName), state, 0o600); err != nil {
		return err
	}
	err = writeJSON(filepath.Join(dir, templateName), TemplateRecord{
		Fit: fit, Made: time.Now().UTC(), Boot: boot, MemoryBytes: info.Size(), StateSum: sumOf(state),
	})
	if err != nil {
		return err
	}
	return s.publish(ctx, dir, fit)
}

// publish gives a template its name, unless somebody has taken the machine that has saved
// it out of the pool: then the pool is about to go.
func (s *Slot) publish(ctx context.Context, dir string, fit Fit) error {
	lock, err := s.pool.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	record, err := readRecord(s.dir())
	if err == nil && record.State == Ending || errors.Is(err, fs.ErrNotExist) {
		err = ErrDiscarded
	}
	if err == nil {
		err = removeTemplate(s.pool.template(fit))
	}
	if err != nil {
		return err
	}
	return os.Rename(dir, s.pool.template(fit))
}

// DropTemplate removes the template that fits: nothing could be made of it.
func (p *Pool) DropTemplate(ctx context.Context, fit Fit) error {
	lock, err := p.lock(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	return removeTemplate(p.template(fit))
}

// late counts the copies of a template that did not answer in time.
type late struct {
	Copies int `json:"copies"`
	// Last is when the last one was given up.
	Last time.Time `json:"last"`
}

// TemplateLate notes that a copy of the template that fits, which was begun at a moment, has
// not answered in time. It may be the host that was busy then: the template goes when
// maxLate copies were late one after the other, and none has answered. Those that were made
// at the same time count once.
func (p *Pool) TemplateLate(ctx context.Context, fit Fit, began time.Time) error {
	lock, err := p.lock(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	dir := p.template(fit)
	var record TemplateRecord
	switch err := readJSON(filepath.Join(dir, templateName), &record); {
	case errors.Is(err, fs.ErrNotExist), err == nil && record.Made.After(began):
		return nil // it is another one
	case err != nil:
		return err
	}
	path := filepath.Join(dir, lateName)
	var count late
	if err := readJSON(path, &count); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, removeTemplate(dir))
	}
	if began.Before(count.Last) {
		return nil
	}
	count.Copies++
	if count.Copies >= maxLate {
		return removeTemplate(dir)
	}
	count.Last = time.Now()
	return writeJSON(path, count)
}

// TemplateAnswered notes that a copy of the template that fits has answered.
func (p *Pool) TemplateAnswered(fit Fit) error {
	err := os.Remove(filepath.Join(p.template(fit), lateName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget late copies of a saved machine: %w", err)
	}
	return nil
}

// removeTemplate removes a template, its record first: by that it is one.
func removeTemplate(dir string) error {
	err := os.Remove(filepath.Join(dir, templateName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a saved machine: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove a saved machine: %w", err)
	}
	return nil
}

// Templates lists the templates that belong to this boot of the host.
func (p *Pool) Templates() ([]TemplateRecord, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	dirs, err := p.templateDirs()
	if err != nil {
		return nil, err
	}
	var records []TemplateRecord
	for _, dir := range dirs {
		var record TemplateRecord
		if readJSON(filepath.Join(dir, templateName), &record) == nil && record.Boot == boot && !strings.HasSuffix(dir, newSuffix) {
			var stat unix.Stat_t
			if err := unix.Stat(filepath.Join(dir, memoryName), &stat); err == nil {
				record.Bytes = stat.Blocks * 512
			}
			records = append(records, record)
		}
	}
	return records, nil
}

func (p *Pool) templateDirs() ([]string, error) {
	entries, err := os.ReadDir(p.templates())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list saved machines: %w", err)
	}
	dirs := make([]string, len(entries))
	for i, entry := range entries {
		dirs[i] = filepath.Join(p.templates(), entry.Name())
	}
	return dirs, nil
}

// cleanTemplates removes the templates that no pod of this configuration can start from
// any more, those of an earlier boot, and what is left of those whose makers have died.
// The pool is locked.
func (p *Pool) cleanTemplates(fit Fit) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	dirs, err := p.templateDirs()
	errs := []error{err}
	for _, dir := range dirs {
		if name, unfinished := strings.CutSuffix(filepath.Base(dir), newSuffix); unfinished {
			record, err := readRecord(p.machine(name))
			if err != nil && !held(p.machine(name)) || err == nil && !store.Alive(record.PID, record.StartTime) {
				errs = append(errs, removeTemplate(dir))
			}
			continue
		}
		var record TemplateRecord
		err := readJSON(filepath.Join(dir, templateName), &record)
		mine := record.Fit.Kind == fit.Kind && record.Fit.Source == fit.Source
		if err != nil || record.Boot != boot || mine && dir != p.template(fit) {
			errs = append(errs, removeTemplate(dir))
		}
	}
	return errors.Join(errs...)
}

// removeTemplates removes all. The pool is locked, and has no machines.
func (p *Pool) removeTemplates() error {
	if err := os.RemoveAll(p.templates()); err != nil {
		return fmt.Errorf("remove the saved machines: %w", err)
	}
	return nil
}
