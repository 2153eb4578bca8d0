#!/bin/sh
# A driver outside of the kernel, through vhost-vdpa, that does what no driver of the kernel does.
. /lib/cases.sh
. /lib/blk.sh
. /lib/vduse.sh
modprobe -a vduse vhost_vdpa

serve_to_vhost() { # ARGUMENTS...
  serve disk "$@" --no-attach
  wait_serving disk
  bounded vdpa dev add name disk mgmtdev vduse
  wait_for 10 test -e /sys/bus/vdpa/devices/disk/vhost-vdpa-*
  node=/dev/$(basename /sys/bus/vdpa/devices/disk/vhost-vdpa-*)
}

client() { # LAYOUT QUEUES CASE [SECONDS]
  local said
  said=$(wc -l </tmp/disk.err)
  vhost_vdpa_client "$node" "$@" 2>/tmp/client.err ||
    fail "$(cat /tmp/client.err); the server: $(tail -n +$((said + 1)) /tmp/disk.err | head -n3)"
  running "$server" || fail "the server ended: $(tail -n3 /tmp/disk.err)"
}

# While the client works the server is killed and started again.
killed_under_the_client() { # LAYOUT QUEUES CASE
  vhost_vdpa_client "$node" "$1" "$2" "$3" 8 2>/tmp/client.err &
  client=$!
  round=0
  while running $client; do
    sleep 0.5
    kill_server
    serve disk $words --no-attach
    wait_serving disk
    round=$((round + 1))
  done
  wait $client || fail "$(cat /tmp/client.err)"
  [ $round -gt 2 ] || fail "$round kills in eight seconds"
}

# Linux 7.3 has the messages that suspend a device and switch a queue; whether they come is asked of the node.
kernel_knows_pauses() { [ "$(printf '%s\n' 7.3 "$(uname -r)" | sort -V | head -n1)" = 7.3 ]; }
device_can_be_suspended() { vhost_vdpa_client --can-suspend "$node"; }

# case_run has a subshell for each case: the server is started outside of them.
for layout in split packed; do
  for queues in 1 4; do
    words="--ram --size 32M --queues $queues $(ring_words $layout)"
    serve_to_vhost $words
    if [ $queues = 1 ]; then cases=$(vhost_vdpa_client --list | grep -v dying); else cases=data_survive; fi
    if kernel_knows_pauses; then
      case_run device_can_be_suspended
      cases="$cases $(vhost_vdpa_client --list-pauses)"
    fi
    for name in $cases; do
      case_run client $layout $queues $name
    done
    bounded vdpa dev del disk
    kill "$server"
    wait_end
  done
done
truncate -s 32M /tmp/image
for layout in split packed; do
  words="--image /tmp/image --queues 2 $(ring_words $layout)"
  serve_to_vhost $words
  for name in data_survive_a_dying_server memory_comes_and_goes_under_a_dying_server; do
    case_run killed_under_the_client $layout 2 $name
    server=$(cat /tmp/disk.pid)
  done
  server=$(cat /tmp/disk.pid)
  bounded vdpa dev del disk
  kill "$server"
  wait_gone
done
case_end
