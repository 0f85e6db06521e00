// Package metrics measures a pod: its machine, its guest, the agent, its
// containers, and the processes that the host runs for it. The pod's owner
// collects samples, each a value of one of a fixed set of metrics (Families);
// whoever shows them (package exposition) takes names and help texts from the same
// set. So the owner needs no metrics library, and nobody believes a name.
//
// Figures of the guest are data of a stranger. The guest names them by numbers of
// its protocol: one that is not known, appears twice, or is no number of its kind
// (finite, not negative) is dropped. Names of containers are the host's own.
package metrics
