package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

// sizeValue is a flag's number of bytes: digits, and a unit of powers of 1024
// if need be, as runc takes it: 64M, 1g, 512KiB. -1 is no limit.
type sizeValue int64

// Set implements flag.Value.
func (v *sizeValue) Set(text string) error {
	digits := strings.TrimRight(strings.ToLower(text), "kmgtpib")
	shift, known := map[string]uint{
		"": 0, "b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20, "g": 30, "gb": 30, "gib": 30,
		"t": 40, "tb": 40, "tib": 40, "p": 50, "pb": 50, "pib": 50,
	}[strings.ToLower(text[len(digits):])]
	number, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !known || number < -1 || number > math.MaxInt64>>shift || number < 0 && shift > 0 {
		return fmt.Errorf("%q is not a number of bytes such as 1048576, 64M or -1", text)
	}
	*v = sizeValue(number << shift)
	return nil
}

// String implements flag.Value.
func (v *sizeValue) String() string {
	if v == nil || *v == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*v), 10)
}

// sizeFlag is a flag with a number of bytes.
func sizeFlag(name, usage string) cli.Flag {
	return &cli.GenericFlag{Name: name, Value: new(sizeValue), Usage: usage}
}

// flagSize is the value of a sizeFlag.
func flagSize(c *cli.Context) func(name string) int64 {
	return func(name string) int64 {
		if size, ok := c.Generic(name).(*sizeValue); ok {
			return int64(*size)
		}
		return 0
	}
}
