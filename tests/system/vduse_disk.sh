#!/bin/sh
# What a disk on the vDPA bus is used for: split and packed rings, one, two and four queues; and how it comes and goes.
. /lib/cases.sh
. /lib/blk.sh
. /lib/vduse.sh
. /parameters # rounds=N: how often the disk comes and goes
modprobe -a vduse virtio_vdpa virtio_blk

works() { # LAYOUT QUEUES [WORDS...]
  local layout=$1 queues=$2
  shift 2
  truncate -s 48M "$image"
  start_disk disk --image $image --queues "$queues" $(ring_words "$layout") "$@"
  queues_are "$queues" disk
  filesystem_keeps_its_files disk
  fio_verifies_at_depth disk
  stop_disk disk
  rm $image
}

# What the disk was given is in the image, and the other way round.
image_and_disk_are_the_same() {
  dd if=/dev/urandom of=$image bs=64k count=256
  start_disk disk --image $image --packed
  cmp "/dev/$(disk_of disk)" $image
  dd if=/dev/urandom of=/tmp/pattern bs=64k count=16
  dd if=/tmp/pattern "of=/dev/$(disk_of disk)" bs=64k seek=5 oflag=direct conv=fsync
  dd if=$image bs=64k skip=5 count=16 | cmp - /tmp/pattern
  discard_and_write_zeroes disk
  stop_disk disk
}

read_only() {
  truncate -s 16M $image
  start_disk disk --image $image --read-only
  disk_is_read_only disk
  stop_disk disk
}

comes_and_goes() {
  local i=0
  while [ $i -lt "$rounds" ]; do
    start_disk disk --ram --size 8M $(ring_words "$([ $((i % 2)) = 0 ] && echo split || echo packed)")
    dd "if=/dev/$(disk_of disk)" of=/dev/null bs=4k count=8 iflag=direct 2>/dev/null
    stop_disk disk
    i=$((i + 1))
  done 2>/dev/null
  expect_equal "$i" "$rounds" rounds
  expect_equal "$(ls /sys/class/vduse)" control 'VDUSE devices'
}

grows_on_sighup() {
  truncate -s 16M $image
  start_disk disk --image $image
  expect_equal "$(cat "/sys/block/$(disk_of disk)/size")" 32768 sectors
  truncate -s 24M $image
  kill -HUP "$server"
  size_is() { [ "$(cat "/sys/block/$(disk_of disk)/size")" = "$1" ]; }
  wait_for 10 size_is 49152
  dd if=/dev/urandom of=/tmp/pattern bs=4k count=4
  dd if=/tmp/pattern "of=/dev/$(disk_of disk)" bs=4k seek=6000 oflag=direct
  dd if=$image bs=4k skip=6000 count=4 | cmp - /tmp/pattern
  # What was learnt must not be forgotten by a crash.
  kill_server
  truncate -s 32M $image # and what has come since is told to the driver
  start_disk disk --image $image
  wait_for 10 size_is 65536
  dd "if=/dev/$(disk_of disk)" bs=4k skip=6000 count=4 iflag=direct | cmp - /tmp/pattern
  stop_disk disk
}

api_version() { # 0|1
  truncate -s 16M $image
  start_disk disk --image $image --api "$1"
  fio_verifies_at_depth disk
  kill_server
  start_disk disk --image $image --api "$1"
  stop_disk disk
}

is_listed() {
  start_disk one --ram --size 16M
  outboard vduse list | tee /tmp/list
  grep -q '^one' /tmp/list
  stop_disk one
  ! outboard vduse list | grep -q '^one'
}

attached_by_others() {
  serve disk --ram --size 16M --no-attach
  wait_for 20 test -e /dev/vduse/disk
  bounded vdpa dev add name disk mgmtdev vduse
  wait_for 10 disk_of disk
  fio_verifies_at_depth disk
  bounded vdpa dev del disk
  kill "$server"
  wait_end
  expect_equal $status 0 "the server's exit status"
  nothing_left disk
}

for layout in split packed; do
  for queues in 1 2 4; do
    case_run works $layout $queues
  done
done
case_run works split 4 --threads 2
case_run works packed 2 --threads 2 --spin 50
case_run works split 2 --poll
case_run works packed 4 --threads 2 --poll
case_run image_and_disk_are_the_same
case_run read_only
case_run grows_on_sighup
case_run api_version 0
case_run api_version 1
case_run is_listed
case_run attached_by_others
case_run comes_and_goes
case_end
