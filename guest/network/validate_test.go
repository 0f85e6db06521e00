package network

import (
	"errors"
	"strings"
	"testing"

	"kata-runtime/guest/protocol"
)

func TestValidate(t *testing.T) {
	eth := func(change func(*protocol.NetworkInterface)) *protocol.SetNetworkRequest {
		i := &protocol.NetworkInterface{
			Name: "eth0", DeviceMac: []byte("abcdef"), Mac: []byte("ghijkl"), Mtu: 1500,
			Addresses: []*protocol.NetworkAddress{{Address: []byte{10, 0, 0, 2}, PrefixLength: 24}},
		}
		change(i)
		return &protocol.SetNetworkRequest{Interfaces: []*protocol.NetworkInterface{i}}
	}
	if err := validate(eth(func(*protocol.NetworkInterface) {})); err != nil {
		t.Error(err)
	}
	routes := func(r *protocol.NetworkRoute) *protocol.SetNetworkRequest {
		return &protocol.SetNetworkRequest{Routes: []*protocol.NetworkRoute{r}}
	}
	if err := validate(routes(&protocol.NetworkRoute{Family: 2})); err != nil {
		t.Error(err)
	}
	if err := validate(&protocol.SetNetworkRequest{Rules: []*protocol.NetworkRule{
		{Family: 2, Table: 100}, {Family: 10, Table: 100, Type: 1}, {Family: 2, Type: 7},
	}}); err != nil {
		t.Error(err)
	}
	for name, request := range map[string]*protocol.SetNetworkRequest{
		"name with a slash":      eth(func(i *protocol.NetworkInterface) { i.Name = "../x" }),
		"empty name":             eth(func(i *protocol.NetworkInterface) { i.Name = "" }),
		"long name":              eth(func(i *protocol.NetworkInterface) { i.Name = strings.Repeat("x", 16) }),
		"short MAC":              eth(func(i *protocol.NetworkInterface) { i.Mac = []byte("x") }),
		"long NIC address":       eth(func(i *protocol.NetworkInterface) { i.DeviceMac = []byte("abcdefg") }),
		"no NIC":                 eth(func(i *protocol.NetworkInterface) { i.DeviceMac = nil }),
		"loopback on a NIC":      eth(func(i *protocol.NetworkInterface) { i.Name = "lo" }),
		"no MTU":                 eth(func(i *protocol.NetworkInterface) { i.Mtu = 0 }),
		"address of three bytes": eth(func(i *protocol.NetworkInterface) { i.Addresses[0].Address = []byte{1, 2, 3} }),
		"long prefix":            eth(func(i *protocol.NetworkInterface) { i.Addresses[0].PrefixLength = 33 }),
		"peer of another family": eth(func(i *protocol.NetworkInterface) { i.Addresses[0].Peer = make([]byte, 16) }),
		"broadcast of one byte":  eth(func(i *protocol.NetworkInterface) { i.Addresses[0].Broadcast = []byte{1} }),
		"long label":             eth(func(i *protocol.NetworkInterface) { i.Addresses[0].Label = strings.Repeat("x", 16) }),
		"same NIC twice": {Interfaces: append(eth(func(*protocol.NetworkInterface) {}).GetInterfaces(),
			eth(func(i *protocol.NetworkInterface) { i.Name = "eth1" }).GetInterfaces()...)},
		"unknown family":           routes(&protocol.NetworkRoute{Family: 99}),
		"destination too short":    routes(&protocol.NetworkRoute{Family: 10, Destination: []byte{1, 2, 3, 4}, PrefixLength: 8}),
		"prefix without address":   routes(&protocol.NetworkRoute{Family: 2, PrefixLength: 8}),
		"source too long":          routes(&protocol.NetworkRoute{Family: 2, Source: make([]byte, 16)}),
		"gateway of two bytes":     routes(&protocol.NetworkRoute{Family: 2, Hops: []*protocol.NetworkHop{{Gateway: []byte{1, 2}}}}),
		"hop's interface":          routes(&protocol.NetworkRoute{Family: 2, Hops: []*protocol.NetworkHop{{Interface: "a b"}}}),
		"neighbour":                {Neighbours: []*protocol.NetworkNeighbour{{Interface: "eth0", Address: []byte{1, 2, 3, 4}, Mac: []byte{1}}}},
		"gateway of IPv4 for IPv6": routes(&protocol.NetworkRoute{Family: 10, Hops: []*protocol.NetworkHop{{Gateway: []byte{1, 2, 3, 4}}}}),
		"heavy hop":                routes(&protocol.NetworkRoute{Family: 2, Hops: []*protocol.NetworkHop{{Interface: "eth0", Weight: 257}}}),
		"type of two bytes":        routes(&protocol.NetworkRoute{Family: 2, Type: 257}),
		"metric of no type":        routes(&protocol.NetworkRoute{Family: 2, Metrics: []*protocol.NetworkMetric{{Value: 1}}}),
		"metric of two bytes":      routes(&protocol.NetworkRoute{Family: 2, Metrics: []*protocol.NetworkMetric{{Type: 256}}}),
		"many metrics":             routes(&protocol.NetworkRoute{Family: 2, Metrics: make([]*protocol.NetworkMetric, maxMetrics+1)}),
		"congestion control":       routes(&protocol.NetworkRoute{Family: 2, CongestionControl: strings.Repeat("x", 16)}),
		"service of two bytes":     routes(&protocol.NetworkRoute{Family: 2, Tos: 256}),
		"scope of two bytes":       eth(func(i *protocol.NetworkInterface) { i.Addresses[0].Scope = 256 }),
		"rule to no table":         {Rules: []*protocol.NetworkRule{{Family: 2}}},
		"rule to another rule":     {Rules: []*protocol.NetworkRule{{Family: 2, Table: 100, Type: 2}}},
		"rule of no family":        {Rules: []*protocol.NetworkRule{{Table: 100}}},
		"rule's interface":         {Rules: []*protocol.NetworkRule{{Family: 2, Table: 100, InputInterface: "a/b"}}},
		"rule's service type":      {Rules: []*protocol.NetworkRule{{Family: 2, Table: 100, Tos: 256}}},
		"rule":                     {Rules: []*protocol.NetworkRule{{Family: 2, Table: 100, Source: []byte{1, 2, 3, 4}, SourcePrefixLength: 40}}},
		"too many":                 {Rules: make([]*protocol.NetworkRule, maxEntries+1)},
	} {
		if err := validate(request); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
