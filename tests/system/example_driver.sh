#!/bin/sh
# Everything that the driver for Linux does with two devices: `limited` (LIMIT, breaks on 666) and `plain` (packed rings).
. /lib/cases.sh
. /lib/example.sh
uevent env >/tmp/uevents &

module_loads() {
  insmod /virtio_example.ko
  [ -d /sys/module/$module ]
  [ -d "$(device limited)" ]
  [ -d "$(device plain)" ]
}

attributes_follow_the_features() {
  local limited plain name
  limited=$(device limited)
  plain=$(device plain)
  for name in increment broken reset limit epoch events missed last_refused; do
    [ -e "$limited/$name" ] || fail "no $name"
  done
  for name in limit epoch events missed last_refused; do
    [ ! -e "$plain/$name" ] || fail "a $name without LIMIT"
  done
  expect_equal "$(show limit "$limited")" 4294967295 limit
  expect_equal "$(show epoch "$limited")" 0 epoch
  expect_equal "$(show broken "$limited")" 0 broken
  ! cat "$plain/increment" || fail "a result before the first request"
  ! cat "$limited/last_refused" || fail "a refusal before the first one"
  ! cat "$plain/reset" || fail "reset can be read"
}

values_are_incremented() {
  local device
  device=$(device "$1")
  accepted 0 1 "$device"
  accepted 41 42 "$device"
  expect_equal "$(put 0000000000041 "$device")" '' 'leading zeroes'
  expect_equal "$(show increment "$device")" '41 42' 'leading zeroes'
  accepted 4294967294 4294967295 "$device"
  accepted 4294967295 0 "$device"
}

text_that_is_no_number_is_refused() {
  local device text
  device=$(device plain)
  accepted 41 42 "$device"
  for text in abc 12abc -1 -0 0x10 '1 2' ' 7' 4.0 1e3 ''; do
    rejected "$text" "$not_a_number" "$device"
  done
  rejected "$(printf '5\n6')" "$not_a_number" "$device"
  ! printf '12\00034' >"$device/increment" || fail "text with a NUL"
  ! dd if=/dev/zero bs=8192 count=1 | tr '\0' 0 | dd bs=8192 iflag=fullblock of="$device/increment" || fail "two pages"
  expect_equal "$(show increment "$device")" '41 42' increment
}

numbers_out_of_range_are_refused() {
  local device text
  device=$(device plain)
  for text in 4294967296 4294967297 18446744073709551616 99999999999999999999999999; do
    rejected "$text" "$too_large" "$device"
  done
  expect_equal "$(show increment "$device")" '41 42' increment
}

# Each of ten processes writes 30 values of its own. All are answered; what is read meanwhile is always a pair.
parallel_writers_are_served() {
  local device writer value
  device=$(device "$1")
  rm -f /tmp/writer.*
  for writer in 0 1 2 3 4 5 6 7 8 9; do
    (
      set +x
      for value in $(seq $((writer * 100)) $((writer * 100 + 29))); do
        echo "$value" >"$device/increment" || exit 1
        read -r sent result <"$device/increment"
        [ "$result" = $((sent + 1)) ] || exit 1
      done
      echo done >/tmp/writer.$writer
    ) &
  done
  wait_for 60 sh -c '[ "$(ls /tmp/writer.* | wc -l)" = 10 ]'
}

# A lock on the attribute makes a write and the read after it one step.
locked_writers_read_their_own_results() {
  local device writer
  device=$(device limited)
  rm -f /tmp/writer.*
  for writer in 1 2 3 4; do
    (
      set +x
      for value in $(seq $((writer * 1000)) $((writer * 1000 + 9))); do
        exec 3<>"$device/increment"
        flock 3
        echo "$value" >&3 || exit 1
        [ "$(cat "$device/increment")" = "$value $((value + 1))" ] || exit 1
        exec 3>&-
      done
      echo done >/tmp/writer.$writer
    ) &
  done
  wait_for 60 sh -c '[ "$(ls /tmp/writer.* | wc -l)" = 4 ]'
}

