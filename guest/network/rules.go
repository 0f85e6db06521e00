package network

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

func ruleEntry(r *protocol.NetworkRule) *entry {
	return &entry{
		key:  "rule " + message(r),
		what: fmt.Sprintf("the routing rule of priority %d", r.GetPriority()),
		set: func() error {
			err := changeRule(r, unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
			if errors.Is(err, unix.EEXIST) {
				return nil // the same one
			}
			return err
		},
		remove: func() error { return changeRule(r, unix.RTM_DELRULE, 0) },
	}
}

// changeRule adds or removes a rule. It is not the library's, which leaves out
// the suppressed prefix length where the table's number needs an attribute.
func changeRule(r *protocol.NetworkRule, operation, flags int) error {
	header := &nl.RtMsg{RtMsg: unix.RtMsg{
		Family: uint8(r.GetFamily()), Src_len: uint8(r.GetSourcePrefixLength()), Dst_len: uint8(r.GetDestinationPrefixLength()),
		Tos: uint8(r.GetTos()), Type: uint8(cmp.Or(r.GetType(), unix.FR_ACT_TO_TBL)),
	}}
	if r.GetInvert() {
		header.Flags = netlink.FibRuleInvert
	}
	request := nl.NewNetlinkRequest(operation, flags|unix.NLM_F_ACK)
	request.AddData(header)
	add := func(attribute int, value []byte) {
		if len(value) > 0 {
			request.AddData(nl.NewRtAttr(attribute, value))
		}
	}
	number := func(attribute int, value uint32) { add(attribute, binary.NativeEndian.AppendUint32(nil, value)) }
	add(nl.FRA_DST, r.GetDestination())
	add(nl.FRA_SRC, r.GetSource())
	number(nl.FRA_PRIORITY, r.GetPriority())
	if r.GetTable() != 0 {
		number(nl.FRA_TABLE, r.GetTable())
	}
	if r.GetMask() != 0 {
		number(nl.FRA_FWMARK, r.GetMark())
		number(nl.FRA_FWMASK, r.GetMask())
	}
	if r.GetSuppressPrefixLengthPlusOne() > 0 {
		number(nl.FRA_SUPPRESS_PREFIXLEN, r.GetSuppressPrefixLengthPlusOne()-1)
	}
	if r.GetInputInterface() != "" {
		add(nl.FRA_IIFNAME, nl.ZeroTerminated(r.GetInputInterface()))
	}
	if r.GetOutputInterface() != "" {
		add(nl.FRA_OIFNAME, nl.ZeroTerminated(r.GetOutputInterface()))
	}
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
