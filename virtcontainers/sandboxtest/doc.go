// Package sandboxtest has what tests of sandboxes, and of what is built on them,
// need instead of a VM: a Guest, which serves the agent's real protocol inside the
// test's process and whose containers do what the test says; the Machine that
// connects a sandbox with it; and a Share without a directory. Only tests import
// it.
//
//	guest := sandboxtest.NewGuest()
//	sandbox := virtcontainers.NewSandbox(virtcontainers.SandboxOptions{
//		Machine: guest.Machine, Token: sandboxtest.Token, ...
//	})
//	sandbox.Boot()
//	err := sandbox.Assign(virtcontainers.Assignment{ID: "pod", Share: guest.Share, ...})
//
// What a test wants of a guest that is not well behaved it says by Guest.On, and
// by the fields of Guest and Machine, which are set before the sandbox boots. The
// end of a machine waits for everything that runs in it.
package sandboxtest