limit_changes_are_seen() {
  local device before
  device=$(device limited)
  before=$(grep -c ^ACTION=change /tmp/uevents || :)
  perl -e 'open F, "<", $ARGV[0]; sysread F, $_, 99; vec($e, fileno F, 1) = 1; open R, ">", "/tmp/armed"; close R;
    select(undef, undef, $e, 60) > 0 and open R, ">", "/tmp/woken"' "$device/limit" &
  wait_for 20 test -e /tmp/armed
  note limit 100
  wait_attribute "$device" limit 100
  expect_equal "$(show epoch "$device")" 1 epoch
  wait_for 20 test -e /tmp/woken
  wait_for 20 sh -c "[ \$(grep -c ^ACTION=change /tmp/uevents) -gt $before ]"
  note limit 50
  wait_attribute "$device" limit 50
  expect_equal "$(show epoch "$device")" 2 epoch
}

values_above_the_limit_are_refused() {
  local device
  device=$(device limited)
  accepted 50 51 "$device"
  rejected 51 "$refused" "$device"
  expect_equal "$(show increment "$device")" '50 51' increment
  wait_attribute "$device" events 1
  expect_equal "$(show last_refused "$device")" 51 last_refused
  expect_equal "$(show missed "$device")" 0 missed
  rejected 4294967295 "$refused" "$device"
  wait_attribute "$device" last_refused 4294967295
  wait_attribute "$device" events 2
  expect_equal "$(show broken "$device")" 0 broken
  accepted 7 8 "$device"
}

# With one buffer for events and many refusals at once the device has to miss some. Each is counted on one side or the other.
no_refusal_is_lost_without_being_told() {
  local device total=0 round writer before
  device=$(device limited)
  echo 1 >$parameters/event_buffers
  echo 1 >"$device/reset"
  before=$(($(show events "$device") + $(show missed "$device")))
  for round in $(seq 1 30); do
    [ "$(show missed "$device")" = 0 ] || break
    rm -f /tmp/writer.*
    for writer in 1 2 3 4 5 6 7 8; do
      (
        set +x
        for value in 1000 1001 1002 1003 1004; do
          echo $value >"$device/increment" && exit 1
        done
        echo done >/tmp/writer.$writer
      ) 2>/dev/null &
    done
    wait_for 60 sh -c '[ "$(ls /tmp/writer.* | wc -l)" = 8 ]'
    total=$((total + 40))
    # The buffer is back, so that this one is told, with the number of those that were not.
    until rejected 2000 "$refused" "$device" && total=$((total + 1)) && [ "$(show last_refused "$device")" = 2000 ]; do
      sleep 0.1
    done
  done
  echo 16 >$parameters/event_buffers
  [ "$(show missed "$device")" -gt 0 ] || fail "no event was missed in $round rounds"
  wait_for 10 counts_are "$device" $((before + total))
}

counts_are() {
  [ $(($(cat "$1/events") + $(cat "$1/missed"))) = "$2" ]
}

device_can_be_reset() {
  local device
  device=$(device "$1")
  echo 1 >"$device/reset"
  accepted 30 31 "$device"
  ! echo 2 >"$device/reset" || fail "2 resets"
  ! echo yes >"$device/reset" || fail "yes resets"
  echo 1 >"$device/reset"
  accepted 31 32 "$device"
  expect_equal "$(show broken "$device")" 0 broken
}

limit_and_its_count_survive_a_reset() {
  local device
  device=$(device limited)
  expect_equal "$(show limit "$device") $(show epoch "$device")" '50 2' 'limit and epoch'
  echo 1 >"$device/reset"
  expect_equal "$(show limit "$device") $(show epoch "$device")" '50 2' 'limit and epoch'
  note limit 60
  wait_attribute "$device" limit 60
  rejected 61 "$refused" "$device"
  wait_attribute "$device" last_refused 61
}

