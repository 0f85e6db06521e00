// Package vm holds the tests of the whole product: each runs the built
// kata-runtime on real bundles in real virtual machines, as root, and checks
// that nothing is left behind. They stand behind the build tag vm and need
// what `make build kernel image` makes.
package vm
