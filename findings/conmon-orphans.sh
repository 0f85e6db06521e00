#!/bin/bash
# conmon does not end with its container, but with the last process left to it.
#
# Tool:  conmon 2.1.6+ds1-1 of Debian 12
# Seen:  conmon makes itself the reaper of whatever the runtime leaves behind. When the
#        container ends it writes the exit file and runs the exit command at once, and
#        then waits until it has no child at all. A helper process of the runtime (a
#        VMM, a file server) that was not started by somebody else keeps one conmon per
#        container alive, and holds what conmon holds.
#
#        as described: exit file: 0
#        as described: conmon after the exit command, while the helper lives: alive
#        as described: conmon after the helper's end: gone
. "$(dirname "$0")/lib/common.sh"
debian conmon=2.1.6+ds1-1

# A runtime whose container ends after a second, and which leaves a helper.
cat >runtime <<END
#!/bin/bash
while [ \$# -gt 0 ]; do [ "\$1" = --pid-file ] && file=\$2; shift; done
setsid sleep 1 <>/dev/null >&0 2>&0 &
printf %s \$! >"\$file"
setsid sleep 30 <>/dev/null >&0 2>&0 &
printf %s \$! >$scratch/helper
END
chmod +x runtime
mkdir bundle sockets exits
echo '{}' >bundle/config.json

conmon --api-version 1 --cid c --cuuid c --name c --runtime "$scratch/runtime" --bundle "$scratch/bundle" \
	--container-pidfile "$scratch/bundle/pid" --conmon-pidfile "$scratch/conmon" --exit-dir "$scratch/exits" \
	--socket-dir-path "$scratch/sockets" --log-path "k8s-file:$scratch/log" \
	--exit-command /bin/touch --exit-command-arg "$scratch/told" </dev/null >errors 2>&1
until_true 20 test -e told || { cat errors >&2; untried "conmon did not run the exit command"; }
alive() { kill -0 "$(cat conmon)" 2>/dev/null; }
gone() { ! alive; }
state() { until_true 3 gone && echo gone || echo alive; }

expect "exit file" 0 "$(cat exits/c)"
expect "conmon after the exit command, while the helper lives" alive "$(state)"
kill "$(cat helper)"
expect "conmon after the helper's end" gone "$(state)"
