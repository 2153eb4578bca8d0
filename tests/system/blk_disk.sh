#!/bin/sh
# Everything a guest does with three disks: split ring and one queue, packed ring and two, read-only.
. /lib/cases.sh
. /lib/blk.sh
. /parameters # interrupts=msix or intx
modprobe virtio_blk

lspci -nn
for disk in split packed; do
  case_run interrupts_are $interrupts $disk
  case_run filesystem_keeps_its_files $disk
  case_run fio_verifies_at_depth $disk
  case_run discard_and_write_zeroes $disk
  case_run driver_can_be_unbound_and_bound $disk
  case_run function_can_be_reset $disk
done
case_run queues_are 1 split
case_run queues_are 2 packed
case_run disk_is_read_only readonly
case_end
