package loopback

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseService(t *testing.T) {
	for text, want := range map[string]string{
		"tcp:8080":          "tcp:127.0.0.1:8080",
		"udp:53":            "udp:127.0.0.1:53",
		"udp:127.0.0.11:53": "udp:127.0.0.11:53",
		"tcp:[::1]:9000":    "tcp:[::1]:9000",
	} {
		service, err := ParseService(text)
		if err != nil || service.String() != want {
			t.Errorf("%q: %v, %v, want %s", text, service, err, want)
		}
		if again, err := ParseService(service.String()); err != nil || again != service {
			t.Errorf("%q read again: %v, %v", service, again, err)
		}
	}
	for _, text := range []string{
		"", "8080", "tcp", "tcp:", "tcp:0", "tcp:65536", "tcp:-1", "tcp:http", "sctp:80", "TCP:80",
		"tcp:10.0.0.1:80", "tcp:0.0.0.0:80", "tcp:[::]:80", "tcp:::1:80", "tcp:[::1%lo]:80",
		"tcp:[::ffff:127.0.0.1]:80", "tcp:localhost:80", "tcp: 80",
	} {
		if service, err := ParseService(text); !errors.Is(err, ErrService) {
			t.Errorf("%q: %v, %v, want ErrService", text, service, err)
		}
	}
}

func TestParseServices(t *testing.T) {
	services, err := ParseServices([]string{"tcp:80", "udp:80", "tcp:127.0.0.1:80"})
	if err != nil || fmt.Sprint(services) != "[tcp:127.0.0.1:80 udp:127.0.0.1:80]" {
		t.Errorf("%v, %v", services, err)
	}
	if _, err := ParseServices([]string{"tcp:80", "tcp:x"}); !errors.Is(err, ErrService) || !strings.Contains(err.Error(), `"tcp:x"`) {
		t.Errorf("error %v, want one that names the text", err)
	}
	var many []string
	for i := range maxServices + 1 {
		many = append(many, fmt.Sprintf("tcp:%d", i+1))
	}
	if _, err := ParseServices(many); !errors.Is(err, ErrService) {
		t.Errorf("too many: %v", err)
	}
	if _, err := ParseServices(many[1:]); err != nil {
		t.Error(err)
	}
}

func TestServicesOfResolvConf(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "[]",
		"nameserver 10.0.0.2\n":                "[]",
		"nameserver 127.0.0.11\n":              "[udp:127.0.0.11:53 tcp:127.0.0.11:53]",
		"search x\nnameserver\t127.0.0.53 # c": "[udp:127.0.0.53:53 tcp:127.0.0.53:53]",
		"nameserver ::1\nnameserver ::1\n":     "[udp:[::1]:53 tcp:[::1]:53]",
		"nameserver ::ffff:127.0.0.1\n":        "[udp:127.0.0.1:53 tcp:127.0.0.1:53]",
		"# nameserver 127.0.0.11\n;nameserver 127.0.0.11\nnameservers 127.0.0.11\n":         "[]",
		"nameserver\n" + "nameserver x\nnameserver 127.0.0.1:53\nnameserver fe80::1%eth0":   "[]",
		"\x00\xff\nnameserver 127.0.0.11":                                                   "[udp:127.0.0.11:53 tcp:127.0.0.11:53]",
		strings.Repeat("nameserver 10.0.0.2\n", maxNameservers) + "nameserver 127.0.0.11\n": "[]",
		strings.Repeat("x", maxResolvConf) + "\nnameserver 127.0.0.11\n":                    "[]",
	} {
		if got := fmt.Sprint(ServicesOfResolvConf(strings.NewReader(text))); got != want {
			t.Errorf("%.60q: %s, want %s", text, got, want)
		}
	}
}

func TestProtocol(t *testing.T) {
	services, err := ParseServices([]string{"tcp:[::1]:9000", "udp:127.0.0.11:53"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, service := range Protocol(services) {
		got = append(got, fmt.Sprintf("%s %v %d", service.GetNetwork(), service.GetAddress(), service.GetPort()))
	}
	want := []string{"tcp [0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1] 9000", "udp [127 0 0 11] 53"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
