#!/bin/sh
# A server that is killed while it attaches its device: the kernel's probe then waits for a server that is no more.
. /lib/cases.sh
. /lib/blk.sh
. /lib/vduse.sh
modprobe -a vduse virtio_vdpa virtio_blk

# The server, which attaches, is killed while it does, at several moments; the next one gets the disk.
killed_while_attaching() {
  local round=0
  truncate -s 16M "$image"
  while [ $round -lt 20 ]; do
    serve disk --image "$image"
    [ $((round % 2)) = 0 ] || wait_for 20 test -e /sys/bus/vdpa/devices/disk
    usleep $((round * 7000))
    kill -9 "$server" # the probe, and whoever waits for it, may outlive it until the next one serves the disk
    netlink_answers
    start_disk disk --image "$image"
    dd "if=/dev/$(disk_of disk)" of=/dev/null bs=4k count=8 iflag=direct
    stop_disk disk
    round=$((round + 1))
  done
}

# While the kernel reads the partition table of a slow disk: the probe waits for a server that is no more, and only
# the next one can end it.
killed_during_the_scan() {
  modprobe null_blk nr_devices=1 gb=1 queue_mode=2 irqmode=2 completion_nsec=500000000
  serve disk --image /dev/nullb0 --direct
  is_scanning() {
    cat /sys/bus/vdpa/devices/disk/virtio*/block/vd*/inflight |
      grep -q '[1-9]'
  }
  wait_for 20 is_scanning
  kill -9 "$server"
  netlink_answers
  start_disk disk --image /dev/nullb0 --direct
  dd "if=/dev/$(disk_of disk)" of=/dev/null bs=4k count=1 iflag=direct
  netlink_answers
  stop_disk disk
}

case_run killed_while_attaching
case_run killed_during_the_scan
case_end
