package cgroup

import (
	"errors"
	"testing"
)

func TestConfigure(t *testing.T) {
	for _, c := range []struct {
		options Options
		want    Record
		path    string // of the library's configuration
	}{
		{Options{ID: "c1"}, Record{Name: "c1"}, ""},
		{Options{ID: "c1", Path: "/a/b"}, Record{Name: "c1"}, "/a/b"},
		{Options{ID: "c1", Path: "a/b"}, Record{Name: "c1"}, "a/b"},
		{
			Options{ID: "c1", Path: "kubepods.slice:cri:c1", Systemd: true},
			Record{Systemd: true, Parent: "kubepods.slice", Prefix: "cri", Name: "c1"},
			"",
		},
		{Options{ID: "c1", Systemd: true}, Record{Systemd: true, Parent: "system.slice", Prefix: "kata", Name: "c1"}, ""},
	} {
		record, config, err := configure(c.options)
		if err != nil {
			t.Errorf("%+v: %v", c.options, err)
			continue
		}
		got := *record
		got.Paths = nil
		if got.Systemd != c.want.Systemd || got.Parent != c.want.Parent || got.Prefix != c.want.Prefix || got.Name != c.want.Name {
			t.Errorf("%+v: record %+v, want %+v", c.options, got, c.want)
		}
		if config.Path != c.path || config.Systemd != c.want.Systemd {
			t.Errorf("%+v: path %q, systemd %v", c.options, config.Path, config.Systemd)
		}
		if (config.Path != "") == (config.Name != "") {
			t.Errorf("%+v: name %q and path %q: the library takes one of them", c.options, config.Name, config.Path)
		}
	}
}

func TestConfigureRefuses(t *testing.T) {
	for _, options := range []Options{
		{ID: "c1", Path: "/"},
		{ID: "c1", Path: "/a/.."},
		{ID: "c1", Path: "../.."},
		{ID: "c1", Path: "a/b", Systemd: true},
		{ID: "c1", Path: "a:b", Systemd: true},
	} {
		if _, _, err := configure(options); !errors.Is(err, ErrPath) {
			t.Errorf("%+v: error %v, want ErrPath", options, err)
		}
	}
}

// A host without control groups has neither record nor group.
func TestNil(t *testing.T) {
	var record *Record
	group, err := record.Open()
	if group != nil || err != nil {
		t.Fatalf("group %v, error %v", group, err)
	}
	membership, err := group.Join()
	if err := errors.Join(err, group.Create(1), group.Add(1), membership.Leave(), group.Remove(t.Context())); err != nil {
		t.Error(err)
	}
}
