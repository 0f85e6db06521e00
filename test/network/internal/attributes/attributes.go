// Package attributes says of each attribute that the netlink library has a word
// for whether a pod has the one of its namespace. What a pod lacks has a reason.
package attributes

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/vishvananda/netlink"
)

// The classes of an attribute; anything else is the reason why a pod lacks it.
const (
	// Compared ones are scalars that Describe prints.
	Compared = "compared"
	// Spelled ones are compared in the words of the view.
	Spelled = "spelled"
)

const (
	mpls      = "MPLS: no route of IP"
	answer    = "an answer to a question, no setting"
	noIP      = "of bridges and tunnels, not of IP"
	counter   = "changes by itself"
	warned    = "the rule is left out, with a warning: without it, it would be for more"
	hostFrame = "of how frames pass on the host, or of the device there"
)

// Classes has, by the types of the library, each field's class.
func Classes() map[reflect.Type]map[string]string {
	return map[reflect.Type]map[string]string{
		reflect.TypeFor[netlink.Route](): {
			"LinkIndex": Spelled, "Scope": Spelled, "Dst": Spelled, "Src": Spelled, "Gw": Spelled, "MultiPath": Spelled,
			"Protocol": Spelled, "Priority": Spelled, "Family": Spelled, "Table": Spelled, "Type": Spelled, "Tos": Spelled,
			"Flags": Spelled, "Via": Spelled,
			"MTU": Compared, "MTULock": Compared, "Window": Compared, "Rtt": Compared, "RttVar": Compared, "Ssthresh": Compared,
			"Cwnd": Compared, "AdvMSS": Compared, "Reordering": Compared, "Hoplimit": Compared, "InitCwnd": Compared,
			"Features": Compared, "RtoMin": Compared, "RtoMinLock": Compared, "InitRwnd": Compared, "QuickACK": Compared,
			"Congctl": Compared, "FastOpenNoCookie": Compared,
			"ILinkIndex": answer, "MPLSDst": mpls, "NewDst": mpls,
			"Encap": "the route is left out, with a warning: without it, it would lead elsewhere",
			"Realm": "of traffic control and firewalls, which stay on the host",
		},
		reflect.TypeFor[netlink.NexthopInfo](): {
			"LinkIndex": Spelled, "Hops": Spelled, "Gw": Spelled, "Flags": Spelled, "Via": Spelled,
			"NewDst": mpls, "Encap": "the route is left out, with a warning: without it, it would lead elsewhere",
		},
		reflect.TypeFor[netlink.Addr](): {
			"IPNet": Spelled, "Label": Spelled, "Flags": Spelled, "Scope": Spelled, "Peer": Spelled, "Broadcast": Spelled, "LinkIndex": Spelled,
			"PreferedLft": "the host tells of its end, which the flags have",
			"ValidLft":    "the host tells of its end, when the address goes",
		},
		reflect.TypeFor[netlink.Neigh](): {
			"LinkIndex": Spelled, "Family": Spelled, "State": Spelled, "Flags": Spelled, "IP": Spelled, "HardwareAddr": Spelled,
			"Type": "follows from the address", "FlagsExt": noIP, "LLIPAddr": noIP, "Vlan": noIP, "VNI": noIP, "MasterIndex": noIP,
			"Confirmed": counter, "Used": counter, "Updated": counter,
		},
		reflect.TypeFor[netlink.Rule](): {
			"Priority": Spelled, "Family": Spelled, "Table": Spelled, "Mark": Spelled, "Mask": Spelled, "Tos": Compared,
			"Src": Spelled, "Dst": Spelled, "IifName": Spelled, "OifName": Spelled, "SuppressPrefixlen": Spelled, "Invert": Spelled, "Type": Spelled,
			"TunID": warned, "Goto": warned, "SuppressIfgroup": warned, "Dport": warned, "Sport": warned, "IPProto": warned, "UIDRange": warned,
			"Flow":     "of traffic control and firewalls, which stay on the host",
			"Protocol": "who has made it, without effect",
		},
		reflect.TypeFor[netlink.LinkAttrs](): {
			"Name": Spelled, "MTU": Spelled, "HardwareAddr": Spelled, "Flags": Spelled, "RawFlags": Spelled,
			"Index": "the guest's own", "ParentIndex": "the guest's is a NIC", "MasterIndex": "the guest's is a NIC, whatever is behind it",
			"Namespace": "for making links", "NetNsID": "the guest's is a NIC", "Slave": "the guest's is a NIC",
			"Alias": "a remark, without effect", "AltNames": "no caller gives a pod's interface any", "Group": "no caller puts a pod's interface into one",
			"TxQLen": hostFrame, "Promisc": hostFrame, "Allmulti": hostFrame, "Multi": hostFrame, "Xdp": hostFrame, "Protinfo": hostFrame,
			"NumTxQueues": hostFrame, "NumRxQueues": hostFrame, "TSOMaxSegs": hostFrame, "TSOMaxSize": hostFrame, "GSOMaxSegs": hostFrame,
			"GSOMaxSize": hostFrame, "GROMaxSize": hostFrame, "GSOIPv4MaxSize": hostFrame, "GROIPv4MaxSize": hostFrame, "Vfs": hostFrame,
			"PermHWAddr": hostFrame, "ParentDev": hostFrame, "ParentDevBus": hostFrame, "PhysSwitchID": hostFrame,
			"EncapType": "Ethernet, as everywhere", "OperState": counter, "Statistics": counter,
		},
	}
}

// Describe prints the compared fields of a struct that are not zero, each as
// " Name=value".
func Describe(value any) string {
	v := reflect.ValueOf(value)
	classes := Classes()[v.Type()]
	var b strings.Builder
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; classes[name] == Compared && !v.Field(i).IsZero() {
			fmt.Fprintf(&b, " %s=%v", name, v.Field(i))
		}
	}
	return b.String()
}
