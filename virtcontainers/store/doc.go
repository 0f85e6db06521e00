// Package store keeps what the runtime knows of each container on disk, where
// any command finds it: one directory per container below a root, and in it the
// state file kata.json. It also answers whether a recorded process still lives.
//
// The root may be shared with other runtimes (docker gives every runtime the
// same one). Whatever is not named kata.* is theirs: it is neither read nor
// removed, and a directory without kata.json is no container of ours.
//
// Two things make concurrent commands safe:
//
//   - A lock on the container's directory, taken inside Reserve, Save, Update
//     and Remove and held for a few file operations, makes each of these atomic.
//     It is the kernel's, and so gone with a process that dies.
//   - Each Reserve draws an incarnation, a random number in kata.json. An Entry
//     acts on its own incarnation alone: after the container was removed and
//     its id taken again, an old Entry says virtcontainers.ErrNotFound.
package store
