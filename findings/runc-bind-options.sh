#!/bin/bash
# podman writes an option of its own among a bind mount's, which newer runc refuses.
#
# Tools: podman 4.3.1+ds1-8+deb12u1+b3 and runc 1.1.5+ds1-1+deb12u1 of Debian 12,
#        runc v1.5.2
# Seen:  the "copy" of "podman run -v VOLUME:/etc:copy" is for podman alone (how it fills
#        an empty volume), and yet the word reaches the runtime, as an option of the bind
#        mount in config.json. A word that is no flag of mounts is data for the file
#        system, of which a bind mount has none. runc 1.1.5 runs a container with
#        such a word, runc 1.5.2 refuses it. So a runtime as strict as the newer runc
#        refuses what Debian's podman asks for.
#
#        as described: podman's bind mount of a volume with "copy": copy
#        as described: Debian's runc, nosuid: ran
#        as described: Debian's runc, copy: ran
#        as described: Debian's runc, size=1k: ran
#        as described: runc v1.5.2, nosuid: ran
#        as described: runc v1.5.2, copy: bind mounts cannot have any filesystem-specific options applied
#        as described: runc v1.5.2, size=1k: bind mounts cannot have any filesystem-specific options applied
#
# podman runs in namespaces and folders of the script's own. The runtime that it starts
# only keeps the config.
. "$(dirname "$0")/lib/common.sh"
need_root
need unshare
build_program github.com/opencontainers/runc@v1.5.2
debian podman=4.3.1+ds1-8+deb12u1+b3 conmon=2.1.6+ds1-1 runc=1.1.5+ds1-1+deb12u1 \
	busybox-static=1:1.35.0-4+deb12u1+b1
mkdir -p bundle/rootfs/bin bundle/rootfs/proc bundle/rootfs/etc
cp root/bin/busybox bundle/rootfs/bin/

cat >runtime <<END
#!/bin/bash
while [ \$# -gt 0 ]; do [ "\$1" = --bundle ] && cp "\$2/config.json" $scratch/config.json; shift; done
exit 1
END
chmod +x runtime
: >containers.conf
cat >inside <<'END'
for folder in /run /var/lib /var/tmp /dev/shm; do mount -t tmpfs tmpfs $folder; done
export CONTAINERS_CONF=$PWD/containers.conf
timeout --foreground 60 podman --root "$PWD/storage" --runroot "$PWD/runroot" --tmpdir "$PWD/tmp" \
	--storage-driver vfs --cgroup-manager cgroupfs --events-backend none --conmon "$PWD/root/usr/bin/conmon" \
	--runtime "$PWD/runtime" run --network none --volume volume:/etc:copy \
	--rootfs "$PWD/bundle/rootfs" /bin/busybox true >log 2>&1
END
unshare --mount --net --pid --fork --kill-child --mount-proc bash inside 2>errors || true
[ -s config.json ] || { tail -n 3 log errors >&2; untried "podman did not start the runtime"; }
volume=$(grep -o '{"destination":"/etc","type":"bind"[^}]*}' config.json || true)
expect "podman's bind mount of a volume with \"copy\"" copy "$(grep -o '"copy"' <<<"$volume" | tr -d '"')"

run() { # RUNTIME OPTION
	cat >bundle/config.json <<-END
		{"ociVersion": "1.0.2", "root": {"path": "rootfs"},
		 "process": {"cwd": "/", "args": ["/bin/busybox", "echo", "ran"], "user": {"uid": 0, "gid": 0}},
		 "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
		            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
		            {"destination": "/mnt", "type": "bind", "source": "$scratch/bundle", "options": ["rbind", "$2"]}],
		 "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}}
	END
	timeout --foreground 20 "$1" --root "$scratch/state" run --bundle bundle "finding-$$" 2>errors ||
		tail -n 1 errors | sed 's/"$//; s/.*: //'
}

expect "Debian's runc, nosuid" ran "$(run root/usr/sbin/runc nosuid)"
expect "Debian's runc, copy" ran "$(run root/usr/sbin/runc copy)"
expect "Debian's runc, size=1k" ran "$(run root/usr/sbin/runc size=1k)"
refusal="bind mounts cannot have any filesystem-specific options applied"
expect "runc v1.5.2, nosuid" ran "$(run bin/runc nosuid)"
expect "runc v1.5.2, copy" "$refusal" "$(run bin/runc copy)"
expect "runc v1.5.2, size=1k" "$refusal" "$(run bin/runc size=1k)"
