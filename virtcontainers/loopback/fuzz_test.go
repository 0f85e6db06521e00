package loopback

import (
	"bytes"
	"strings"
	"testing"
)

// FuzzResolvConf: what a container's file makes the host relay is name servers on
// loopback, few of them.
func FuzzResolvConf(f *testing.F) {
	f.Add([]byte("# by docker\nnameserver 127.0.0.11\nsearch a b\noptions ndots:0\n"))
	f.Add([]byte("nameserver ::1\nnameserver ::ffff:127.0.0.53\nnameserver 127.0.0.1%eth0\nnameserver 8.8.8.8\n"))
	f.Add([]byte("nameserver\n#\nnameserver \xff\n" + strings.Repeat("nameserver 127.0.0.2\n", 9)))
	f.Fuzz(func(t *testing.T, text []byte) {
		services := ServicesOfResolvConf(bytes.NewReader(text))
		if len(services) > 2*maxNameservers {
			t.Errorf("%d services", len(services))
		}
		for _, s := range services {
			if !s.Address.Addr().IsLoopback() || s.Address.Port() != portDNS || s.Address.Addr().Zone() != "" {
				t.Errorf("%+v", s)
			}
		}
		if got := Protocol(services); len(got) != len(services) {
			t.Errorf("%d of %d services", len(got), len(services))
		}
	})
}

// FuzzServices: the same of what people write.
func FuzzServices(f *testing.F) {
	f.Add("tcp:127.0.0.1:80,udp:[::1]:53")
	f.Fuzz(func(t *testing.T, text string) {
		services, err := ParseServices(strings.Split(text, ","))
		if err != nil {
			return
		}
		for _, s := range services {
			if err := s.check(); err != nil {
				t.Errorf("%+v: %v", s, err)
			}
		}
	})
}
