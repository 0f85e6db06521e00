#!/bin/bash
# inotify reports a modification time that is set alone as content that has changed.
#
# Kernel:  Linux (seen with 6.18); touch of coreutils 9.1-1 and inotifywait of inotify-tools
#          3.22.6.0-4 of Debian 12
# Seen:    inotify(7) has utimensat(2) among the causes of IN_ATTRIB. That is so where both
#          times are set. The modification time alone gives IN_MODIFY, as a write does, and
#          the access time alone IN_ACCESS, as a read does: also if the file has that time
#          already, if its owner may not write to it, and through an overlay. Nothing is
#          opened or closed for it. touch without -c opens the file for writing as well, so
#          that an IN_CLOSE_WRITE comes with nothing written.
#          Who filters events cannot take IN_MODIFY for new bytes, nor wait for an
#          IN_CLOSE_WRITE that belongs to it. Who answers IN_MODIFY by setting that time alone
#          wakes itself. Who repeats events where nothing was written wakes those that wait
#          for IN_MODIFY with the modification time alone, and not with both times.
#
#          as described: touch -c: ATTRIB
#          as described: touch -c -m: MODIFY
#          as described: touch -c -a: ACCESS
#          as described: touch -c -m, to the time it has: MODIFY
#          as described: touch -c -m, by an owner who may only read: MODIFY
#          as described: touch -c -m, through overlayfs: MODIFY
#          as described: touch -m: OPEN MODIFY CLOSE_WRITE
. "$(dirname "$0")/lib/common.sh"
need_root
need unshare setpriv
debian_alone coreutils=9.1-1 inotify-tools=3.22.6.0-4 libinotifytools0=3.22.6.0-4

cat >inside <<'END_INSIDE'
set -euo pipefail
watcher=
trap '[ -z "$watcher" ] || kill "$watcher"' EXIT

events() { # FILE COMMAND...: what a watch of the file gives while the command runs
	rm -f events log mark
	touch mark
	inotifywait --monitor --format '%w %e' --outfile events "$1" mark 2>log &
	watcher=$!
	within 200 grep -qs established log
	"${@:2}"
	chmod 600 mark # the last event
	within 200 grep -qs ^mark events
	kill "$watcher"
	wait "$watcher" 2>/dev/null || true
	watcher=
	sed -n "s|^$1 ||p" events | sed 's/,CLOSE$//' | paste -s -d ' '
}

within() { # TENTHS OF A SECOND, COMMAND...
	local left=$1
	shift
	until "$@"; do
		[ "$((left--))" -gt 0 ] || { cat log >&2; return 1; }
		sleep 0.1
	done
}

mount -t tmpfs tmpfs files
cd files
mkdir lower upper work merged
touch file lower/file
touch -d 2020-01-01 old
touch owned
chown 65534 owned
chmod 400 owned
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged

events file touch -c file
events file touch -c -m file
events file touch -c -a file
events old touch -c -m -d 2020-01-01 old
events owned setpriv --reuid=65534 --regid=65534 --clear-groups touch -c -m owned
events merged/file touch -c -m merged/file
events file touch -m file
END_INSIDE
mkdir files
chmod 711 . # for that owner
unshare --mount bash inside >seen || untried "the watches failed"
expect "touch -c" ATTRIB "$(sed -n 1p seen)"
expect "touch -c -m" MODIFY "$(sed -n 2p seen)"
expect "touch -c -a" ACCESS "$(sed -n 3p seen)"
expect "touch -c -m, to the time it has" MODIFY "$(sed -n 4p seen)"
expect "touch -c -m, by an owner who may only read" MODIFY "$(sed -n 5p seen)"
expect "touch -c -m, through overlayfs" MODIFY "$(sed -n 6p seen)"
expect "touch -m" "OPEN MODIFY CLOSE_WRITE" "$(sed -n 7p seen)"
