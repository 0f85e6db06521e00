// Package network holds the tests of pods' networks: with interfaces made by
// hand and with Debian's CNI plugins, called as container managers call them,
// in network namespaces that the test made. A pod is one container; the host is
// the test program's own network namespace (see [kata-runtime/test/harness]).
// On both ends of every transfer runs internal/peer.
//
// They stand behind the build tag vm and need what `make deps-test build kernel
// image` makes and installs. The variable KATA_TEST_RUNTIME names another runtime
// to test with: with runc the tests test themselves, in seconds. With
// KATA_TEST_FULL they take larger amounts.
package network
