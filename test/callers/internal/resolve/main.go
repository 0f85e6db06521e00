// Command resolve asks the first nameserver of /etc/resolv.conf for a name's
// addresses, over the network that is given ("udp" or "tcp"), and prints them. It
// is linked statically, for the tests' containers.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
)

func main() {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, os.Args[1], address)
	}}
	addresses, err := resolver.LookupHost(context.Background(), os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	slices.Sort(addresses)
	fmt.Println(strings.Join(addresses, " "))
}
