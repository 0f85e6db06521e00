#!/bin/bash
# crun refuses a config of a newer minor version of the specification; runc takes it.
#
# Tools: crun 1.8.1-1+deb12u1 and runc 1.1.5+ds1-1+deb12u1 of Debian 12
# Seen:  both were made for version 1.0 of the runtime specification. A config that says
#        1.2 or 1.3 and has nothing else that is new runs with runc; crun looks at the
#        version alone, and takes 1.0 and 1.1. So what crun says of such a config tells
#        nothing about its fields.
#
#        as described: runc, 1.3.0: ran
#        as described: crun, 1.1.0: not refused for its version
#        as described: crun, 1.2.0: unknown version specified
#        as described: crun, 1.3.0: unknown version specified
. "$(dirname "$0")/lib/common.sh"
need_root
debian crun=1.8.1-1+deb12u1 runc=1.1.5+ds1-1+deb12u1 busybox-static=1:1.35.0-4+deb12u1+b1
mkdir -p bundle/rootfs/bin bundle/rootfs/proc
cp root/bin/busybox bundle/rootfs/bin/

run() { # VERSION RUNTIME...
	local version=$1
	shift
	cat >bundle/config.json <<-END
		{"ociVersion": "$version", "root": {"path": "rootfs"},
		 "process": {"cwd": "/", "args": ["/bin/busybox", "echo", "ran"], "user": {"uid": 0, "gid": 0}},
		 "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
		 "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}}
	END
	timeout --foreground 20 "$@" --root "$scratch/state" run --bundle bundle "finding-$$" 2>errors || tail -n 1 errors
}

# refusal tells whether crun refuses a version. Whatever else it may lack on this host
# (it takes not every arrangement of control groups) comes later.
refusal() {
	local said
	said=$(run "$1" crun)
	[[ $said == *version* ]] && echo "$said" || echo "not refused for its version"
}

expect "runc, 1.3.0" ran "$(run 1.3.0 runc)"
expect "crun, 1.1.0" "not refused for its version" "$(refusal 1.1.0)"
expect "crun, 1.2.0" "unknown version specified" "$(refusal 1.2.0)"
expect "crun, 1.3.0" "unknown version specified" "$(refusal 1.3.0)"
