#!/bin/bash
# runc built with Go 1.19 gives its containers a higher limit of open files than it has.
#
# Tools: runc 1.1.5+ds1-1+deb12u1 of Debian 12 (built with Go 1.19.8), runc v1.5.2
# Seen:  a container whose config has no process.rlimits inherits the limits of the
#        runtime's caller, with one exception: Go programs raise their own soft limit of
#        open files to the hard one as they start. Of the two, runc 1.1.5 passes on what
#        was raised; runc 1.5.2 raises its own too, and gives the container the caller's.
#        So with Debian's runc the soft limit of a service manager or of "ulimit -Sn" has
#        no effect in a container, with a newer runc it has.
#
#        as described: Debian's runc, built with: go1.19.8
#        as described: Debian's runc, own soft limit of 777: raised
#        as described: Debian's runc, the container's limits: 5000 5000
#        as described: runc v1.5.2, own soft limit of 777: raised
#        as described: runc v1.5.2, the container's limits: 777 5000
. "$(dirname "$0")/lib/common.sh"
need_root
build_program github.com/opencontainers/runc@v1.5.2
debian runc=1.1.5+ds1-1+deb12u1 busybox-static=1:1.35.0-4+deb12u1+b1
mkdir -p bundle/rootfs/bin bundle/rootfs/proc
cp root/bin/busybox bundle/rootfs/bin/

# The container has no PID namespace: its parent is the runtime, whose limits it reads.
cat >bundle/rootfs/limits <<'END'
ulimit -Sn
ulimit -Hn
/bin/busybox sed -n 's/^Max open files *\([0-9]*\) .*/\1/p' /proc/$PPID/limits
END
cat >bundle/config.json <<'END'
{"ociVersion": "1.0.2", "root": {"path": "rootfs"},
 "process": {"cwd": "/", "args": ["/bin/busybox", "sh", "/limits"], "user": {"uid": 0, "gid": 0}},
 "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}],
 "linux": {"namespaces": [{"type": "mount"}]}}
END

run() { # RUNTIME
	(
		ulimit -Sn 777
		ulimit -Hn 5000
		timeout --foreground 20 "$1" --root "$scratch/state" run --bundle bundle "finding-$$"
	) >seen 2>errors || { tail -n 1 errors >&2; untried "$1 did not run the container"; }
	limits="$(sed -n 1p seen) $(sed -n 2p seen)"
	[ "$(sed -n 3p seen)" = 777 ] && own="as it was" || own=raised
}

expect "Debian's runc, built with" go1.19.8 "$(root/usr/sbin/runc --version | sed -n 's/^go: //p')"
run root/usr/sbin/runc
expect "Debian's runc, own soft limit of 777" raised "$own"
expect "Debian's runc, the container's limits" "5000 5000" "$limits"
run bin/runc
expect "runc v1.5.2, own soft limit of 777" raised "$own"
expect "runc v1.5.2, the container's limits" "777 5000" "$limits"
