#!/bin/sh
# Real functions, exported again on a socket, and driven there by other processes.
. /lib/cases.sh
. /lib/blk.sh
. /lib/vfio.sh

vfio_modules
hand_over $EDU $BLK $NVME

# export_function NAME ADDRESS: on /tmp/NAME.sock; the server's number is in $server.
export_function() {
  outboard serve pci --device "vfio:$2" --listen "vfio-user:/tmp/$1.sock" >"/tmp/$1.out" 2>&1 &
  server=$!
  echo $server >"/tmp/$1.pid"
  wait_for 20 test -S "/tmp/$1.sock"
}

# Every number that the device itself has.
identity_is_the_devices() { # NAME ADDRESS
  outboard show "vfio-user:/tmp/$1.sock" --json | tr -d ' \n' >/tmp/shown
  for pair in vendor:vendor device:device class:class revision:revision; do
    grep -q "\"${pair%:*}\":$(($(cat $functions/$2/${pair#*:})))[,}]" /tmp/shown || fail "${pair%:*}: $(cat /tmp/shown)"
  done
  outboard lspci "vfio-user:/tmp/$1.sock" >/tmp/ours
  lspci -s "${2#0000:}" | sed 's/^[^ ]* //; s/ (prog-if.*//' >/tmp/real
  grep -qF "$(cat /tmp/real)" /tmp/ours || fail "lspci: $(head -n1 /tmp/ours), not $(cat /tmp/real)"
}

nvme_says_its_version() {
  expect_equal "$(function_user register vfio-user:/tmp/nvme.sock 0 8)" 00010400 'the version register'
}

nvme_is_reset() {
  outboard reset vfio-user:/tmp/nvme.sock
  nvme_says_its_version
}

disk_keeps_its_data() {
  outboard blk verify vfio-user:/tmp/blk.sock --write --depth 32 --length 16M
  outboard blk verify vfio-user:/tmp/blk.sock --depth 32 --length 16M
}

# A client that is killed leaves a function for the next.
killed_client_leaves_a_usable_function() {
  outboard blk bench vfio-user:/tmp/blk.sock --rw randread --depth 32 --seconds 60 &
  client=$!
  sleep 2
  kill -9 $client
  wait $client || :
  disk_keeps_its_data
}

ended_server_gives_the_function_back() { # NAME ADDRESS
  kill "$(cat "/tmp/$1.pid")"
  wait_for 10 eval "[ ! -e /tmp/$1.sock ]"
  outboard show "vfio:$2" >/dev/null
}

killed_server_leaves_a_usable_function() {
  export_function again $BLK
  outboard blk verify vfio-user:/tmp/again.sock --write --length 4M
  kill -9 $server
  wait $server || :
  outboard blk verify vfio:$BLK --length 4M
}

for pair in edu=$EDU blk=$BLK nvme=$NVME; do
  case_run export_function ${pair%=*} ${pair#*=}
  case_run identity_is_the_devices ${pair%=*} ${pair#*=}
done
case_run nvme_says_its_version
case_run nvme_is_reset
case_run disk_keeps_its_data
driver_tests --edu vfio-user:/tmp/edu.sock --blk vfio-user:/tmp/blk.sock --report /dev/ttyS1
case_run killed_client_leaves_a_usable_function
for pair in edu=$EDU blk=$BLK nvme=$NVME; do
  case_run ended_server_gives_the_function_back ${pair%=*} ${pair#*=}
done
case_run killed_server_leaves_a_usable_function
case_end
