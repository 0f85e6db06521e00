package tail

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Sanitize makes text from a guest safe for a terminal, a log or an error: line
// breaks and tabs stay, carriage returns and ANSI escape sequences are removed,
// and every other byte or rune that is not printable is written as \xNN or
// \u{NNNN}. Runes that change the direction of text, or that nobody would see,
// count as not printable.
func Sanitize(text string) string {
	var out strings.Builder
	out.Grow(len(text))
	for i := 0; i < len(text); {
		if n := escapeSequence(text[i:]); n > 0 {
			i += n
			continue
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == '\n' || r == '\t':
			out.WriteRune(r)
		case r == '\r':
		case r == utf8.RuneError && size == 1, r < utf8.RuneSelf && !unicode.IsPrint(r):
			fmt.Fprintf(&out, `\x%02x`, text[i])
		case !visible(r):
			fmt.Fprintf(&out, `\u{%x}`, r)
		default:
			out.WriteRune(r)
		}
		i += size
	}
	return out.String()
}

// Line is Sanitize for what must stay on one line, and in one column of a table:
// line breaks and tabs become spaces.
func Line(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return r
	}, Sanitize(text))
}

// visible tells whether a rune shows. Among those that unicode.IsPrint takes for
// printable, being letters or marks, are some that have no shape of their own.
func visible(r rune) bool {
	return unicode.IsPrint(r) && !unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// escapeSequence returns the length of the ANSI control sequence (ECMA-48 CSI:
// ESC [ parameters intermediates final) at the start of text, or 0.
func escapeSequence(text string) int {
	if len(text) < 3 || text[0] != 0x1b || text[1] != '[' {
		return 0
	}
	for i := 2; i < len(text); i++ {
		switch c := text[i]; {
		case c >= 0x40 && c <= 0x7e:
			return i + 1
		case c < 0x20 || c > 0x3f:
			return 0
		}
	}
	return 0
}
