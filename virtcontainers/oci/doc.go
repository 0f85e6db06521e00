// Package oci owns the OCI runtime specification on the host: it loads and
// validates a bundle's config.json, and translates it into what the guest is
// given.
//
// Every field of the specification is enforced in the guest, translated, left
// to the host, or an error that names it. docs/spec-fields.md has the table;
// a test walks it, field by field, against the specification's Go types and
// against Transform.
package oci
