# What the programs of this folder share. To be sourced by them, first thing:
#
#	. "$(dirname "$0")/lib/common.sh"
#
# It gives them a time limit and a temporary folder ($scratch), which is also the
# current one and goes when they end. They end with 0 if everything is as described,
# with 1 if something has changed, with 2 if it could not be tried.
# shellcheck shell=bash
set -euo pipefail

if [ -z "${FINDING_BOUNDED:-}" ]; then
	FINDING_BOUNDED=1 exec timeout --kill-after=20 "${FINDING_SECONDS:-300}" bash "$(realpath "$0")"
fi

scratch=$(mktemp -d)
trap 'stop_all; rm -rf --one-file-system "$scratch"' EXIT
trap 'exit 2' TERM INT
cd "$scratch"

# background starts a command that ends with the script, and stop_all ends all such.
started=()
background() {
	"$@" &
	started+=("$!")
}

stop_all() {
	local pid
	for pid in "${started[@]}"; do
		# A function's command is the child of a shell.
		# shellcheck disable=SC2046
		kill "$pid" $(cat "/proc/$pid/task/$pid/children" 2>/dev/null) 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	started=()
}

untried() {
	echo "not tried: $*" >&2
	exit 2
}

need() {
	local program
	for program; do
		command -v "$program" >/dev/null || untried "$program is missing"
	done
}

need_root() { [ "$(id -u)" = 0 ] || untried "needs root"; }

# until_true waits for a command to succeed, for at most so many seconds.
until_true() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.1
	done
}

# expect compares what was seen with what is described.
expect() { # WHAT WANTED SEEN
	if [ "$2" != "$3" ]; then
		printf 'CHANGED: %s\n  described: %s\n  seen:      %s\n' "$1" "$2" "$3"
		exit 1
	fi
	printf 'as described: %s: %s\n' "$1" "$3"
}

# debian_alone unpacks exact versions (NAME=VERSION) of Debian's packages into
# $scratch/root.
debian_alone() {
	need apt-get dpkg
	fetch "$@" || untried "cannot download $* (apt-get update?)"
	unpack
}

# debian does the same, with those packages that they depend on and the host lacks.
debian() {
	need apt-get apt-cache dpkg
	local package
	fetch "$@" || untried "cannot download $* (apt-get update?)"
	for package in $(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
		--no-replaces --no-enhances "${@%%=*}" | grep '^[a-z0-9]' | sort -u); do
		case " ${*%%=*} " in *" $package "*) continue ;; esac
		dpkg-query -W "$package" >/dev/null 2>&1 || fetch "$package" 2>/dev/null || true
	done
	unpack
}

fetch() {
	mkdir -p "$scratch/debs"
	(cd "$scratch/debs" && apt-get -qq -o APT::Sandbox::User=root download "$@")
}

unpack() {
	mkdir -p "$scratch/root"
	local package
	for package in "$scratch"/debs/*.deb; do
		dpkg -x "$package" "$scratch/root"
	done
	rm -r "$scratch/debs"
	export PATH="$scratch/root/usr/sbin:$scratch/root/usr/bin:$scratch/root/sbin:$scratch/root/bin:$PATH"
	export LD_LIBRARY_PATH="$scratch/root/usr/lib/x86_64-linux-gnu:$scratch/root/lib/x86_64-linux-gnu"
}

# build compiles main.go of the current folder into ./program, against exact
# versions (MODULE@VERSION) of modules.
build() {
	need go
	export GOMODCACHE="$scratch/.modules" GOFLAGS=-modcacherw GOWORK=off GOTOOLCHAIN=local CGO_ENABLED=0
	{
		go mod init finding
		go get "$@"
		go mod tidy
		go build -o program .
	} >build.log 2>&1 || { cat build.log >&2 && untried "cannot build"; }
}

# build_program compiles an exact version of a program (PACKAGE@VERSION), C code
# included, into $scratch/bin.
build_program() {
	need go gcc
	GOBIN="$scratch/bin" GOMODCACHE="$scratch/.modules" GOFLAGS='-modcacherw -trimpath' GOWORK=off GOTOOLCHAIN=local \
		CGO_ENABLED=1 go install "$1" >build.log 2>&1 || { cat build.log >&2 && untried "cannot build $1"; }
}

# linux is the version of Debian's kernel that guest boots.
linux=6.1.0-57-cloud-amd64

# guest_image makes an initrd with ./program as the only process. Modules (paths below
# kernel/, without .ko) become /modules/0.ko, 1.ko and so on.
guest_image() { # MODULE...
	local module i=0
	mkdir -p image/modules image/dev image/proc image/mnt
	cp program image/init
	for module; do
		cp "$scratch/root/lib/modules/$linux/kernel/$module.ko" "image/modules/$i.ko"
		i=$((i + 1))
	done
	(cd image && find . | "$scratch/root/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -1) >initrd
}

# guest boots that kernel and initrd under QEMU's emulator, the host's: it is no matter
# which. What the program prints lands in ./console; it ends the guest.
guest() { # KERNEL'S ARGUMENTS, QEMU'S ARGUMENT...
	need qemu-system-x86_64
	local arguments=$1
	shift
	timeout --foreground 120 qemu-system-x86_64 -machine q35,accel=tcg -cpu max -nodefaults -no-user-config -display none \
		-no-reboot -serial file:console -kernel "$scratch/root/boot/vmlinuz-$linux" -initrd initrd \
		-append "console=ttyS0 quiet panic=-1 $arguments" "$@"
}
