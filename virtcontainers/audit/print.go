package audit

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Print writes a report for people: a paragraph for each process, and the verdict.
func (r *Report) Print(w io.Writer) error {
	for _, row := range r.Processes {
		verdict := "as promised"
		if len(row.Broken) > 0 {
			verdict = "NOT AS PROMISED"
		}
		fmt.Fprintf(w, "%s, process %d: %s\n", row.Role, row.PID, verdict)
		table := tabwriter.NewWriter(w, 0, 1, 2, ' ', 0)
		for _, line := range row.lines() {
			fmt.Fprintf(table, "  %s\t%s\n", line[0], line[1])
		}
		if err := table.Flush(); err != nil {
			return err
		}
		for _, text := range row.Broken {
			fmt.Fprintf(w, "  BROKEN: %s\n", printable(text))
		}
		fmt.Fprintln(w)
	}
	verdict := "every process is what docs/security.md promises"
	if !r.Kept {
		verdict = "not every process is what docs/security.md promises: see what is BROKEN"
	}
	_, err := fmt.Fprintln(w, verdict)
	return err
}

// lines are a row's properties, with what they are.
func (r *Row) lines() [][2]string {
	root := "the host's"
	switch {
	case slices.Contains(r.Silent, partRoot):
		root = errSilent.Error()
	case !r.Root.Host:
		root = fmt.Sprintf("%s (%d mounts)", strings.Join(r.Root.Entries, " "), len(r.Root.Mounts))
		if len(r.Root.Devices) > 0 {
			root += ", devices: " + strings.Join(r.Root.Devices, " ")
		}
	}
	// As from the point of view of the host: which are whose.
	whose := make(map[string][]string)
	for _, name := range slices.Sorted(maps.Keys(r.Namespaces)) {
		of := r.Namespaces[name].Whose
		whose[of] = append(whose[of], name)
	}
	var namespaces []string
	for _, of := range slices.Sorted(maps.Keys(whose)) {
		namespaces = append(namespaces, of+": "+strings.Join(whose[of], " "))
	}
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(r.Files)) {
		kinds = append(kinds, fmt.Sprintf("%d %s", r.Files[kind], kind))
	}
	files := strings.Join(kinds, ", ")
	if slices.Contains(r.Silent, partFiles) {
		files = errSilent.Error()
	}
	var limits []string
	for _, name := range []string{"Max core file size", "Max open files", "Max processes", "Max locked memory"} {
		limit := r.Limits[name]
		text := number(limit.Soft)
		if limit.Hard != limit.Soft {
			text += "-" + number(limit.Hard)
		}
		limits = append(limits, strings.ToLower(strings.TrimPrefix(name, "Max "))+" "+text)
	}
	paths := slices.Compact(slices.Sorted(maps.Values(r.Cgroups)))
	c := r.Capabilities
	lines := [][2]string{
		{"program", fmt.Sprintf("%s, %d threads", r.Program, r.Threads)},
		{"users", fmt.Sprintf("%v, groups %v, supplementary %v, keys %d", r.Users, r.Groups, r.Supplementary, r.Keys)},
		{"capabilities", fmt.Sprintf("effective %s; permitted %s; inheritable %s; bounding %s; ambient %s", c.Effective, c.Permitted, c.Inheritable, c.Bounding, c.Ambient)},
		{"privileges", fmt.Sprintf("no_new_privs %t, seccomp %s (%d), dumpable %s", r.NoNewPrivs, r.Seccomp, r.Filters, r.Dumpable)},
		{"namespaces", strings.Join(namespaces, "; ")},
		{"root", root},
		{"files", files},
		{"limits", strings.Join(limits, ", ")},
		{"cgroups", strings.Join(paths, " ")},
	}
	for i := range lines {
		lines[i][1] = printable(lines[i][1])
	}
	return lines
}

// printable makes names that a guest may have chosen harmless for a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}
