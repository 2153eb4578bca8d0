#!/bin/sh
# Run by bench/run in a guest: one virtio-blk function of QEMU, driven by the guest's kernel and by our driver through
# kernel VFIO, by turns. Each figure is a line on the second serial port:
#   FIGURE who mode depth IOPS p50          (p50 in microseconds)
. /lib/cases.sh
. /lib/vfio.sh
. /parameters # rounds, milliseconds, with_passthrough

DISK=0000:00:05.0
seconds=$(awk "BEGIN {print $milliseconds / 1000}")

modprobe virtio_blk poll_queues=1
vfio_modules

kernel_disk() { basename "$(ls -d "$functions/$DISK"/virtio*/block/*)"; }
has_kernel_disk() { ls -d "$functions/$DISK"/virtio*/block/*; }

# fio's terse form: 8 is the IOPS of reads, 40 the mean of their latency in microseconds.
kernel_figure() { # MODE DEPTH
  local words=
  [ "$1" = interrupts ] || words=--hipri
  fio --name=x --filename="/dev/$(kernel_disk)" --rw=randread --bs=4k --iodepth="$2" --size=64m --ioengine=io_uring \
    --direct=1 --minimal --thread --norandommap --time_based --runtime="${milliseconds}ms" $words 2>/dev/null |
    awk -F';' -v mode="$1" -v depth="$2" '{print "FIGURE kernel", mode, depth, $8, $40}' >/dev/ttyS1
}

our_figure() { # WHO TARGET MODE DEPTH
  local words=
  [ "$3" = interrupts ] || words=--poll
  outboard blk bench "$2" --length 64M --rw randread --bs 4096 --depth "$4" --seconds "$seconds" $words --json |
    awk -v who="$1" -v mode="$3" -v depth="$4" -F'[:,]' '
      /"iops"/ {iops = $2} /"mean"/ {mean = $2} END {print "FIGURE", who, mode, depth, iops, mean}' >/dev/ttyS1
}

each_mode() { # COMMAND...
  local mode depth
  for mode in interrupts polled; do
    for depth in 1 32; do
      "$@" $mode $depth
    done
  done
}

through_passthrough() {
  outboard serve pci --device "vfio:$DISK" --listen vfio-user:/tmp/passthrough.sock &
  wait_for 20 test -S /tmp/passthrough.sock
  each_mode our_figure passthrough vfio-user:/tmp/passthrough.sock
  kill $!
  wait $!
}

for round in $(seq "$rounds"); do
  wait_for 20 has_kernel_disk
  each_mode kernel_figure
  bind_by_hand $DISK
  each_mode our_figure ours "vfio:$DISK"
  [ "$with_passthrough" = 0 ] || through_passthrough
  unbind_by_hand $DISK
done
all_measured() { :; }
case_run all_measured
case_end
