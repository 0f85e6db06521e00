#!/bin/bash
# In containerd 1 the first runtime that a configuration names replaces the built-in one.
#
# Tools: containerd 1.6.20~ds1-1+deb12u3 of Debian 12
# Seen:  without a configuration, or with one that says nothing of runtimes (as Debian's own),
#        pods have the runtime runc. One more runtime in the file, and runc is gone,
#        although default_runtime_name still says runc: no pod without a class starts. An
#        imported file with it takes away all that the main file says of the CRI plugin.
#        containerd 2 adds to what it has in both cases.
#
#        as described: nothing named: runc
#        as described: another named: other
#        as described: the default runtime: default_runtime_name = "runc"
#        as described: what the main file says of the plugin: sandbox_image = "mine"
#        as described: with an imported runtime: sandbox_image = "registry.k8s.io/pause:3.6"
. "$(dirname "$0")/lib/common.sh"
debian containerd=1.6.20~ds1-1+deb12u3

plugin='plugins."io.containerd.grpc.v1.cri"'
dump() { containerd --config "$scratch/$1" config dump; }
runtimes() { dump "$1" | sed -n 's/.*\.runtimes\.\([a-z]*\)\]$/\1/p' | xargs; }
setting() { dump "$1" | sed -n "s/^ *\($2 = .*\)/\1/p"; }
other="[$plugin.containerd.runtimes.other]
  runtime_type = \"io.containerd.runc.v2\""

printf 'version = 2\n[%s.cni]\n  bin_dir = "/usr/lib/cni"\n' "$plugin" >plain.toml
{ cat plain.toml; echo "$other"; } >named.toml
printf 'version = 2\n[%s]\n  sandbox_image = "mine"\n' "$plugin" >main.toml
{ echo "imports = [\"$scratch/imported.toml\"]"; cat main.toml; } >importing.toml
{ echo 'version = 2'; echo "$other"; } >imported.toml

expect "nothing named" runc "$(runtimes plain.toml)"
expect "another named" other "$(runtimes named.toml)"
expect "the default runtime" 'default_runtime_name = "runc"' "$(setting named.toml default_runtime_name)"
expect "what the main file says of the plugin" 'sandbox_image = "mine"' "$(setting main.toml sandbox_image)"
expect "with an imported runtime" 'sandbox_image = "registry.k8s.io/pause:3.6"' "$(setting importing.toml sandbox_image)"
