package pid1

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// sealedSelf copies the program at path into a memory file that nobody can
// change any more. libcontainer runs each container's first steps from the
// program that started it; from a sealed one it does so directly, and copies
// any other for every single container.
func sealedSelf(path string) (*os.File, error) {
	source, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open own program: %w", err)
	}
	defer source.Close()
	fd, err := unix.MemfdCreate(AgentName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make a memory file: %w", err)
	}
	sealed := os.NewFile(uintptr(fd), AgentName)
	if _, err := io.Copy(sealed, source); err != nil {
		sealed.Close()
		return nil, fmt.Errorf("copy own program: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		sealed.Close()
		return nil, fmt.Errorf("seal own program: %w", err)
	}
	return sealed, nil
}

// startAgent starts the agent in a session of its own, with the console as its
// standard error, and returns its process id.
func startAgent(exe *os.File, con *console) (int, error) {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("start agent: %w", err)
	}
	defer null.Close()
	output := null
	if con.file != nil {
		output = con.file
	}
	pid, err := syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(int(exe.Fd())), []string{AgentName}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Files: []uintptr{null.Fd(), output.Fd(), output.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("start agent: %w", err)
	}
	return pid, nil
}

// loopbackUp sets the loopback interface up; the kernel gives it its
// addresses.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	return nil
}
