#!/bin/bash
# docker's "--network host" reaches the OCI runtime as a path, like any pod's network.
#
# Tool:  docker.io 20.10.24+dfsg1-1+deb12u1+b6 of Debian 12 (dockerd)
# Seen:  dockerd does not leave the network namespace out of config.json, which is how
#        the runtime specification has "the host's". It mounts its own namespace at
#        EXEC-ROOT/netns/default and writes that path. A runtime that does something to
#        the namespaces it is given by path (redirects traffic, adds devices) does it to
#        the host's network: only the inode tells.
#
#        as described: network of --network host: {"type":"network","path":"EXEC-ROOT/netns/default"}
#        as described: the namespace behind it: dockerd's own
#        as described: network of --network none: {"type":"network"}
#
# dockerd runs in namespaces and folders of the script's own, without any network. The
# runtime that it starts only keeps the config.
. "$(dirname "$0")/lib/common.sh"
need_root
need unshare curl tar
debian docker.io=20.10.24+dfsg1-1+deb12u1+b6 containerd=1.6.20~ds1-1+deb12u3 runc=1.1.5+ds1-1+deb12u1

cat >runtime <<END
#!/bin/bash
while [ \$# -gt 0 ]; do [ "\$1" = --bundle ] && cp "\$2/config.json" $scratch/config.json; shift; done
exit 1
END
chmod +x runtime
echo '{}' >daemon.json
mkdir image
tar -C image -cf image.tar .

cat >inside <<'END'
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
timeout --foreground 90 dockerd --config-file "$PWD/daemon.json" --data-root "$PWD/data" --exec-root "$PWD/exec" \
	--host "unix://$PWD/socket" --pidfile "$PWD/pid" --iptables=false --ip6tables=false --bridge=none \
	--storage-driver vfs --add-runtime "finding=$PWD/runtime" >log 2>&1 & daemon=$!
call() { curl --silent --unix-socket socket -X POST -H 'Content-Type: application/json' "$@" >>answers; }
for _ in $(seq 300); do [ -S socket ] && call http://localhost/_ping && break; sleep 0.1; done
curl --silent --unix-socket socket -X POST -H 'Content-Type: application/x-tar' --data-binary @image.tar \
	'http://localhost/images/create?fromSrc=-&repo=image&tag=1' >>answers
for mode in host none; do
	call "http://localhost/containers/create?name=$mode" \
		-d '{"Image": "image:1", "Cmd": ["/x"], "HostConfig": {"Runtime": "finding", "NetworkMode": "'$mode'"}}'
	call "http://localhost/containers/$mode/start"
	mv config.json $mode.json
	grep -o '{"type":"network"[^}]*}' $mode.json >$mode
done
stat --format %i exec/netns/default >inode
stat --dereference --format %i /proc/self/ns/net >own
kill $daemon
wait $daemon
END
unshare --mount --net --pid --fork --kill-child --mount-proc bash inside 2>errors || true
[ -s none ] || { tail -n 3 log errors >&2; untried "dockerd did not start the runtime"; }
expect "network of --network host" '{"type":"network","path":"EXEC-ROOT/netns/default"}' "$(sed "s#$scratch/exec#EXEC-ROOT#" host)"
[ "$(cat own)" = "$(cat inode)" ] && behind="dockerd's own" || behind="another one"
expect "the namespace behind it" "dockerd's own" "$behind"
expect "network of --network none" '{"type":"network"}' "$(cat none)"
