package config

import (
	"fmt"
	"strings"
)

// unknownKeyError names the known key or table that is nearest to an unknown one, if
// one is near.
func unknownKeyError(file, key string) error {
	nearest := nearestKey(key)
	if part := lastPart(strings.ToLower(key)); distance(part, lastPart(nearest)) > max(len(part), len(lastPart(nearest)))/2 {
		return fmt.Errorf("%s: unknown key %s; kata-runtime env lists those that there are", file, key)
	}
	return fmt.Errorf("%s: unknown key %s; did you mean %s?", file, key, nearest)
}

// nearestKey compares the last parts of the keys first, because a key in the
// wrong table is as common as a typing error, and the whole keys second.
func nearestKey(key string) string {
	best, bestScore := "", -1
	for _, option := range Options() {
		for _, name := range []string{option.Name(), option.KataName(), option.Table} {
			score := 1000*distance(lastPart(key), lastPart(name)) + distance(key, name)
			if name != "" && (bestScore < 0 || score < bestScore) {
				best, bestScore = name, score
			}
		}
	}
	return best
}

func lastPart(key string) string {
	return key[strings.LastIndexByte(key, '.')+1:]
}

// distance is the number of bytes to insert, delete or replace that turn a
// into b (Levenshtein's).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
