package config

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Encode writes every option with its effective value as TOML, preceded by a
// comment that names the files that were read. Load reads the output back.
func (c *Config) Encode(w io.Writer) error {
	var text strings.Builder
	for _, file := range c.Files {
		fmt.Fprintf(&text, "# read: %q\n", file)
	}
	table := ""
	for _, option := range Options() {
		if option.Table != table {
			if text.Len() > 0 {
				text.WriteByte('\n')
			}
			table = option.Table
			fmt.Fprintf(&text, "[%s]\n", table)
		}
		fmt.Fprintf(&text, "%s = %s\n", option.Key, tomlValue(option.get(c)))
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// tomlValue renders an option's value.
func tomlValue(value any) string {
	switch v := value.(type) {
	case string:
		return tomlString(v)
	case []string:
		quoted := make([]string, len(v))
		for i, s := range v {
			quoted[i] = tomlString(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	case bool:
		return strconv.FormatBool(v)
	default:
		return fmt.Sprint(v)
	}
}

// tomlString renders a basic string: Go's own quoting has escapes that TOML
// lacks.
func tomlString(s string) string {
	var text strings.Builder
	text.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			text.WriteByte('\\')
			text.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&text, `\u%04X`, r)
		default:
			text.WriteRune(r)
		}
	}
	text.WriteByte('"')
	return text.String()
}
