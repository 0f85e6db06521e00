# prints: overlay2
mount -t tmpfs tmpfs /etc/docker
mkdir -p /sys/fs/cgroup/init # as Docker's own image with Docker does
for process in $(cat /sys/fs/cgroup/cgroup.procs); do echo $process >/sys/fs/cgroup/init/cgroup.procs 2>/dev/null || true; done
sed 's/ / +/g; s/^/+/' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
# Each for itself: dockerd gives its containerd 15 seconds, which emulation may take.
setsid containerd >/tmp/containerd.log 2>&1 </dev/null &
for try in $(seq 600); do if ctr version >/dev/null 2>&1; then break; fi; sleep 0.2; done
setsid dockerd --containerd /run/containerd/containerd.sock >/tmp/docker.log 2>&1 </dev/null &
for try in $(seq 300); do if docker info >/dev/null 2>&1; then break; fi; sleep 0.5; done
docker info --format '{{.Driver}}' || { tail -n 20 /tmp/containerd.log /tmp/docker.log >&2; exit 1; }
mkdir -p /tmp/image/bin && cp /bin/busybox /tmp/image/bin/ && ln -sf busybox /tmp/image/bin/sh
tar -C /tmp/image -c . | docker import - box >/dev/null
