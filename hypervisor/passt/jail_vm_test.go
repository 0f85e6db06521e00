//go:build vm

package passt

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/jail"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == jail.Command {
		os.Exit(jail.Become(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// A jailed passt has a user of its own, no capability, no file of the host's and none
// of its namespaces but the network's, and serves.
func TestJailed(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	for name, c := range map[string]struct {
		user, want int
		ports      string
	}{
		"a user of its own":           {2_000_001_234, 2_000_001_234, "8081"},
		"a port of root's":            {2_000_001_234, 2_000_001_234, "80"},
		"no range of users":           {0, nobody, "8081"},
		"a port of root's and nobody": {0, nobody, "80"},
	} {
		t.Run(name, func(t *testing.T) {
			starter := child.NewStarter()
			defer starter.Close()
			d, err := Start(t.Context(), Options{
				Addresses: []net.IP{net.ParseIP("192.0.2.5")}, TCPPorts: c.ports, UDPPorts: "none",
				Jail: &jail.Options{Dir: filepath.Join(t.TempDir(), "jail"), User: c.user}, Starter: starter, Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = d.Stop() }()
			if err := askForHardwareAddress(d.Socket()); err != nil {
				t.Fatalf("%v: %q", err, d.Stderr().Lines(5))
			}
			checkProcess(t, d.PID(), c.want)
		})
	}
}

// inNetwork runs the test in a process in a network of its own, and tells whether this
// is that process. passt is started from there.
func inNetwork(t *testing.T) bool {
	t.Helper()
	const variable = "PASST_TEST_NETWORK"
	if os.Getenv(variable) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), variable+"=own")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return false
	}
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "world0"}, PeerName: "world1"}
	err := netlink.LinkAdd(link)
	if err == nil {
		err = netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("192.0.2.1").To4(), Mask: net.CIDRMask(24, 32)}})
	}
	for _, name := range []string{"world1", "world0"} {
		if err == nil {
			err = netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: name}})
		}
	}
	if err == nil {
		everywhere := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		err = netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("192.0.2.2"), Dst: everywhere})
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}

// askForHardwareAddress sends what a guest does first, and waits for the answer. By
// then passt has confined itself.
func askForHardwareAddress(socket *os.File) error {
	conn, err := net.FileConn(socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	frame := slices.Concat(
		bytes.Repeat([]byte{0xff}, 6), []byte{2, 0, 0, 0, 0, 1}, []byte{8, 6}, // everybody, itself, ARP
		[]byte{0, 1, 8, 0, 6, 4, 0, 1}, // who has an IPv4 address
		[]byte{2, 0, 0, 0, 0, 1, 192, 0, 2, 5}, []byte{0, 0, 0, 0, 0, 0, 192, 0, 2, 2})
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 4+len(frame)))
	return err
}

func checkProcess(t *testing.T, pid, user int) {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	data, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		t.Fatal(err)
	}
	id := strconv.Itoa(user)
	ids := strings.Join([]string{id, id, id, id}, "\t")
	none := strings.Repeat("0", 16)
	for _, want := range []string{
		"Uid:\t" + ids + "\n", "Gid:\t" + ids + "\n", "Groups:\t \n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n",
		"CapInh:\t" + none + "\n", "CapPrm:\t" + none + "\n", "CapEff:\t" + none + "\n", "CapAmb:\t" + none + "\n",
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("lacks %q:\n%s", want, data)
		}
	}
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		theirs, err := os.Readlink(filepath.Join(dir, "ns", name))
		ours, err2 := os.Readlink("/proc/self/ns/" + name)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if (name == "net") != (theirs == ours) {
			t.Errorf("%s namespace %s, that of the one that started it is %s", name, theirs, ours)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "root")); err != nil || len(entries) > 0 {
		t.Errorf("its root has %v, %v", entries, err)
	}
}
