package fsevents_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"kata-runtime/internal/fsevents"
)

func TestEventsAreWhatWasTold(t *testing.T) {
	events := []fsevents.Event{
		{Kind: fsevents.Marked, Mark: fsevents.Mark{UID: 5, GID: 6}},
		{Kind: fsevents.Created, Directory: "c/mounts/0", Name: "file", Type: 0o100000},
		{Kind: fsevents.Moved, Directory: "a", Name: "b", To: "c", ToName: "d"},
		{},
	}
	var b []byte
	size := 0
	for i := range events {
		b = events[i].Append(b)
		size += events[i].Size()
	}
	if size != len(b) {
		t.Errorf("%d bytes were announced, and %d are there", size, len(b))
	}
	if got, err := fsevents.Parse(b); err != nil || !slices.Equal(got, events) {
		t.Errorf("got %+v, %v; want %+v", got, err, events)
	}
	for n := range b {
		if got, err := fsevents.Parse(b[:n]); err == nil && len(got) == len(events) {
			t.Errorf("%d of %d bytes are all events", n, len(b))
		}
	}
}

func TestMark(t *testing.T) {
	for range 1000 {
		m := fsevents.NewMark(rand.Uint32(), rand.Uint32())
		for _, event := range []int{0, 1, fsevents.MaxEvents - 1} {
			if m.UID == ^uint32(0) || m.Group(event) == ^uint32(0) {
				t.Fatalf("%+v has an id that is none", m)
			}
			if got, ok := m.Event(m.UID, m.Group(event)); !ok || got != event {
				t.Fatalf("%+v has event %d as %d, %t", m, event, got, ok)
			}
		}
		if _, ok := m.Event(0, 0); ok {
			t.Fatalf("%+v is root's", m)
		}
	}
}

func FuzzParse(f *testing.F) {
	e := fsevents.Event{Kind: fsevents.Created, Directory: "d", Name: "n"}
	f.Add(e.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := fsevents.Parse(b)
		if err != nil {
			return
		}
		var again []byte
		for i := range events {
			again = events[i].Append(again)
		}
		if !slices.Equal(again, b) {
			t.Errorf("%x becomes %x", b, again)
		}
	})
}
