#!/bin/sh
# A function that QEMU takes away while a driver has it. The test beside it does at each note what it says.
. /lib/cases.sh
. /lib/vfio.sh

vfio_modules

gone() { [ ! -e "$functions/$HOT" ]; }

# driver_lets_go TARGET: within the ten seconds after which the kernel asks again.
driver_lets_go() {
  function_user unplug "$1" >/tmp/unplugged 2>&1 &
  driver=$!
  wait_for 10 grep -q open /tmp/unplugged
  note "take $HOT"
  wait $driver || fail "the driver: $(cat /tmp/unplugged)"
  cat /tmp/unplugged
  wait_for 8 gone
  note "gone: $(tail -n1 /tmp/unplugged)"
}

put_back() {
  note "give $HOT"
  wait_for 20 test -e "$functions/$HOT"
  hand_over $HOT
}

# QEMU injects an error of the bus.
error_is_told_of_and_a_reset_mends_it() {
  function_user error vfio:$HOT >/tmp/error 2>&1 &
  driver=$!
  wait_for 10 grep -q ready /tmp/error
  note "harm $HOT"
  wait $driver || fail "the driver: $(cat /tmp/error)"
  grep -q 'was reset' /tmp/error
}

driver_is_asked_and_lets_go() { driver_lets_go vfio:$HOT; }

# The command ends as with Ctrl-C: with what is in flight, its figures, and no error.
disk_under_load_is_let_go() {
  put_back
  outboard blk bench vfio:$HOT --rw randread --depth 32 --seconds 100 >/tmp/bench 2>&1 &
  driver=$!
  wait_for 20 grep -q "vfio-msix.*$HOT" /proc/interrupts
  note "take $HOT"
  status=0
  wait $driver || status=$?
  cat /tmp/bench
  expect_equal $status 0 "the command's status"
  grep -q 'to be unplugged' /tmp/bench || fail 'it does not say why it ends'
  wait_for 8 gone
  note 'gone: under load'
}

passed_on_to_whom_it_was_exported_to() {
  put_back
  outboard serve pci --device vfio:$HOT --listen vfio-user:/tmp/hot.sock >/tmp/serve 2>&1 &
  server=$!
  wait_for 10 test -S /tmp/hot.sock
  driver_lets_go vfio-user:/tmp/hot.sock
  wait $server || :
  cat /tmp/serve
}

hand_over $HOT
case_run error_is_told_of_and_a_reset_mends_it
case_run driver_is_asked_and_lets_go
case_run disk_under_load_is_let_go
case_run passed_on_to_whom_it_was_exported_to
case_end
