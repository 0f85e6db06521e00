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
	// parameters are those of preload, by module.
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

func newLoader(log *slog.Logger, deny []string) *loader {
	l := &loader{log: log, attempts: map[string]*attempt{}, told: map[string]bool{}, parameters: map[string]string{}}
	for _, name := range append(never(), deny...) {
		l.denied = append(l.denied, normalize(name))
	}
	return l
}

// preload loads modules before there are requests. Each is a name, with parameters behind
// it.
func (l *loader) preload(modules []string) error {
	for _, line := range modules {
		name, parameters, _ := strings.Cut(strings.TrimSpace(line), " ")
		l.parameters[normalize(name)] = strings.TrimSpace(parameters)
	}
	for _, line := range modules {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
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

// indexed reads the index with the first request. An error stays: what is wrong then is
// the host's installation.
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
	var steps []step
	seen := map[string]bool{}
	var visit func(name string, optional bool) error
	visit = func(name string, optional bool) error {
		m := known.modules[name]
		switch {
		case seen[name]:
			return nil
		case m == nil:
			return fmt.Errorf("module %s: %w", name, errUnknown)
		case slices.Contains(l.denied, name):
			return fmt.Errorf("module %s: %w", name, errDenied)
		}
		seen[name] = true
		before := len(steps)
		for _, alias := range m.soft {
			for _, other := range known.find(alias) {
				_ = visit(other, true) // it does without
			}
		}
		for _, other := range m.needs {
			if err := visit(other, optional); err != nil {
				steps = steps[:before]
				return fmt.Errorf("module %s needs: %w", name, err)
			}
		}
		steps = append(steps, step{m, optional})
		return nil
	}
	err := visit(name, false)
	return steps, err
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
