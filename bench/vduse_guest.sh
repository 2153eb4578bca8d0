#!/bin/sh
# Run by bench/run in a guest: the same disk over VDUSE by us and by qemu-storage-daemon, beside the kernel's null_blk.
# Each figure is a line on the second serial port:
#   FIGURE disk queues rw bs depth IOPS milliseconds nanoseconds      (of the run; of the server)
#   CALLS disk depth requests name count                                       (system calls of the server)
. /lib/cases.sh
. /parameters # disks, queue_counts, milliseconds, with_calls
modprobe -a vduse virtio_vdpa virtio_blk

disk_of() { basename "$(ls -d /sys/bus/vdpa/devices/"$1"/virtio*/block/*)"; }
has_disk() { ls -d /sys/bus/vdpa/devices/"$1"/virtio*/block/*; }

start_ours() { # NAME ARGUMENTS...
  local name=$1
  shift
  outboard serve blk "$@" --queues "$queues" --listen "vduse:$name" &
  eval "pid_$name=$!"
  wait_for 30 has_disk "$name"
}

start_peer() {
  qemu-storage-daemon --blockdev driver=null-co,node-name=n,size=1073741824,read-zeroes=on \
    --export "type=vduse-blk,id=e,node-name=n,name=peer,num-queues=$queues,queue-size=256,writable=on" &
  pid_peer=$!
  wait_for 30 test -e /dev/vduse/peer
  vdpa dev add name peer mgmtdev vduse
  wait_for 30 has_disk peer
}

start_all() {
  modprobe null_blk nr_devices=1 gb=1 queue_mode=2 irqmode=0 submit_queues="$queues"
  pid_kernel=0
  truncate -s 64M /tmp/file
  dd if=/dev/zero of=/tmp/file bs=1M count=64 conv=notrunc 2>/dev/null
  for disk in $disks; do
    case $disk in
      null) start_ours null --null --size 1G ;;
      file) start_ours file --image /tmp/file ;;
      peer) start_peer ;;
    esac
  done
}

stop_all() {
  for disk in $disks; do
    [ "$disk" != peer ] || vdpa dev del peer
    eval "pid=\$pid_$disk"
    [ "$pid" = 0 ] || kill "$pid"
  done
  wait
  modprobe -r null_blk
}

device() { [ "$1" = kernel ] && echo nullb0 || disk_of "$1"; }

# How long a process has been running on any processor, in nanoseconds.
time_of() {
  [ "$1" != 0 ] || { echo 0 && return; }
  cat /proc/"$1"/task/*/schedstat | awk '{sum += $1} END {printf "%.0f", sum}'
}

fio_terse() { # DISK RW BS DEPTH MORE...
  local disk=$1 rw=$2 bs=$3 depth=$4
  shift 4
  fio --name=x --filename="/dev/$(device "$disk")" --rw="$rw" --bs="$bs" --iodepth="$depth" --size=64m \
    --ioengine=io_uring --direct=1 --minimal --thread --numjobs="$queues" --group_reporting \
    --cpus_allowed="0-$((queues - 1))" --cpus_allowed_policy=split --norandommap --time_based "$@" 2>/dev/null
}

measure() { # DISK RW BS DEPTH
  local before iops field=8
  eval "pid=\$pid_$1"
  [ "$2" = randread ] || field=49
  before=$(time_of "$pid")
  iops=$(fio_terse "$@" --runtime="${milliseconds}ms" | cut -d';' -f$field)
  echo "FIGURE $1 $queues $2 $3 $4 $iops $milliseconds $(($(time_of "$pid") - before))" >/dev/ttyS1
}

# The first of anything is slow: code is translated, memory allocated.
warm_up() {
  for disk in $disks; do
    fio_terse "$disk" randrw 128k 32 --runtime=200ms >/dev/null
  done
}

# What the server asks of the kernel, counted by the kernel.
count_calls() { # DISK DEPTH
  local trigger=/sys/kernel/tracing/events/raw_syscalls/sys_enter requests
  eval "pid=\$pid_$1"
  echo 'hist:keys=common_pid,id.syscall:size=4096' >$trigger/trigger
  requests=$(fio_terse "$1" randread 4k "$2" --runtime="${milliseconds}ms" | cut -d';' -f8)
  requests=$((requests * milliseconds / 1000))
  for task in /proc/"$pid"/task/*; do
    sed -n "s/^{ common_pid: *${task##*/}, id: \([a-z0-9_]*\).* hitcount: *\([0-9]*\).*/\1 \2/p" $trigger/hist
  done | while read -r name count; do
    echo "CALLS $1 $2 $requests $name $count" >/dev/ttyS1
  done
  echo '!hist:keys=common_pid,id.syscall:size=4096' >$trigger/trigger
}

for queues in $queue_counts; do
  start_all
  warm_up
  for rw in randread randwrite; do
    for bs in 4k 128k; do
      for depth in 1 32; do
        for disk in $disks; do
          measure $disk $rw $bs $depth
        done
      done
    done
  done
  if [ "$with_calls" = 1 ] && [ "$queues" = 1 ]; then
    mount -t tracefs tracefs /sys/kernel/tracing
    for depth in 1 32; do
      for disk in $disks; do
        [ "$disk" = kernel ] || count_calls "$disk" $depth
      done
    done
  fi
  stop_all
done
all_measured() { :; }
case_run all_measured
case_end
