// Package fsevents is what a file server on the host and the agent in its guest tell
// each other of changes that others have made: the agent reads a file of the share that
// no directory lists, and each read is answered once there is something to tell.
//
// The agent then repeats each change in its own kernel, whose inotify tells the
// container. The server recognises those requests by their user and group, the mark, and
// answers them without doing anything: the group also says which of the events that were
// told last is meant.
package fsevents

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// FileName is the file's, in the root of the share.
const FileName = ".kata-events"

// GiveUp and the number of a thread of the guest's is a name that the agent looks up in the
// root of the share, where there is no such file: the thread is dying, and waits for no lock
// any more.
const GiveUp = ".kata-give-up-"

const (
	// MaxEvents is how many events are told at once.
	MaxEvents = 256
	// ReadSize is what a read asks for: so much is never exceeded.
	ReadSize = 64 << 10
	// eventBits are those of the marked group that say which event is meant.
	eventBits = 8
)

// Mark is whose requests repeat changes: a user and a group that nobody has by chance,
// the group's lower bits apart.
type Mark struct{ UID, GID uint32 }

// NewMark makes one from random numbers.
func NewMark(uid, gid uint32) Mark {
	const above = 1 << 31 // beyond what anybody uses, and never -1
	return Mark{UID: (uid | above) &^ 1, GID: (gid | above) &^ (1<<eventBits - 1) &^ (1 << eventBits)}
}

// Group is that of a request which repeats an event.
func (m Mark) Group(event int) uint32 { return m.GID | uint32(event) }

// Event says which event a request repeats, if it is marked.
func (m Mark) Event(uid, gid uint32) (int, bool) {
	const mask = 1<<eventBits - 1
	if uid != m.UID || gid&^mask != m.GID {
		return 0, false
	}
	return int(gid & mask), true
}

// Kind is what has happened.
type Kind uint8

// What has happened, as the agent repeats it.
const (
	// Marked tells the mark, in Event.Mark. It is the first thing told.
	Marked Kind = iota + 1
	// Created, Deleted, Modified, Written (closed after writing) and Changed (its
	// attributes) are of the name in the directory. Without a name, Changed is of the
	// directory itself.
	Created
	Deleted
	Modified
	Written
	Changed
	// Moved is from one name to another; either may be missing: its directory is then
	// none that the guest knows, and Limbo takes its place.
	Moved
)

// Limbo is, in the root of a file system, a directory for what comes from elsewhere or
// goes there. There is one for marked requests alone.
const Limbo = ".kata-limbo"

// Event is one change. Directories are paths in the share.
type Event struct {
	Kind      Kind
	Directory string
	Name      string
	// Type is the file's, as in its mode (S_IFMT).
	Type uint32
	// To and ToName are where it has moved.
	To, ToName string
	Mark       Mark
}

// errEvent is wrapped by errors of what cannot be events.
var errEvent = errors.New("not a list of events")

// Append adds an event to what is told.
func (e *Event) Append(b []byte) []byte {
	b = append(b, byte(e.Kind))
	b = binary.LittleEndian.AppendUint32(b, e.Type)
	b = binary.LittleEndian.AppendUint32(b, e.Mark.UID)
	b = binary.LittleEndian.AppendUint32(b, e.Mark.GID)
	for _, s := range []string{e.Directory, e.Name, e.To, e.ToName} {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	return b
}

// Size is how many bytes Append adds.
func (e *Event) Size() int {
	const fixed = 1 + 3*4 + 4*2
	return fixed + len(e.Directory) + len(e.Name) + len(e.To) + len(e.ToName)
}

// Parse returns the events that were told at once.
func Parse(b []byte) ([]Event, error) {
	var events []Event
	for len(b) > 0 {
		if len(b) < 13 || len(events) == MaxEvents {
			return nil, fmt.Errorf("%w: event %d", errEvent, len(events))
		}
		e := Event{
			Kind: Kind(b[0]), Type: binary.LittleEndian.Uint32(b[1:]),
			Mark: Mark{UID: binary.LittleEndian.Uint32(b[5:]), GID: binary.LittleEndian.Uint32(b[9:])},
		}
		b = b[13:]
		for _, s := range []*string{&e.Directory, &e.Name, &e.To, &e.ToName} {
			if len(b) < 2 {
				return nil, fmt.Errorf("%w: event %d", errEvent, len(events))
			}
			n := int(binary.LittleEndian.Uint16(b))
			if b = b[2:]; len(b) < n {
				return nil, fmt.Errorf("%w: event %d", errEvent, len(events))
			}
			*s, b = string(b[:n]), b[n:]
		}
		events = append(events, e)
	}
	return events, nil
}
