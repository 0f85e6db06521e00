#!/bin/bash
# QEMU announces twice that a virtio device was unplugged.
#
# Tool:  qemu-system-x86_64 1:7.2+dfsg-7+deb12u18+b3 of Debian 12, QMP
# Seen:  device_del of a virtio device gives two events DEVICE_DELETED, first that of
#        its back end, which has a path and no field "device". Who waits for any
#        DEVICE_DELETED, or counts them, goes on too early. Other devices give one.
#
#        as described: events for virtio-rng-pci: /machine/peripheral/dev/virtio-backend dev
#        as described: events for e1000e: dev
. "$(dirname "$0")/lib/common.sh"
debian qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 qemu-system-common=1:7.2+dfsg-7+deb12u18+b3 \
	qemu-system-data=1:7.2+dfsg-7+deb12u18 seabios=1.16.2-1 ipxe-qemu=1.0.0+git-20190125.36a4c85-5.1

events() { # DRIVER
	# The machine never starts: nobody in it has to agree to the unplugging, as
	# long as it is not left to ACPI.
	{
		echo '{"execute": "qmp_capabilities"}'
		echo '{"execute": "device_add", "arguments": {"driver": "'"$1"'", "id": "dev", "bus": "rp0"}}'
		echo '{"execute": "device_del", "arguments": {"id": "dev"}}'
		sleep 3
		echo '{"execute": "quit"}'
	} | timeout --foreground 20 qemu-system-x86_64 -machine q35,accel=tcg -S -m 32 -nodefaults -no-user-config -display none \
		-L "$scratch/root/usr/share/qemu" -L "$scratch/root/usr/share/seabios" -L "$scratch/root/usr/lib/ipxe/qemu" \
		-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off \
		-device pcie-root-port,id=rp0,slot=1 -qmp stdio >events
	grep DEVICE_DELETED events |
		sed -e 's/.*"device": "\([^"]*\)".*/\1/' -e 's/.*"data": {"path": "\([^"]*\)"}.*/\1/' | paste -sd ' '
}

expect "events for virtio-rng-pci" "/machine/peripheral/dev/virtio-backend dev" "$(events virtio-rng-pci)"
expect "events for e1000e" dev "$(events e1000e)"
