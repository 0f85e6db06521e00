// Package factory makes the sandbox of a pod: the machine, of a size and with
// NICs that fit what is known of the pod, its share, and the limits of the control
// group that the pod's processes live in on the host. Both front ends get their
// sandboxes here. It is the only place that turns the configuration and a pod's
// demand into a machine.
package factory
