package passthrough

// StallEvents keeps the host's events in the kernel's queue until the result is called.
func (fs *FileSystem) StallEvents() (resume func()) {
	fs.watcher.mu.Lock()
	return fs.watcher.mu.Unlock
}
