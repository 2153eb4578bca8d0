#!/bin/sh
# Probes that go wrong and messages that are not answered: what is said, and that the machine stays usable. The cases that
# may leave the kernel with something stuck come last.
. /lib/cases.sh
. /lib/blk.sh
. /lib/vduse.sh
modprobe vduse

says() { grep -qi "$1" "/tmp/$2.err"; }

# Nobody on the bus takes the device.
no_bus_driver() {
  serve disk --ram --size 16M
  wait_end
  cat /tmp/disk.err
  expect_equal $status 1 "the server's exit status"
  says virtio_vdpa disk || fail "it does not say what is missing: $(cat /tmp/disk.err)"
  nothing_left disk
  netlink_answers
}

# A child device, and no driver for it.
no_device_driver() {
  modprobe virtio_vdpa
  serve disk --ram --size 16M
  wait_end
  cat /tmp/disk.err
  expect_equal $status 1 "the server's exit status"
  says virtio_blk disk || fail "it does not say what is missing: $(cat /tmp/disk.err)"
  nothing_left disk
  netlink_answers
  modprobe virtio_blk
  a_disk_can_be_used other
}

# The device refuses FEATURES_OK.
refuses_features() {
  refusing_vduse contrary >/tmp/contrary.out 2>/tmp/contrary.err || status=$?
  cat /tmp/contrary.err
  expect_equal "$status" 1 'exit status'
  says features contrary
  nothing_left contrary
  netlink_answers
  a_disk_can_be_used other
}

stopped_while_idle_is_no_harm() {
  start_disk disk --ram --size 16M
  echo 1 >/sys/class/vduse/disk/msg_timeout
  kill -STOP "$server"
  sleep 3
  kill -CONT "$server"
  fio_verifies_at_depth disk
  stop_disk disk
}

# A message is not answered in time: the kernel gives the device up for good.
stopped_past_a_message() {
  start_disk disk --ram --size 16M
  start_disk other --ram --size 16M
  others=$server
  server=$(cat /tmp/disk.pid)
  echo 2 >/sys/class/vduse/disk/msg_timeout
  kill -STOP "$server"
  bounded sh -c "echo disk >/sys/bus/vdpa/drivers/virtio_vdpa/unbind"
  kill -CONT "$server"
  wait_end
  cat /tmp/disk.err
  [ $status != 0 ] || fail 'it ended as if nothing had been'
  says 'given up\|broken\|timeout\|in time' disk || fail "it does not say what has happened: $(cat /tmp/disk.err)"
  netlink_answers
  bounded outboard vduse remove disk || :
  nothing_left disk || start_disk disk --ram --size 16M --replace
  dd "if=/dev/$(disk_of other)" of=/dev/null bs=4k count=8 iflag=direct
  a_disk_can_be_used disk
  server=$others
  stop_disk other
}

# Somebody else attaches, and is killed while the server does not answer: the transitions that nobody waits for any more
# are undone, and the device can be attached again.
attach_killed() {
  serve disk --ram --size 16M --no-attach
  wait_for 20 test -e /dev/vduse/disk
  says_serving disk || wait_serving disk
  kill -STOP "$server"
  vdpa dev add name disk mgmtdev vduse &
  adder=$!
  wait_for 10 test -e /sys/bus/vdpa/devices/disk
  kill -9 $adder
  wait $adder || :
  kill -CONT "$server"
  netlink_answers
  running "$server" || fail "the server did not survive it: $(cat /tmp/disk.err)"
  bounded vdpa dev del disk
  kill "$server"
  wait_end
  expect_equal $status 0 "the server's exit status"
  nothing_left disk
  a_disk_can_be_used other
}

case_run no_bus_driver
case_run no_device_driver
case_run refuses_features
case_run stopped_while_idle_is_no_harm
case_run stopped_past_a_message
case_run attach_killed
case_end
