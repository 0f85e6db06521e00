package jail

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxConflicts bounds how many are listed.
const maxConflicts = 5

// Conflicts lists who else has ids of a range, by the host's files: its users and
// groups, and the ranges for user namespaces. dir is /etc. It knows nothing of
// directories in the network.
func Conflicts(dir string, ids Range) ([]string, error) {
	var found []string
	for _, file := range []struct {
		name  string
		field int // of the id
		count int // of how many there are; 0: it is one
	}{{"passwd", 2, 0}, {"group", 2, 0}, {"subuid", 1, 2}, {"subgid", 1, 2}} {
		more, err := conflictsIn(filepath.Join(dir, file.name), file.field, file.count, ids)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	if len(found) > maxConflicts {
		found = append(found[:maxConflicts], fmt.Sprintf("and %d more", len(found)-maxConflicts))
	}
	return found, nil
}

func conflictsIn(path string, field, count int, ids Range) ([]string, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for others' user ids: %w", err)
	}
	defer file.Close()
	var found []string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) <= max(field, count) {
			continue
		}
		first, err := strconv.Atoi(fields[field])
		many := 1
		if err == nil && count > 0 {
			many, err = strconv.Atoi(fields[count])
		}
		// As it stands in the file, which is root's; a line that is no such is none.
		if err == nil && many > 0 && first <= ids.Last && first+many-1 >= ids.First {
			found = append(found, fmt.Sprintf("%s (%s)", fields[0], path))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return found, nil
}
