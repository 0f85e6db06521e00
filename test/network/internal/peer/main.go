// Command peer is what the network tests run in pods and in network
// namespaces: both ends of transfers that are checked, and a listing of what
// the kernel has been told about a network namespace. It prints what it found
// and exits with 0, or with 1 and a complaint.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("no mode")
	}
	switch mode, args := args[0], args[1:]; {
	case mode == "view" && len(args) == 0: // prints the network as a pod sees it
		return printView(os.Stdout)
	case mode == "dump" && len(args) == 0: // prints all that can be asked for
		return printDump(os.Stdout)
	case mode == "follow" && len(args) >= 1: // LINE...: prints "seen" once the view has each line, or not, with "!" before it
		return follow(os.Stdout, args)
	case mode == "serve" && len(args) == 1: // PORT: serves TCP and UDP, and says "ready"
		return serve(args[0])
	case mode == "resolve" && len(args) == 1: // NAME: prints its addresses
		addresses, err := net.LookupHost(args[0]) //nolint:noctx // ends with the process
		for _, address := range addresses {
			fmt.Println(address)
		}
		return err
	case len(args) == 2: // ADDRESS:PORT AMOUNT
		amount, err := strconv.ParseUint(args[1], 10, 40)
		if err != nil {
			return err
		}
		return ask(mode, args[0], amount)
	default:
		return fmt.Errorf("unknown mode %q with %q", mode, args)
	}
}

func ask(mode, address string, amount uint64) error {
	switch mode {
	case "upload": // sends so many bytes; the server's checksum has to be theirs
		return upload(address, amount)
	case "download": // as upload, the other way
		_, err := download(address, amount)
		return err
	case "rate": // as download; prints the bytes per second
		rate, err := download(address, amount)
		if err == nil {
			fmt.Println(rate)
		}
		return err
	case "connections": // makes so many short connections, one after the other
		return connections(address, amount)
	case "datagrams": // sends so many datagrams and wants each back
		return datagrams(address, amount)
	case "reach": // tries each protocol, and packets up to that size
		return reach(address, amount)
	case "ping": // ADDRESS without a port, size of the IP packet, which nobody may fragment
		answer, err := ping(address, amount)
		if err == nil {
			fmt.Println(answer)
		}
		return err
	default:
		return fmt.Errorf("unknown mode %q", mode)
	}
}

func reach(address string, mtu uint64) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	for size, want := range map[uint64]string{mtu: answered, mtu + 1: tooBig} {
		if answer, err := ping(host, size); err != nil || answer != want {
			return fmt.Errorf("a packet of %d bytes to %s: %q, want %q, %w", size, host, answer, want, err)
		}
	}
	const some = 1 << 20
	if err := upload(address, some); err != nil {
		return fmt.Errorf("upload to %s: %w", address, err)
	}
	if _, err := download(address, some); err != nil {
		return fmt.Errorf("download from %s: %w", address, err)
	}
	return datagrams(address, 50)
}
