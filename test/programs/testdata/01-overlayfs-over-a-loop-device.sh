# prints: low
# prints: up
cd $(mktemp -d)
truncate -s 32M disk
mkfs.ext4 -q disk
mkdir m
mount -o loop disk m
mkdir m/low m/up m/work m/merged
echo low >m/low/file
mount -t overlay overlay -o lowerdir=m/low,upperdir=m/up,workdir=m/work m/merged
echo up >m/merged/file
cat m/low/file m/up/file
umount m/merged m
