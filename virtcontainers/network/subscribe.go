package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// subscription tells of changes of a namespace.
type subscription struct {
	socket *nl.NetlinkSocket
	once   sync.Once
}

// subscribe begins to collect changes.
func (n *Namespace) subscribe() (*subscription, error) {
	var socket *nl.NetlinkSocket
	err := n.Do(func() (err error) {
		socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_TC,
			unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
			unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("watch network namespace %s: %w", n.file.Name(), err)
	}
	return &subscription{socket: socket}, nil
}

func (s *subscription) close() { s.once.Do(s.socket.Close) }

// receive tells of one or more changes at a time, until the subscription is
// closed; then wait returns.
func (s *subscription) receive() (changed <-chan struct{}, wait func()) {
	tell := make(chan struct{}, 1)
	var receiving sync.WaitGroup
	receiving.Go(func() {
		defer close(tell)
		for s.next() {
			select {
			case tell <- struct{}{}:
			default:
			}
		}
	})
	return tell, receiving.Wait
}

// next waits for a change that matters, and tells whether there will be more.
func (s *subscription) next() bool {
	for {
		messages, _, err := s.socket.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			return true // some were lost: all is read anew anyway
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, os.ErrClosed) || err != nil:
			return false
		}
		for _, message := range messages {
			if matters(message) {
				return true
			}
		}
	}
}

// matters tells whether a message is about what the guest is to follow.
// Neighbours come and go; the static ones alone matter. Of traffic control it is
// the removal of what the runtime may have set.
func matters(message syscall.NetlinkMessage) bool {
	switch message.Header.Type {
	case unix.RTM_NEWNEIGH:
		const stateOffset, stateEnd = 8, 10 // struct ndmsg, rtnetlink(7)
		return len(message.Data) < stateEnd || binary.NativeEndian.Uint16(message.Data[stateOffset:stateEnd])&unix.NUD_PERMANENT != 0
	case unix.RTM_NEWQDISC, unix.RTM_NEWTFILTER, unix.RTM_NEWTCLASS, unix.RTM_DELTCLASS, unix.RTM_NEWCHAIN, unix.RTM_DELCHAIN:
		return false
	default:
		return true
	}
}
