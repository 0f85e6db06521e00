#!/bin/bash
# podman leaves a container with a user namespace half removed when the runtime's kill
# takes a while.
#
# Tools: podman 4.3.1+ds1-8+deb12u1+b3, conmon 2.1.6+ds1-1 and runc 1.1.5+ds1-1+deb12u1 of
#        Debian 12
# Seen:  podman starts conmon of a container with a user namespace in a mount namespace of
#        its own. Both "podman rm --force" and the clean-up that conmon starts at the
#        container's end unmount the container's /dev/shm, whichever is first, and the
#        other one takes it for done. If that is conmon's, it was done in conmon's
#        namespace: in podman's own it is still mounted, and rm ends with "userdata/shm:
#        device or resource busy" (podman issue 11594). Whether it is first is a matter of
#        some 0.1 s: podman looks for the container's end after the runtime's kill has
#        ended, and then every 0.1 s. A second rm removes the rest.
#
#        as described: user namespace, runc: no removal fails
#        as described: no user namespace, runc whose kill takes 0.4 s: no removal fails
#        as described: user namespace, runc whose kill takes 0.4 s: some removals fail
#
# podman runs in namespaces and folders of the script's own. On a busy machine the first
# one may fail too.
. "$(dirname "$0")/lib/common.sh"
need_root
need unshare
debian podman=4.3.1+ds1-8+deb12u1+b3 conmon=2.1.6+ds1-1 runc=1.1.5+ds1-1+deb12u1 \
	busybox-static=1:1.35.0-4+deb12u1+b1
mkdir -p rootfs/bin
cp root/bin/busybox rootfs/bin/
tar -C rootfs -cf image.tar .

cat >slow <<END
#!/bin/sh
"$scratch/root/usr/sbin/runc" "\$@"
code=\$?
for word; do [ "\$word" != kill ] || sleep 0.4; done
exit \$code
END
chmod +x slow
: >containers.conf
echo containers:200000:1000000 >ids
cat >inside <<'END'
for folder in /run /var/lib /var/tmp /dev/shm; do mount -t tmpfs tmpfs $folder; done
mount --bind ids /etc/subuid
mount --bind ids /etc/subgid
export CONTAINERS_CONF=$PWD/containers.conf
podman() {
	timeout --foreground 60 podman --root "$PWD/storage" --runroot "$PWD/runroot" --tmpdir "$PWD/tmp" \
		--storage-driver vfs --cgroup-manager cgroupfs --events-backend none --conmon "$PWD/root/usr/bin/conmon" "$@"
}
podman import image.tar localhost/image >/dev/null 2>&1 || exit 1
removals() { # NAME RUNTIME OPTION...
	local name=$1 runtime=$2 i
	shift 2
	for i in 1 2 3 4 5 6 7 8; do
		podman --runtime "$runtime" run --detach --name c --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 \
			"$@" localhost/image /bin/busybox sleep 1000 >/dev/null || exit 1
		podman --runtime "$runtime" rm --force --time 0 c >/dev/null 2>errors || {
			grep -q 'userdata/shm: device or resource busy' errors || exit 1
			echo busy >>"$name"
			podman --runtime "$runtime" rm --force --time 0 c >/dev/null 2>&1
		}
	done
}
removals mapped "$PWD/root/usr/sbin/runc" --userns auto:size=5000
removals slow-plain "$PWD/slow"
removals slow-mapped "$PWD/slow" --userns auto:size=5000
END
unshare --mount --net --pid --fork --kill-child --mount-proc bash inside 2>log || { tail -n 3 log errors >&2; untried "podman does not run"; }

say() { if [ -s "$1" ]; then echo "some removals fail"; else echo "no removal fails"; fi; }
expect "user namespace, runc" "no removal fails" "$(say mapped)"
expect "no user namespace, runc whose kill takes 0.4 s" "no removal fails" "$(say slow-plain)"
expect "user namespace, runc whose kill takes 0.4 s" "some removals fail" "$(say slow-mapped)"
