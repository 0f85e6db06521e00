package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"kata-runtime/hypervisor/tail"
)

// maxLine bounds one message, in bytes. The longest known, the answer to
// query-qmp-schema, has about 250 KiB.
const maxLine = 4 << 20

// keptLine is how large a buffer is kept for the next message.
const keptLine = 64 << 10

// maxBlank is how many lines in a row may be empty. QEMU sends none.
const maxBlank = 64

// maxText bounds what is kept of a text of QEMU's in an error.
const maxText = 4 << 10

var (
	errLineTooLong = fmt.Errorf("message of more than %d bytes", maxLine)
	errBlank       = fmt.Errorf("more than %d empty lines", maxBlank)
	errNotMessage  = errors.New("neither greeting, answer nor event")
)

// message is anything that QEMU sends: a greeting, an answer or an event.
type message struct {
	Greeting *greeting       `json:"QMP"`
	Event    string          `json:"event"`
	Data     json.RawMessage `json:"data"`
	Time     *timestamp      `json:"timestamp"`
	ID       *uint64         `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *Error          `json:"error"`
}

type greeting struct {
	Version struct {
		QEMU struct {
			Major int `json:"major"`
			Minor int `json:"minor"`
			Micro int `json:"micro"`
		} `json:"qemu"`
		Package string `json:"package"`
	} `json:"version"`
}

type timestamp struct {
	Seconds      int64 `json:"seconds"`
	Microseconds int64 `json:"microseconds"`
}

// request is a command as it is sent.
type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// decode reads one message and checks that it is exactly one of the three kinds.
func decode(line []byte) (*message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return nil, fmt.Errorf("decode %.80q: %w", line, err)
	}
	if m.Error != nil {
		m.Error.Class, m.Error.Desc = cut(m.Error.Class), cut(m.Error.Desc)
	}
	kinds := 0
	for _, is := range []bool{m.Greeting != nil, m.Event != "", m.Error != nil, m.Return != nil} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return nil, fmt.Errorf("decode %.80q: %w", line, errNotMessage)
	}
	return &m, nil
}

// cut shortens a text. A copy lets go of the message.
func cut(text string) string {
	if len(text) > maxText {
		return strings.Clone(text[:maxText]) + "..."
	}
	return text
}

// event converts an event message.
func (m *message) event() Event {
	e := Event{Name: m.Event, Data: m.Data}
	if m.Time != nil && m.Time.Seconds > 0 {
		e.Time = time.Unix(m.Time.Seconds, m.Time.Microseconds*int64(time.Microsecond))
	}
	return e
}

// readLine returns the next non-empty line without its end. The slice is valid
// until the next call.
func readLine(r *bufio.Reader, scratch *[]byte) ([]byte, error) {
	line := (*scratch)[:0]
	blank := 0
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		*scratch = line
		switch {
		case len(line) > maxLine:
			return nil, errLineTooLong
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return nil, err
		}
		if text := bytes.TrimSpace(line); len(text) > 0 {
			return text, nil
		}
		if blank++; blank > maxBlank {
			return nil, errBlank
		}
		line = line[:0]
	}
}

// Event is a message that QEMU sends of its own accord.
type Event struct {
	// Name is the event's name, as in "SHUTDOWN".
	Name string
	// Data holds the event's fields as JSON; nil where it has none.
	Data json.RawMessage
	// Time is QEMU's clock when the event happened; zero where it told none.
	Time time.Time
}

// Decode stores the event's fields into v. An event without fields leaves v.
func (e Event) Decode(v any) error {
	if len(e.Data) == 0 {
		return nil
	}
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("decode event %s: %w", e.Name, err)
	}
	return nil
}

// Error is QEMU's answer to a command that failed.
type Error struct {
	// Command is the command that failed.
	Command string `json:"-"`
	// Class is QEMU's error class: "GenericError", "CommandNotFound",
	// "DeviceNotFound", "DeviceNotActive", "KVMMissingCap".
	Class string `json:"class"`
	// Desc is QEMU's text, for people.
	Desc string `json:"desc"`
}

// Error is one line with command, class and text. GenericError, which says
// nothing, is left out. QEMU may be in the hands of its guest.
func (e *Error) Error() string {
	if e.Class == "GenericError" {
		return fmt.Sprintf("qmp %s: %s", e.Command, tail.Line(e.Desc))
	}
	return fmt.Sprintf("qmp %s: %s: %s", e.Command, tail.Line(e.Class), tail.Line(e.Desc))
}

// Version is what QEMU's greeting says.
type Version struct {
	Major, Minor, Micro int
	// Package is the distribution's version, as in "Debian 1:7.2+dfsg-7".
	Package string
}

// String returns "major.minor.micro".
func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
}
