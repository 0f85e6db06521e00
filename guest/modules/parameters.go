package modules

import "strings"

// parametersOf returns what the kernel's command line says to a module, such as
// "numdummies=0" of "dummy.numdummies=0": the kernel itself heeds it for what is built
// in, and leaves it to who loads it for the rest.
func parametersOf(commandLine, name string) string {
	var found []string
	for _, word := range words(commandLine) {
		module, parameter, ok := strings.Cut(word, ".")
		if ok && normalize(module) == name && parameter != "" {
			found = append(found, parameter)
		}
	}
	return strings.Join(found, " ")
}

// words splits a command line at spaces that are not in double quotes, as the kernel
// does.
func words(commandLine string) []string {
	inside := false
	return strings.FieldsFunc(commandLine, func(r rune) bool {
		if r == '"' {
			inside = !inside
		}
		return !inside && (r == ' ' || r == '\t' || r == '\n')
	})
}
