// Package debpkg fetches Debian packages through apt and unpacks them into a
// cache, without installing them: nothing of the host's package database
// changes, and no privilege is needed once apt has its package lists.
package debpkg

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"kata-runtime/kernel-config/cache"
)

// Runner runs a program in a directory (the current one if empty) and returns
// its standard output. An error names the program and quotes its standard
// error.
type Runner func(ctx context.Context, dir, program string, args ...string) (string, error)

// Package is one version of a Debian package.
type Package struct {
	Name, Version, Architecture string
	// Depends is the Depends field as the package lists have it.
	Depends string
}

// Source finds and fetches packages.
type Source struct {
	// Run executes apt and dpkg; nil means on this host.
	Run Runner
	// CacheDir is where unpacked packages are kept.
	CacheDir string
	// Arch is Debian's name of the packages' architecture, which is Go's too. Another
	// than the host's has package lists of its own, in CacheDir. Empty: the host's.
	Arch string
}

// Resolve returns apt's candidate for the package name. When apt has never
// heard of it, the package lists may be missing: it refreshes them once, which
// needs root.
func (s *Source) Resolve(ctx context.Context, name string) (Package, error) {
	if s.foreign() && s.stale() {
		_ = s.Update(ctx) // without a network, old lists have to do
	}
	found, err := s.show(ctx, name)
	if err == nil {
		return found, nil
	}
	if updateErr := s.Update(ctx); updateErr != nil {
		return Package{}, errors.Join(err, updateErr)
	}
	return s.show(ctx, name)
}

// Update refreshes apt's package lists. Those of the host's architecture need root.
func (s *Source) Update(ctx context.Context) (err error) {
	if s.foreign() {
		if err := os.MkdirAll(filepath.Join(s.lists(), "partial"), 0o755); err != nil {
			return fmt.Errorf("make a directory for package lists: %w", err)
		}
		// apt does not wait for another.
		unlock, err := cache.Lock(ctx, s.lists()+".lock")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unlock()) }()
	}
	_, err = s.run(ctx, "", "apt-get", s.options("-q", "update")...)
	if err == nil && s.foreign() {
		now := time.Now()
		err = os.Chtimes(s.lists(), now, now)
	}
	return err
}

func (s *Source) foreign() bool { return s.Arch != "" && s.Arch != runtime.GOARCH }

// lists is where the package lists of a foreign architecture are.
func (s *Source) lists() string { return filepath.Join(s.CacheDir, "lists-"+s.Arch) }

// listsFor is how long lists of a foreign architecture are used, which nobody else
// refreshes: a mirror does not keep the packages that they name for ever.
const listsFor = 24 * time.Hour

// stale tells whether lists of a foreign architecture are old. Missing ones are not.
func (s *Source) stale() bool {
	info, err := os.Stat(s.lists())
	return err == nil && time.Since(info.ModTime()) > listsFor
}

// options adds what makes apt look at a foreign architecture alone, and leave the host's
// lists as they are.
func (s *Source) options(args ...string) []string {
	if !s.foreign() {
		return args
	}
	lists, err := filepath.Abs(s.lists())
	if err != nil {
		lists = s.lists()
	}
	return append([]string{
		"-o", "APT::Architecture=" + s.Arch, "-o", "APT::Architectures=" + s.Arch, "-o", "APT::Sandbox::User=root",
		"-o", "Dir::State::Lists=" + lists, "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=",
	}, args...)
}

func (s *Source) show(ctx context.Context, name string) (Package, error) {
	text, err := s.run(ctx, "", "apt-cache", s.options("--no-all-versions", "show", name)...)
	if err != nil {
		return Package{}, fmt.Errorf("find the Debian package %s: %w", name, err)
	}
	found := parseRecord(text)
	if found.Name == "" || found.Version == "" || found.Architecture == "" {
		return Package{}, fmt.Errorf("find the Debian package %s: apt-cache printed no package record", name)
	}
	return found, nil
}

// parseRecord reads the first record of a package list.
func parseRecord(text string) Package {
	var found Package
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() && lines.Text() != "" {
		field, value, ok := strings.Cut(lines.Text(), ": ")
		if !ok {
			continue
		}
		switch field {
		case "Package":
			found.Name = value
		case "Version":
			found.Version = value
		case "Architecture":
			found.Architecture = value
		case "Depends":
			found.Depends = value
		}
	}
	return found
}

// DependencyWithPrefix returns the first dependency of p whose name starts with
// prefix: the real package behind a metapackage. Empty if there is none.
func (p Package) DependencyWithPrefix(prefix string) string {
	for dependency := range strings.SplitSeq(p.Depends, ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(dependency), " ")
		if strings.HasPrefix(name, prefix) {
			return name
		}
	}
	return ""
}

// Key names the package's version in the cache.
func (p Package) Key() string {
	return p.Name + "_" + strings.ReplaceAll(p.Version, ":", "~") + "_" + p.Architecture
}

// Unpack returns a directory that holds the files of the package, as they
// would lie below the root of a file system. The package is fetched only if the
// cache does not have this version yet.
func (s *Source) Unpack(ctx context.Context, p Package) (string, error) {
	dir, err := cache.Get(ctx, s.CacheDir, p.Key(), func(ctx context.Context, dir string) error {
		return s.fetch(ctx, p, dir)
	})
	if err != nil {
		return "", fmt.Errorf("unpack the Debian package %s %s: %w", p.Name, p.Version, err)
	}
	return dir, nil
}

func (s *Source) fetch(ctx context.Context, p Package, dir string) (err error) {
	download, err := os.MkdirTemp(s.CacheDir, ".download.*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(download)) }()
	if err := s.download(ctx, p, download); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(download, "*.deb"))
	if err != nil {
		return err
	}
	if len(files) != 1 {
		return fmt.Errorf("apt-get download left %d packages, want 1", len(files))
	}
	_, err = s.run(ctx, "", "dpkg", "-x", files[0], dir)
	return err
}

// download fetches the package. A version that the lists name may have left
// the mirror since: then the lists are refreshed, for the sake of a mirror that
// moved the file, and the download is tried once more.
func (s *Source) download(ctx context.Context, p Package, dir string) error {
	// As root apt downloads as a user of its own, who cannot write here; it
	// would say so and do it as root all the same.
	args := s.options("-q", "-o", "APT::Sandbox::User=root", "download", p.Name+"="+p.Version)
	_, err := s.run(ctx, dir, "apt-get", args...)
	if err == nil {
		return nil
	}
	if updateErr := s.Update(ctx); updateErr != nil {
		return errors.Join(err, updateErr)
	}
	_, err = s.run(ctx, dir, "apt-get", args...)
	return err
}

func (s *Source) run(ctx context.Context, dir, program string, args ...string) (string, error) {
	if s.Run != nil {
		return s.Run(ctx, dir, program, args...)
	}
	return runHost(ctx, dir, program, args...)
}

func runHost(ctx context.Context, dir, program string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, program, args...)
	command.Dir = dir
	// apt's messages are matched by nobody, but people read them in errors.
	command.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := command.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err,
			strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return string(out), nil
}
