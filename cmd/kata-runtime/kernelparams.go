package main

// baseKernelParams is the guest's kernel command line, before the token and the
// configuration's kernel_params. Kernels without a virtio console device fall
// back to silence, never to a serial port, which would cost a VM exit a byte.
func baseKernelParams() []string {
	return []string{
		"console=hvc0", "quiet", "loglevel=1",
		// A panic ends the VM at once instead of leaving it hanging.
		"panic=-1", "reboot=t",
		// Calibrations and self-tests that a VM does not need.
		"tsc=reliable", "no_timer_check", "rcupdate.rcu_expedited=1", "cryptomgr.notests",
	}
}
