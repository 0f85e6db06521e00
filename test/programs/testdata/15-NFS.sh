# prints: shared
# needs modules
mkdir -p /tmp/export /tmp/mnt /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
mount -t tmpfs tmpfs /tmp/export
echo shared >/tmp/export/file
mount -t nfsd nfsd /proc/fs/nfsd
exportfs -o rw,no_root_squash,fsid=0,insecure '*:/tmp/export'
rpc.mountd --no-nfs-version 3
rpc.nfsd --no-nfs-version 3 1
mount -t nfs4 -o port=2049 127.0.0.1:/ /tmp/mnt
cat /tmp/mnt/file
umount /tmp/mnt
rpc.nfsd 0