# Writers that are caught by a reset get an error, at once.
reset_under_load() {
  local device round
  device=$(device "$1")
  start_load "$device"
  for round in 1 2 3 4 5 6 7 8 9 10; do
    echo 1 >"$device/reset"
  done
  stop_load
  accepted 12 13 "$device"
}

# Eight processes that write as fast as they can, whatever they are told.
start_load() {
  local writer
  rm -f /tmp/stop /tmp/writer.* /tmp/load.*
  for writer in 1 2 3 4 5 6 7 8; do
    (
      set +ex
      while [ ! -e /tmp/stop ]; do
        echo 5 >"$1/increment"
        echo >>/tmp/load.$writer
      done
      echo done >/tmp/writer.$writer
    ) 2>/dev/null &
  done
  for writer in 1 2 3 4 5 6 7 8; do
    wait_for 20 test -s /tmp/load.$writer
  done
}

stop_load() {
  touch /tmp/stop
  wait_for 30 sh -c '[ "$(ls /tmp/writer.* | wc -l)" = 8 ]'
}

unbind_in_flight() {
  local device pci virtio round driver=/sys/bus/virtio/drivers/$module
  device=$(device "$1")
  virtio=${device##*/}
  start_load "$device"
  for round in 1 2 3 4 5; do
    timeout -s KILL 60 sh -c "echo $virtio >$driver/unbind"
    [ ! -e "$device/increment" ]
    timeout -s KILL 60 sh -c "echo $virtio >$driver/bind"
  done
  stop_load
  accepted 13 14 "$device"
  # From the transport, too; the device gets another folder then.
  pci=$(pci_address "$1")
  start_load "$device"
  timeout -s KILL 60 sh -c "echo $pci >/sys/bus/pci/drivers/virtio-pci/unbind"
  stop_load
  echo "$pci" >/sys/bus/pci/drivers/virtio-pci/bind
  accepted 14 15 "$(device "$1")"
}

an_open_attribute_outlives_the_driver() {
  local device driver=/sys/bus/virtio/drivers/$module
  device=$(device plain)
  exec 4>"$device/increment"
  echo 1 >&4
  echo "${device##*/}" >$driver/unbind
  ! echo 2 >&4 || fail "there is no driver"
  echo "${device##*/}" >$driver/bind
  ! echo 2 >&4 || fail "that was another attribute"
  exec 4>&-
  accepted 3 4 "$device"
}

breaks() {
  rejected 666 "$broken" "$1"
  expect_equal "$(show broken "$1")" 1 broken
  rejected 1 "$broken" "$1"
  rejected 666 "$broken" "$1"
  rejected abc "$not_a_number" "$1"
}

broken_device_recovers_by() {
  local device driver=/sys/bus/virtio/drivers/$module
  device=$(device limited)
  # What breaks it must not be refused.
  note limit "$2"
  wait_attribute "$device" limit "$2"
  breaks "$device"
  case $1 in
    reset) echo 1 >"$device/reset" ;;
    rebind)
      echo "${device##*/}" >$driver/unbind
      echo "${device##*/}" >$driver/bind ;;
    pci_reset)
      echo 1 >"/sys/bus/pci/devices/$(pci_address limited)/reset"
      # Before 6.14 nobody tells a virtio driver.
      [ "$(show broken "$device")" = 0 ] || echo 1 >"$device/reset" ;;
    reload)
      rmmod $module
      insmod /virtio_example.ko ;;
  esac
  device=$(device limited)
  expect_equal "$(show broken "$device")" 0 broken
  accepted 20 21 "$device"
}

# Who waits when the device breaks is told; nobody waits for the time-out.
writers_are_told_when_the_device_breaks() {
  local device
  device=$(device limited)
  start_load "$device"
  rejected 666 "$broken" "$device"
  stop_load
  expect_equal "$(show broken "$device")" 1 broken
  echo 1 >"$device/reset"
  accepted 21 22 "$device"
}

