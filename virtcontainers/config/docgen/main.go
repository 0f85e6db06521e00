// Command docgen writes docs/configuration.md from the table of options.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"kata-runtime/virtcontainers/config"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "docgen:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: docgen FILE")
	}
	var text bytes.Buffer
	if err := config.Document(&text); err != nil {
		return err
	}
	if err := os.WriteFile(args[0], text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the documentation: %w", err)
	}
	return nil
}
