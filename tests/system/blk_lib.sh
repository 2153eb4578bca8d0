# Sourced by the guest scripts of the block device tests, after cases.sh.

# disk SERIAL: the block device with that serial, without /dev/. Waits for it.
disk() {
  local tries=100 found
  while [ $tries -gt 0 ]; do
    for found in /sys/block/vd*; do
      if [ "$(cat "$found/serial" 2>/dev/null)" = "$1" ]; then
        echo "${found##*/}"
        return
      fi
    done
    sleep 0.1
    tries=$((tries - 1))
  done
  fail "no disk with serial $1"
}

# pci_address DISK: the PCI function behind it.
pci_address() {
  basename "$(readlink -f "/sys/block/$1/device/..")"
}

# mkfs, mount, write, fsync, unmount, mount again, compare, check.
filesystem_keeps_its_files() {
  local name
  name=$(disk "$1")
  mkfs.ext4 -q -F "/dev/$name"
  mount -t ext4 "/dev/$name" /mnt
  dd if=/dev/urandom of=/mnt/data bs=64k count=64 conv=fsync
  mkdir /mnt/folder
  cp /mnt/data /mnt/folder/copy
  sync
  before=$(sha256sum </mnt/data)
  umount /mnt
  echo 3 >/proc/sys/vm/drop_caches
  mount -t ext4 "/dev/$name" /mnt
  after=$(sha256sum </mnt/folder/copy)
  umount /mnt
  expect_equal "$after" "$before" hash
  e2fsck -fn "/dev/$name"
}

# fio writes at depth, in random order and mixed sizes, and verifies every block.
fio_verifies_at_depth() {
  local name
  name=$(disk "$1")
  fio --name=verify "--filename=/dev/$name" --rw=randwrite --bsrange=512-64k --bs_unaligned=0 --blockalign=512 \
    --size=12m --io_size=12m --iodepth=32 --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 \
    --thread --numjobs=1 --randrepeat=1 --fallocate=none --output-format=terse
}

# interrupts_are KIND SERIAL: msix or intx.
interrupts_are() {
  local name virtio
  name=$(disk "$2")
  virtio=$(basename "$(readlink -f "/sys/block/$name/device")")
  dd if="/dev/$name" of=/dev/null bs=4k count=1 iflag=direct
  grep "$virtio" /proc/interrupts
  case $1 in
    msix) grep "$virtio-req.0" /proc/interrupts | grep -qi msi ;;
    intx) ! grep "$virtio" /proc/interrupts | grep -qi msi ;;
  esac
}

# queues_are COUNT SERIAL
queues_are() {
  expect_equal "$(ls "/sys/block/$(disk "$2")/mq" | wc -l)" "$1" queues
}

driver_can_be_unbound_and_bound() {
  local name pci
  name=$(disk "$1")
  pci=$(pci_address "$name")
  dd if=/dev/urandom of=/tmp/pattern bs=4k count=16
  dd if=/tmp/pattern "of=/dev/$name" bs=4k seek=5 oflag=direct
  for round in 1 2 3; do
    echo "$pci" >/sys/bus/pci/drivers/virtio-pci/unbind
    echo "$pci" >/sys/bus/pci/drivers/virtio-pci/bind
    name=$(disk "$1")
    dd "if=/dev/$name" bs=4k skip=5 count=16 iflag=direct | cmp - /tmp/pattern
  done
}

function_can_be_reset() {
  local name pci
  name=$(disk "$1")
  pci=$(pci_address "$name")
  dd if=/dev/urandom of=/tmp/pattern bs=4k count=16
  dd if=/tmp/pattern "of=/dev/$name" bs=4k seek=9 oflag=direct
  echo "$pci" >/sys/bus/pci/drivers/virtio-pci/unbind
  echo 1 >"/sys/bus/pci/devices/$pci/reset"
  echo "$pci" >/sys/bus/pci/drivers/virtio-pci/bind
  name=$(disk "$1")
  dd "if=/dev/$name" bs=4k skip=9 count=16 iflag=direct | cmp - /tmp/pattern
}

# By path: the shell would run its own blkdiscard, which cannot write zeroes.
discard_and_write_zeroes() {
  local name
  name=$(disk "$1")
  [ "$(cat "/sys/block/$name/queue/discard_max_bytes")" -gt 0 ]
  [ "$(cat "/sys/block/$name/queue/write_zeroes_max_bytes")" -gt 0 ]
  dd if=/dev/urandom "of=/dev/$name" bs=64k count=16 oflag=direct
  /bin/blkdiscard -o 0 -l 524288 "/dev/$name"
  /bin/blkdiscard -z -o 524288 -l 524288 "/dev/$name"
  echo 3 >/proc/sys/vm/drop_caches
  dd "if=/dev/$name" bs=64k skip=8 count=8 iflag=direct | cmp -n 524288 - /dev/zero
}

disk_is_read_only() {
  local name
  name=$(disk "$1")
  expect_equal "$(cat "/sys/block/$name/ro")" 1 read-only
  dd "if=/dev/$name" of=/dev/null bs=4k count=4 iflag=direct
  ! dd if=/dev/zero "of=/dev/$name" bs=4k count=1 oflag=direct
}
