// Package config owns the runtime's configuration: the TOML files, their
// defaults, the check of each value, the search for the guest's kernel and
// initrd, and the page docs/configuration.md, which is generated from the same
// table of options that the code is checked against.
//
// Key names are Kata Containers' where the meaning is the same.
package config

//go:generate go run ./docgen ../../docs/configuration.md
