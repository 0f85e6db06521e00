// Package programs runs, in guests of each kernel, what people run in containers and
// what asks a kernel for more than most: engines in a container, VPNs, service meshes'
// rules, databases, a JVM. Its tests are behind the build tags vm and full, and take the
// root file system that make programs makes. They are part of make test-full.
package programs
