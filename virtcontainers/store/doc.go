// Package store keeps what the runtime knows of each container on disk, where
// any command finds it: one directory per container below a root, and in it the
// state file kata.json. It also answers whether a recorded process still lives.
//
// The root may be shared with other runtimes (docker gives every runtime the
// same one). Whatever is not named kata.* is theirs: it is neither read nor
// removed, and a directory without kata.json is no container of ours.
//
// Three things make concurrent commands safe, all held by the kernel and so
// gone with the process that dies:
//
//   - A lock on the container's directory, taken inside Reserve, Save, Update
//     and Remove and held for a few file operations, makes each of these atomic.
//   - Each Reserve draws an incarnation, a random number in kata.json. An Entry
//     acts on its own incarnation alone: after the container was removed and
//     its id taken again, an old Entry says virtcontainers.ErrNotFound.
//   - Lock, for commands, lasts as long as the command wants and excludes other
//     commands. Saving and removing work beside it: the supervisor saves while
//     a command that holds the lock waits for it.
package store
