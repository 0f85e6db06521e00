# prints: io_uring 0
# prints: libaio 0
# prints: io_uring 0
# prints: libaio 0
for dir in /tmp /volume; do
	for engine in io_uring libaio; do
		direct=1
		[ $dir = /volume ] || direct=0 # a tmpfs has none
		fio --name=test --ioengine=$engine --rw=randrw --bs=4k --size=4M --direct=$direct --iodepth=8 --verify=crc32c --directory=$dir --output=/tmp/fio.log \
			--minimal || { cat /tmp/fio.log >&2; exit 1; }
		echo $engine $(cut -d';' -f5 /tmp/fio.log)
	done
done
