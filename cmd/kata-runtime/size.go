package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

// limitValue is a flag's number, or none: callers of runc also give an empty
// text for a limit that is to stay as it is.
type limitValue[T int64 | uint64] struct {
	parse func(text string) (T, error)
	value *T
}

// Set implements flag.Value.
func (v *limitValue[T]) Set(text string) error {
	v.value = nil
	if text == "" {
		return nil
	}
	number, err := v.parse(text)
	if err == nil {
		v.value = &number
	}
	return err
}

// String implements flag.Value.
func (v *limitValue[T]) String() string {
	if v == nil || v.value == nil {
		return ""
	}
	return fmt.Sprint(*v.value)
}

// sizeFlag is a flag with a number of bytes.
func sizeFlag(name, usage string) cli.Flag {
	return &cli.GenericFlag{Name: name, Value: &limitValue[int64]{parse: parseSize}, Usage: usage}
}

// signedFlag is a flag with a number; negative ones mean no limit.
func signedFlag(name, usage string) cli.Flag {
	parse := func(text string) (int64, error) { return strconv.ParseInt(text, 10, 64) }
	return &cli.GenericFlag{Name: name, Value: &limitValue[int64]{parse: parse}, Usage: usage}
}

// unsignedFlag is a flag with a number.
func unsignedFlag(name, usage string) cli.Flag {
	parse := func(text string) (uint64, error) { return strconv.ParseUint(text, 10, 64) }
	return &cli.GenericFlag{Name: name, Value: &limitValue[uint64]{parse: parse}, Usage: usage}
}

// limit is the value of one of these flags, nil for none.
func limit[T int64 | uint64](c *cli.Context, name string) *T {
	if v, ok := c.Generic(name).(*limitValue[T]); ok {
		return v.value
	}
	return nil
}

// parseSize takes digits, and a unit of powers of 1024 if need be, as runc
// does: 64M, 1g, 512KiB. -1 is no limit.
func parseSize(text string) (int64, error) {
	digits := strings.TrimRight(strings.ToLower(text), "kmgtpib")
	shift, known := map[string]uint{
		"": 0, "b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20, "g": 30, "gb": 30, "gib": 30,
		"t": 40, "tb": 40, "tib": 40, "p": 50, "pb": 50, "pib": 50,
	}[strings.ToLower(text[len(digits):])]
	number, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !known || number < -1 || number > math.MaxInt64>>shift || number < 0 && shift > 0 {
		return 0, fmt.Errorf("%q is not a number of bytes such as 1048576, 64M or -1", text)
	}
	return number << shift, nil
}
