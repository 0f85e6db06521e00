package passthrough_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOverlayOnTop has the guest's overlayfs keep its layers where the server serves
// them: they work, and are none that an overlayfs of the host would trust.
func TestOverlayOnTop(t *testing.T) {
	source, mnt := mounted(t, options())
	for _, d := range []string{"lower", "lower/dir", "lower/other", "upper", "work", "merged"} {
		if err := os.Mkdir(mnt+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"file": "one", "gone": "two", "dir/below": "three", "other/below": "four"} {
		if err := os.WriteFile(mnt+"/lower/"+name, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	layers := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work,redirect_dir=on", mnt)
	if err := unix.Mount("overlay", mnt+"/merged", "overlay", 0, layers); err != nil {
		t.Fatal(err)
	}
	merged := mnt + "/merged"
	defer func() {
		if err := unix.Unmount(merged, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	for step, err := range map[string]error{
		"copy up":            os.Chown(merged+"/file", 1000, 1000),
		"whiteout":           os.Remove(merged + "/gone"),
		"opaque directory":   errors.Join(os.RemoveAll(merged+"/other"), os.Mkdir(merged+"/other", 0o755)),
		"redirect":           os.Rename(merged+"/dir", merged+"/moved"),
		"new file":           os.WriteFile(merged+"/new", []byte("new"), 0o644),
		"write after a copy": os.WriteFile(merged+"/file", []byte("changed"), 0o640),
	} {
		if err != nil {
			t.Errorf("%s: %v", step, err)
		}
	}
	for name, want := range map[string]string{"file": "changed", "moved/below": "three", "new": "new"} {
		if got, err := os.ReadFile(merged + "/" + name); err != nil || string(got) != want {
			t.Errorf("%s: %q, want %q: %v", name, got, want, err)
		}
	}
	for _, name := range []string{"gone", "dir", "other/below"} {
		if _, err := os.Lstat(merged + "/" + name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(source+"/upper/gone", &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("the host's whiteout: mode %o of %x, %v", st.Mode, st.Rdev, err)
	}
	for name, want := range map[string]bool{"user.kata.trusted.overlay.opaque": true, "trusted.overlay.opaque": false} {
		if _, err := unix.Lgetxattr(source+"/upper/other", name, nil); (err == nil) != want {
			t.Errorf("the host has %s of the opaque directory: %v", name, err)
		}
	}
}
