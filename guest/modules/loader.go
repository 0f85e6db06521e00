package modules

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// never are modules that no configuration allows: with them, containers could take
// the guest's vsock for the host's.
func never() []string { return []string{"vhost_vsock", "vsock_loopback"} }

// maxTold is how many failures are logged, each once. Containers choose the names.
const maxTold = 100

// loader loads what it is asked for. Its methods may be called from any goroutine.
type loader struct {
	log    *slog.Logger
	denied []string
	// open reads the index; insert gives the kernel a module; present tells those
	// that it has.
	open    func() (*index, error)
	insert  func(content []byte, parameters string) error
	present func(name string) bool
	// commandLine is the kernel's, which has parameters of modules.
	commandLine string
	// first are the names of what preload loads, and parameters theirs, by module.
	first      []string
	parameters map[string]string

	indexing sync.Mutex // guards what follows
	index    *index

	mu       sync.Mutex // guards what follows
	attempts map[string]*attempt
	told     map[string]bool
}

// attempt is a module's insertion, for all that want it.
type attempt struct {
	done chan struct{}
	err  error
}

// newLoader returns a loader that never loads what deny names. Each line of first is the
// name of a module that preload loads, with its parameters behind it.
func newLoader(log *slog.Logger, deny, first []string) *loader {
	l := &loader{log: log, attempts: map[string]*attempt{}, told: map[string]bool{}, parameters: map[string]string{}}
	for _, name := range append(never(), deny...) {
		l.denied = append(l.denied, normalize(name))
	}
	for _, line := range first {
		name, parameters, _ := strings.Cut(strings.TrimSpace(line), " ")
		l.first = append(l.first, name)
		l.parameters[normalize(name)] = strings.TrimSpace(parameters)
	}
	return l
}

// preload loads the modules that are to be there from the start. The kernel may ask for
// others, or for these, meanwhile.
func (l *loader) preload() error {
	for _, name := range l.first {
		if err := l.request(name); err != nil {
			return fmt.Errorf("kernel_modules in [agent.kata] of the configuration: %w", err)
		}
	}
	return nil
}

// request does what modprobe(8) does: it loads the modules that a name or alias
// stands for, with all that they need.
func (l *loader) request(name string) error {
	loaded, err := l.load(name)
	if len(loaded) > 0 {
		l.log.Info("kernel modules loaded", "modules", loaded, "request", name)
	}
	switch {
	case errors.Is(err, errUnknown):
		l.log.Debug("the kernel asks for a module that there is not", "request", name)
	case err != nil && l.tell(name):
		l.log.Warn("kernel module not loaded", "request", name, "error", err)
	}
	return err
}

func (l *loader) tell(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.told[name] || len(l.told) == maxTold {
		return false
	}
	l.told[name] = true
	return true
}

// load returns what was loaded. One of several modules of an alias is enough.
func (l *loader) load(name string) (loaded []string, err error) {
	known, err := l.indexed()
	if err != nil {
		return nil, err
	}
	if known.builtin[normalize(name)] {
		return nil, nil
	}
	candidates := known.find(name)
	if len(candidates) == 0 {
		return nil, fmt.Errorf("module %s: %w", name, errUnknown)
	}
	var errs []error
	for _, candidate := range candidates {
		more, err := l.loadWithNeeds(known, candidate)
		loaded = append(loaded, more...)
		errs = append(errs, err)
	}
	if slices.Contains(errs, nil) {
		return loaded, nil
	}
	return loaded, errors.Join(errs...)
}

// indexed reads the index with the first request. After an error, which is mostly one of
// the host's installation, the next request tries again.
func (l *loader) indexed() (*index, error) {
	l.indexing.Lock()
	defer l.indexing.Unlock()
	if l.index == nil {
		opened, err := l.open()
		if err != nil {
			return nil, err
		}
		l.index = opened
	}
	return l.index, nil
}

func (l *loader) loadWithNeeds(known *index, name string) (loaded []string, err error) {
	steps, err := l.plan(known, name)
	if err != nil {
		return nil, err
	}
	for _, s := range steps {
		if l.present(s.name) {
			continue
		}
		err := l.once(known, s.module)
		if err == nil {
			loaded = append(loaded, s.name)
		} else if !s.optional {
			return loaded, err
		}
	}
	return loaded, nil
}

// step is a module to load; without an optional one, the rest goes on.
type step struct {
	*module
	optional bool
}

// plan lists what is to be loaded for a module, in order.
func (l *loader) plan(known *index, name string) ([]step, error) {
	p := &planner{loader: l, known: known, seen: map[string]*visit{}}
	err := p.visit(name, false)
	return p.steps, err
}

// planner puts steps together.
type planner struct {
	loader *loader
	known  *index
	steps  []step
	seen   map[string]*visit
}

// visit is what came of a module that was looked at.
type visit struct {
	step int // its number plus one; 0: none, since there is an error, or it is looked at
	err  error
}

// visit adds the steps for a module, unless they are there. Those of what it needs stay
// when it cannot be loaded itself: another module may count on them.
func (p *planner) visit(name string, optional bool) error {
	if before := p.seen[name]; before != nil {
		if before.step > 0 && !optional {
			p.steps[before.step-1].optional = false
		}
		return before.err
	}
	now := &visit{}
	p.seen[name] = now
	now.err = p.add(name, optional)
	if now.err == nil {
		now.step = len(p.steps)
	}
	return now.err
}

func (p *planner) add(name string, optional bool) error {
	m := p.known.modules[name]
	switch {
	case m == nil:
		return fmt.Errorf("module %s: %w", name, errUnknown)
	case slices.Contains(p.loader.denied, name):
		return fmt.Errorf("module %s: %w", name, errDenied)
	}
	for _, alias := range m.soft {
		for _, other := range p.known.find(alias) {
			_ = p.visit(other, true) // it does without
		}
	}
	for _, other := range m.needs {
		if err := p.visit(other, optional); err != nil {
			return fmt.Errorf("module %s needs: %w", name, err)
		}
	}
	p.steps = append(p.steps, step{m, optional})
	return nil
}

// once inserts a module, or waits for who does. A module's own code may ask for others
// meanwhile: there is no bound here on what goes on at once, but the kernel's.
func (l *loader) once(known *index, m *module) error {
	l.mu.Lock()
	if running, ok := l.attempts[m.name]; ok {
		l.mu.Unlock()
		<-running.done
		return running.err
	}
	running := &attempt{done: make(chan struct{})}
	l.attempts[m.name] = running
	l.mu.Unlock()

	running.err = l.insertFile(known, m)
	l.mu.Lock()
	delete(l.attempts, m.name)
	l.mu.Unlock()
	close(running.done)
	return running.err
}

func (l *loader) insertFile(known *index, m *module) error {
	content, err := known.read(m.path)
	if err != nil {
		return fmt.Errorf("module %s: %w", m.name, err)
	}
	parameters := strings.TrimSpace(parametersOf(l.commandLine, m.name) + " " + l.parameters[m.name])
	if err := l.insert(content, parameters); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("load module %s: %w", m.name, err)
	}
	return nil
}
