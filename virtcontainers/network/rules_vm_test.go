//go:build vm

package network_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/network"
)

// TestRulesThatAreLeftOut would be for more in the guest than on the host.
func TestRulesThatAreLeftOut(t *testing.T) {
	pod := newSpace(t)
	why := []string{"ipproto", "dport", "sport", "uidrange", "goto", "suppress_ifgroup"}
	for i := range len(why) + 2 {
		rule := netlink.NewRule()
		rule.Priority, rule.Table, rule.Family = 100+i, 100, unix.AF_INET
		switch i {
		case 0:
			rule.IPProto = unix.IPPROTO_TCP
		case 1:
			rule.Dport = netlink.NewRulePortRange(80, 80)
		case 2:
			rule.Sport = netlink.NewRulePortRange(80, 90)
		case 3:
			rule.UIDRange = netlink.NewRuleUIDRange(0, 0)
		case 4:
			rule.Table, rule.Goto = 0, 32766
		case 5:
			rule.SuppressIfgroup = 1
		case 6:
			rule.SuppressPrefixlen = 0
		}
		if err := pod.RuleAdd(rule); errors.Is(err, unix.EOPNOTSUPP) {
			t.Fatal("this kernel has no routing rules")
		} else if err != nil {
			t.Fatalf("rule %d: %v", i, err)
		}
	}
	namespace, err := network.OpenNamespace(pod.path)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	var told *protocol.SetNetworkRequest
	joined, err := network.Join(namespace, network.Options{
		Machine: &machine{}, Model: network.ModelTC, Queues: 1, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Tell: func(_ context.Context, request *protocol.SetNetworkRequest) error {
			told = request
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { joined.Close() })
	settle(t, joined)
	settle(t, joined)
	if rules := told.GetRules(); len(rules) != 2 || rules[0].GetPriority() != 106 || rules[1].GetPriority() != 107 {
		t.Errorf("the guest's rules: %v", rules)
	}
	if got := strings.Count(log.String(), "level=WARN"); got != len(why) {
		t.Errorf("%d warnings, want %d", got, len(why))
	}
	for _, name := range why {
		if strings.Count(log.String(), "("+name+")") != 1 {
			t.Errorf("%s is not named once:\n%s", name, log.String())
		}
	}
}
