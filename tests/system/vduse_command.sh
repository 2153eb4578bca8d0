#!/bin/sh
# `outboard vduse` against a kernel that has VDUSE; nothing but the command, and a server where one is needed.
. /lib/cases.sh

listed() { outboard vduse list --json | tr -d ' \n'; }

# refuses TEXT COMMAND...: the command fails, and says TEXT.
refuses() {
  local text=$1
  shift
  ! "$@" 2>/tmp/said || fail "it did: $*"
  cat /tmp/said
  grep -q "$text" /tmp/said || fail "it does not say '$text': $(head -n1 /tmp/said)"
}

# start NAME WORDS...: a server of the disk NAME; its process ID is in $server.
start() {
  local name=$1
  shift
  outboard serve blk "$@" --serial "$name" --listen "vduse:$name" >"/tmp/$name.out" 2>"/tmp/$name.err" &
  server=$!
  wait_for 60 grep -q '^serving' "/tmp/$name.out"
}

# killed: the server, with -9.
killed() {
  kill -9 "$server"
  wait "$server" || :
}

without_modules() {
  refuses 'vduse is not loaded' outboard vduse create blk one --ram --size 16M
  expect_equal "$(outboard vduse list)" 'no VDUSE devices'
  outboard doctor >/tmp/doctor
  grep -q '^missing *vduse ' /tmp/doctor
  grep -q '^missing *vDPA netlink' /tmp/doctor
}

with_modules() {
  modprobe -a vduse virtio_vdpa virtio_blk
  outboard doctor >/tmp/doctor
  for row in vduse virtio_vdpa VDUSE 'vDPA netlink' CAP_NET_ADMIN; do
    grep -q "^ok *$row " /tmp/doctor || fail "doctor: $row"
  done
}

made_listed_and_removed() { # WORDS...
  outboard vduse create blk one --ram --size 16M "$@"
  [ -c /dev/vduse/one ]
  listed | grep -q '"name":"one","attached":false'
  refuses 'there is a VDUSE device of this name' outboard vduse create blk one --ram --size 16M
  outboard vduse remove one
  [ ! -e /dev/vduse/one ]
  refuses 'no VDUSE device of this name' outboard vduse remove one
}

# 6.12 has API version 0 alone.
api_version_1() {
  if outboard vduse create blk one --ram --size 16M --api 1 --group-each-queue --queues 2 2>/tmp/said; then
    outboard vduse remove one
  else
    grep -q 'no API version 1' /tmp/said
    [ ! -e /dev/vduse/one ]
  fi
}

given_to_a_user() {
  outboard vduse create blk one --ram --size 16M --owner 1000:100
  expect_equal "$(stat -c %u:%g:%a /dev/vduse/one)" 1000:100:660 owner
  outboard vduse remove one
}

served_and_used() {
  start one --ram --size 16M
  listed | grep -q "\"driver\":\"virtio_vdpa\",\"child\":\"virtio[0-9]*\",\"made\":\"vda\",\"users\":\[\],\"server\":{\"pid\":$server,"
  refuses 'serves this device' outboard vduse remove one
  mkfs.ext4 -q -F /dev/vda
  mount -t ext4 /dev/vda /mnt
  listed | grep -q '"users":\["/mnt"\]'
  umount /mnt
  kill "$server"
  wait "$server"
  expect_equal "$(outboard vduse list)" 'no VDUSE devices'
}

removed_after_a_kill() {
  start one --ram --size 16M
  killed
  listed | grep -q '"attached":true.*"server":null,"journal":true'
  timeout 20 outboard vduse remove one
  [ ! -e /dev/vduse/one ] && [ ! -e /sys/bus/vdpa/devices/one ] && [ ! -e /run/outboard/vduse/one.journal ]
  expect_equal "$(cat /sys/bus/vdpa/drivers_autoprobe)" 1 autoprobe
}

not_removed_while_mounted() {
  truncate -s 16M /tmp/image
  start one --image /tmp/image
  mkfs.ext4 -q -F /dev/vda
  mount -t ext4 /dev/vda /mnt
  sync
  killed
  refuses 'in use: /mnt' outboard vduse remove one
  start one --image /tmp/image
  umount /mnt
  kill "$server"
  wait "$server"
}

case_run without_modules
case_run with_modules
case_run made_listed_and_removed
case_run made_listed_and_removed --packed --queues 4
case_run api_version_1
case_run given_to_a_user
case_run served_and_used
case_run removed_after_a_kill
case_run not_removed_while_mounted
case_end
