#!/bin/sh
# The short version, for another kernel.
. /lib/cases.sh
. /lib/blk.sh
. /lib/vduse.sh
modprobe -a vduse virtio_vdpa virtio_blk

works() { # LAYOUT QUEUES
  truncate -s 48M "$image"
  start_disk disk --image $image --queues "$2" $(ring_words "$1")
  filesystem_keeps_its_files disk
  fio_verifies_at_depth disk
  kill_server
  start_disk disk --image $image --queues "$2" $(ring_words "$1")
  filesystem_keeps_its_files disk
  stop_disk disk
}

case_run works split 1
case_run works packed 2
case_run written_back_while_memory_is_short
case_end