# Without bus mastering a function hears, but cannot answer.
device_that_does_not_answer_is_given_up() {
  local device pci
  device=$(device plain)
  pci=$(pci_address plain)
  echo 1000 >$parameters/timeout_ms
  setpci -s "$pci" COMMAND=0:4
  rejected 1 "$silent" "$device"
  expect_equal "$(show broken "$device")" 1 broken
  rejected 1 "$broken" "$device"
  setpci -s "$pci" COMMAND=4:4
  echo 10000 >$parameters/timeout_ms
  echo 1 >"$device/reset"
  accepted 22 23 "$device"
}

# More writers than the ring has room for, and none is answered until bus mastering is back.
writer_that_waits_can_be_killed() {
  local device pci writer
  device=$(device plain)
  pci=$(pci_address plain)
  setpci -s "$pci" COMMAND=0:4
  sh -c 'echo $$ >/tmp/victim; echo 77 >"$0/increment"' "$device" &
  wait_for 10 test -s /tmp/victim
  wait_for 5 grep -q '^State:.D' "/proc/$(cat /tmp/victim)/status"
  kill -9 "$(cat /tmp/victim)"
  wait_for 5 test ! -e "/proc/$(cat /tmp/victim)"
  setpci -s "$pci" COMMAND=4:4
  # The device finds the request of the dead writer first.
  accepted 23 24 "$device"
}

function_reset_behind_the_driver() {
  local device pci error
  device=$(device "$1")
  pci=$(pci_address "$1")
  echo 1 >"/sys/bus/pci/devices/$pci/reset"
  error=$(put 24 "$device")
  if [ -n "$error" ]; then
    # Kernels before 6.14.
    [ "$(uname -r | cut -d. -f1)" = 6 ] || fail "got $error"
    expect_equal "$error" "$broken" error
    expect_equal "$(show broken "$device")" 1 broken
    echo 1 >"$device/reset"
  fi
  accepted 25 26 "$device"
}

# While a function is reset the kernel has stopped the driver, and starts it again. What `reset` asks for must not come between.
function_reset_among_resets() {
  local device pci round
  device=$(device "$1")
  pci=$(pci_address "$1")
  rm -f /tmp/stop /tmp/writer.*
  (
    set +ex
    while [ ! -e /tmp/stop ]; do echo 1 >"$device/reset"; done
    echo done >/tmp/writer.1
  ) 2>/dev/null &
  for round in 1 2 3 4 5; do
    echo 1 >"/sys/bus/pci/devices/$pci/reset"
  done
  touch /tmp/stop
  wait_for 30 test -e /tmp/writer.1
  echo 1 >"$device/reset"
  accepted 26 27 "$device"
}

module_unloads() {
  rmmod $module
  [ ! -d /sys/module/$module ]
  insmod /virtio_example.ko
  accepted 28 29 "$(device plain)"
  accepted 28 29 "$(device limited)"
  rmmod $module
}

case_run module_loads
case_run attributes_follow_the_features
case_run values_are_incremented limited
case_run values_are_incremented plain
case_run text_that_is_no_number_is_refused
case_run numbers_out_of_range_are_refused
case_run parallel_writers_are_served limited
case_run parallel_writers_are_served plain
case_run locked_writers_read_their_own_results
case_run limit_changes_are_seen
case_run values_above_the_limit_are_refused
case_run no_refusal_is_lost_without_being_told
case_run device_can_be_reset limited
case_run device_can_be_reset plain
case_run limit_and_its_count_survive_a_reset
case_run reset_under_load limited
case_run reset_under_load plain
case_run unbind_in_flight limited
case_run unbind_in_flight plain
case_run an_open_attribute_outlives_the_driver
case_run broken_device_recovers_by reset 1000
case_run broken_device_recovers_by rebind 1001
case_run broken_device_recovers_by pci_reset 1002
case_run broken_device_recovers_by reload 1003
case_run writers_are_told_when_the_device_breaks
case_run device_that_does_not_answer_is_given_up
case_run writer_that_waits_can_be_killed
case_run function_reset_behind_the_driver limited
case_run function_reset_behind_the_driver plain
case_run function_reset_among_resets limited
case_run function_reset_among_resets plain
case_run module_unloads
case_end
