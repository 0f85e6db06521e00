#!/usr/bin/env bash
# Installs the Debian packages that are missing, of the groups named as
# arguments. Where nothing is missing it needs neither root nor a network.
set -euo pipefail

packages=()
for group in "$@"; do
  case $group in
    # To run VMs. qemu-system-x86 brings virtiofsd in /usr/lib/qemu.
    run) packages+=(qemu-system-x86 busybox-static) ;;
    # To build the programs: the agent needs a C compiler and libseccomp. The
    # image builder unpacks Debian's kernel package, and packs disk images.
    build) packages+=(gcc libc6-dev libseccomp-dev pkg-config make git ca-certificates dpkg xz-utils erofs-utils) ;;
    # To compile the guest kernel.
    kernel) packages+=(flex bison bc libelf-dev perl-base) ;;
    # To give a kernel its own types (BTF), which the profile debug has.
    types) packages+=(dwarves) ;;
    # To run arm64 guests on an x86-64 host, and to build what they boot.
    arm64) packages+=(qemu-system-arm gcc-aarch64-linux-gnu libc6-dev-arm64-cross) ;;
    # What tests and benchmarks compare with, and the callers that tests drive.
    test) packages+=(runc podman dbus-daemon netavark aardvark-dns conmon containerd containernetworking-plugins docker.io iptables passt
      iperf3 mmdebstrap e2fsprogs erofs-utils apparmor checkpolicy) ;;
    # To build the disk of the lab, of more of Debian's packages.
    lab) packages+=(mmdebstrap e2fsprogs qemu-system-x86) ;;
    *) echo "deps.sh: no group $group" >&2; exit 2 ;;
  esac
done

if ! command -v dpkg-query >/dev/null; then
  echo "This is no Debian system. Provide what these packages hold: ${packages[*]}" >&2
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

if [[ $(id -u) -ne 0 ]]; then
  echo "Missing packages; as root: apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
echo "Installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq -o Acquire::Retries=3 update
apt-get -qq -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 install -y --no-install-recommends "${missing[@]}" >/dev/null
