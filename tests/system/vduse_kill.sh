#!/bin/sh
# A server that is killed again and again while its disk is used. What was acknowledged is remembered outside of it.
. /lib/cases.sh
. /lib/blk.sh
. /lib/vduse.sh
. /parameters # kills=N for each of the nine; seed=N
modprobe -a vduse virtio_vdpa virtio_blk
echo 300 >/sys/module/kernel/parameters/hung_task_timeout_secs 2>/dev/null || :

has_begun() { [ "$(od -An -tu8 -N8 /tmp/record | tr -d ' ')" -gt 50 ]; }

start_fio() {
  fio --name=verify "--filename=/dev/$1" --offset=16m --size=8m --rw=randwrite --bsrange=4k-32k --ioengine=libaio \
    --iodepth=16 --direct=1 --verify=crc32c --verify_backlog=32 --verify_fatal=1 --time_based --runtime=3600 --thread \
    --output=/tmp/fio.out &
  fio=$!
}

# fio ends with status 128 when it is told to.
stop_fio() {
  local status=0
  running $fio || fail "fio ended by itself: $(grep -i -m1 verify: /tmp/fio.out)"
  kill -INT $fio
  wait $fio || status=$?
  cat /tmp/fio.out
  [ $status = 0 ] || expect_equal $status 128 "fio's exit status"
  grep -q 'err= 0' /tmp/fio.out
  ! grep -qi 'verify:.*\(bad\|failed\)' /tmp/fio.out
}

start_witness() {
  disk_witness load "/dev/$1" /tmp/record 2048 16 2>/tmp/witness.err &
  witness=$!
  wait_for 20 has_begun
}

stop_witness() {
  running $witness || fail "the witness: $(cat /tmp/witness.err)"
  kill $witness
  wait $witness || fail "the witness: $(cat /tmp/witness.err)"
}

stop_last_server() {
  server=$(cat /tmp/pid)
  kill "$server"
  wait_for 30 nothing_left disk
  wait_gone
}

killed_again_and_again() { # LAYOUT QUEUES ENGINE [WORDS]
  local words="--image $image --engine $3 --queues $2 $(ring_words "$1") ${4:-}"
  rm -f $image /tmp/record
  truncate -s 24M $image
  start_disk disk $words
  queues_are "$2" disk
  name=$(disk_of disk)
  start_witness "$name"
  start_fio "$name"
  kill_server
  kill_loop "$kills" "$seed" /tmp/record /tmp/pid outboard serve blk $words --serial disk --listen vduse:disk \
    >/tmp/loop.out 2>/tmp/loop.err || fail "$(tail -n4 /tmp/loop.err | tr '\n' ' ')"
  tail -n1 /tmp/loop.out
  stop_witness
  stop_fio
  stop_last_server
  disk_witness check $image /tmp/record
  ! dmesg | grep 'is not a head'
}

case_run killed_again_and_again split 1 auto
case_run killed_again_and_again packed 1 pool
case_run killed_again_and_again split 2 pool
case_run killed_again_and_again packed 2 auto
case_run killed_again_and_again split 4 auto
case_run killed_again_and_again packed 4 pool

killed_on_threads() { # LAYOUT QUEUES ENGINE
  killed_again_and_again "$@" '--threads 2'
}
case_run killed_on_threads split 4 auto

# The kernel copies to and from memory that goes with each server.
killed_with_its_bounce_buffer() { # LAYOUT QUEUES ENGINE
  ulimit -l unlimited
  killed_again_and_again "$@" --own-bounce
  ! grep 'keeps its own bounce buffer' /tmp/loop.err /tmp/disk.err
}
case_run killed_with_its_bounce_buffer split 2 auto
case_run killed_with_its_bounce_buffer packed 1 pool
case_end
