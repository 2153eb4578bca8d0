#!/bin/sh
# Ends, starts and take-overs that are not the usual ones.
. /lib/cases.sh
. /lib/blk.sh
. /lib/vduse.sh
modprobe -a vduse virtio_vdpa virtio_blk

says() { grep -qi "$1" "/tmp/$2.err"; }

# SIGTERM with a file system mounted: it says so and waits; unmounting lets it end.
stopped_while_mounted() {
  truncate -s 32M $image
  start_disk disk --image $image
  mkfs.ext4 -q -F "/dev/$(disk_of disk)"
  mount -t ext4 "/dev/$(disk_of disk)" /mnt
  kill "$server"
  wait_for 10 says '/mnt' disk
  dd if=/dev/urandom of=/mnt/data bs=64k count=16 conv=fsync
  running "$server" || fail 'it ended although the disk is in use'
  umount /mnt
  wait_end
  expect_equal $status 0 "the server's exit status"
  nothing_left disk
  e2fsck -fn $image
}

# A second signal leaves it adoptable; the next server goes on.
stopped_twice_while_mounted() {
  truncate -s 32M $image
  start_disk disk --image $image
  mkfs.ext4 -q -F "/dev/$(disk_of disk)"
  mount -t ext4 "/dev/$(disk_of disk)" /mnt
  dd if=/dev/urandom of=/mnt/data bs=64k count=16 conv=fsync
  sum=$(sha256sum </mnt/data)
  kill "$server"
  wait_for 10 says '/mnt' disk
  kill "$server"
  wait_end
  [ -e /dev/vduse/disk ] || fail 'the device has gone with a file system on it'
  start_disk disk --image $image
  echo 3 >/proc/sys/vm/drop_caches
  expect_equal "$(sha256sum </mnt/data)" "$sum" hash
  dd if=/dev/urandom of=/mnt/more bs=64k count=16 conv=fsync
  umount /mnt
  stop_disk disk
  e2fsck -fn $image
}

# A loop device, and a process, that use the disk: it is not taken from them.
used_by_a_loop_device() {
  truncate -s 32M $image
  start_disk disk --image $image
  name=$(disk_of disk)
  mkfs.ext4 -q -F "/dev/$name"
  losetup /dev/loop3 "/dev/$name"
  mount -t ext4 /dev/loop3 /mnt
  kill "$server"
  wait_for 10 says "still used by /mnt, loop3" disk
  dd if=/dev/urandom of=/mnt/data bs=64k count=16 conv=fsync
  kill "$server"
  wait_end
  refuses_to_remove '/mnt, loop3'
  start_disk disk --image $image
  umount /mnt
  kill "$server"
  wait_for 10 says "still used by loop3" disk
  losetup -d /dev/loop3
  wait_end
  expect_equal $status 0 "the server's exit status"
  nothing_left disk
  e2fsck -fn $image
}

refuses_to_remove() { # TEXT
  ! bounded outboard vduse remove disk 2>/tmp/remove.err
  cat /tmp/remove.err
  grep -q "is in use: $1" /tmp/remove.err
}

# PID has FILE open as its standard input, and has become what it is to be.
reads_from() { [ "$(readlink "/proc/$1/fd/0")" = "$2" ] && [ "$(cat "/proc/$1/comm")" = sleep ]; }

used_by_a_process() {
  truncate -s 16M $image
  start_disk disk --image $image
  name=$(disk_of disk)
  sleep 1000 <"/dev/$name" &
  sleeper=$!
  wait_for 10 reads_from $sleeper "/dev/$name"
  kill "$server"
  wait_for 10 says "still used by process $sleeper (sleep)" disk
  kill -9 "$server"
  wait_end
  wait_gone
  refuses_to_remove "process $sleeper (sleep)"
  kill $sleeper
  wait $sleeper || :
  bounded outboard vduse remove disk
  nothing_left disk
}

# refuses_storage TEXT WORDS...: a server with these words does not take the disk over.
refuses_storage() {
  local text=$1
  shift
  serve disk "$@"
  wait_end
  cat /tmp/disk.err
  expect_equal $status 1 "the exit status with $*"
  says "$text" disk || fail "it does not say '$text': $(cat /tmp/disk.err)"
  [ -e /dev/vduse/disk ] || fail "the device was removed by $*"
}

# The wrong storage under a file system that is mounted.
other_storage_is_refused() {
  truncate -s 32M $image
  start_disk disk --image $image
  name=$(disk_of disk)
  mkfs.ext4 -q -F "/dev/$name"
  mount -t ext4 "/dev/$name" /mnt
  dd if=/dev/urandom of=/mnt/data bs=64k count=16 conv=fsync
  sum=$(sha256sum </mnt/data)
  kill_server
  truncate -s 32M $image.other
  refuses_storage 'other storage' --image $image.other
  refuses_storage 'other storage' --null --size 32M
  refuses_storage 'other storage' --ram --size 32M
  refuses_storage "in use" --image "/dev/$name"
  cp $image $image.moved
  truncate -s 16M $image
  refuses_storage 'smaller' --image $image
  rm $image
  truncate -s 32M $image
  refuses_storage 'other storage' --image $image
  refuses_storage 'cannot be known' --image $image.moved --accept-other-storage
  start_disk disk --image $image.moved --accept-other-storage --old-requests-ended
  echo 3 >/proc/sys/vm/drop_caches
  expect_equal "$(sha256sum </mnt/data)" "$sum" hash
  kill_server
  cp $image.moved $image.copied
  start_disk disk --image $image.copied --accept-other-storage
  kill_server
  start_disk disk --image $image.copied
  umount /mnt
  e2fsck -fn "/dev/$name"
  kill_server
  refuses_storage "the very disk" --image "/dev/$name"
  start_disk disk --image $image.copied
  stop_disk disk
  rm $image.moved $image.copied $image.other
}

memory_is_gone_with_its_server() {
  start_disk disk --ram --size 16M
  kill_server
  refuses_storage 'ended with that process' --ram --size 16M
  start_disk disk --ram --size 16M --accept-other-storage
  stop_disk disk
}

is_not_made_smaller_under_its_driver() {
  truncate -s 32M $image
  start_disk disk --image $image
  truncate -s 16M $image
  kill -HUP "$server"
  wait_for 10 says smaller disk
  expect_equal "$(cat "/sys/block/$(disk_of disk)/size")" 65536 sectors
  truncate -s 32M $image
  stop_disk disk
}

# DEV_DEL while nobody serves waits for whoever does next.
removed_while_dead() {
  truncate -s 32M $image
  start_disk disk --image $image
  name=$(disk_of disk)
  kill_server
  dd if=/dev/zero "of=/dev/$name" bs=4k count=4 oflag=direct &
  writer=$!
  vdpa dev del disk &
  remover=$!
  sleep 2
  running $remover || fail 'DEV_DEL did not wait'
  serve disk --image $image --no-attach
  wait $remover || fail 'DEV_DEL failed'
  wait $writer || :
  netlink_answers
  kill "$server"
  wait_end
  nothing_left disk
}

two_at_once() {
  start_disk disk --ram --size 16M
  first=$server
  serve disk --ram --size 16M
  wait_end
  expect_equal $status 1 "the second server's exit status"
  cat /tmp/disk.err
  says disk disk
  server=$first
  dd "if=/dev/$(disk_of disk)" of=/dev/null bs=4k count=8 iflag=direct
  stop_disk disk
}

# a_journal_that_is WHAT COMMAND: with it no server goes on; nor is anything removed.
refuses_journal() { # deleted|truncated|altered|foreign
  journal=/tmp/journal
  truncate -s 16M $image
  start_disk disk --image $image --journal $journal
  name=$(disk_of disk)
  kill_server
  cp $journal /tmp/journal.kept
  case $1 in
    deleted) rm $journal ;;
    truncated) truncate -s 100 $journal ;;
    altered) printf 'x' | dd of=$journal bs=1 seek=16 conv=notrunc ;;
    foreign)
      start_disk other --ram --size 16M --journal /tmp/journal.other
      cp /tmp/journal.other $journal
      stop_disk_at other /tmp/journal.other ;;
  esac
  serve disk --image $image --journal $journal
  wait_end
  expect_equal $status 1 "the server's exit status"
  cat /tmp/disk.err
  says journal disk
  [ -e /dev/vduse/disk ] || fail 'the device was removed'
  [ "$1" != deleted ] || [ ! -e $journal ] || fail 'a journal was made up'
  cp /tmp/journal.kept $journal # the real one is still good
  start_disk disk --image $image --journal $journal
  dd "if=/dev/$name" of=/dev/null bs=4k count=8 iflag=direct
  stop_disk_at disk $journal
}

stop_disk_at() { # NAME JOURNAL
  kill "$server"
  wait_end
  expect_equal $status 0 "the server's exit status"
  [ ! -e "/dev/vduse/$1" ] && [ ! -e "$2" ]
}

# Somebody truncates the journal of a server that runs: it makes another one, which is good when it is killed.
survives_a_truncated_journal() { # LAYOUT
  local words="--image $image --journal /tmp/journal $(ring_words "$1")"
  truncate -s 16M $image
  start_disk disk $words
  name=$(disk_of disk)
  truncate -s 0 /tmp/journal
  dd if=/dev/urandom of=/tmp/pattern bs=4k count=64
  dd if=/tmp/pattern "of=/dev/$name" bs=4k oflag=direct
  wait_for 10 says 'is made again' disk
  running "$server" || fail 'the server has ended'
  kill_server
  start_disk disk $words
  dd "if=/dev/$name" bs=4k count=64 iflag=direct | cmp - /tmp/pattern
  stop_disk_at disk /tmp/journal
}

replaces_what_a_dead_one_left() {
  start_disk disk --ram --size 16M
  kill_server
  start_disk disk --ram --size 32M --replace
  expect_equal "$(cat "/sys/block/$(disk_of disk)/size")" 65536 sectors
  stop_disk disk
}

removes_what_a_dead_one_left() {
  start_disk disk --ram --size 16M
  kill_server
  bounded outboard vduse list | tee /tmp/list
  grep -q disk /tmp/list
  bounded outboard vduse remove disk
  nothing_left disk
  netlink_answers
}

refuses_to_remove_a_served_one() {
  start_disk disk --ram --size 16M
  ! bounded outboard vduse remove disk
  dd "if=/dev/$(disk_of disk)" of=/dev/null bs=4k count=8 iflag=direct
  stop_disk disk
}

serve_as_user() {
  /bin/setpriv --reuid 1000 --regid 1000 --clear-groups outboard serve blk --image /tmp/user/image --serial disk \
    --listen vduse:disk --no-attach --journal /tmp/user/journal >/tmp/disk.out 2>/tmp/disk.err &
  server=$!
}

# The node is made for a user, who then serves it; root attaches.
unprivileged() {
  echo 'user:x:1000:1000::/tmp:/bin/sh' >>/etc/passwd
  echo 'user:x:1000:' >>/etc/group
  mkdir -p /tmp/user
  truncate -s 16M /tmp/user/image
  chown 1000:1000 /tmp/user /tmp/user/image
  outboard vduse create blk disk --image /tmp/user/image --owner user
  expect_equal "$(stat -c %u /dev/vduse/disk)" 1000 owner
  serve_as_user
  wait_serving disk
  bounded vdpa dev add name disk mgmtdev vduse
  wait_for 10 disk_of disk
  fio_verifies_at_depth disk
  kill_server
  serve_as_user
  wait_serving disk
  dd "if=/dev/$(disk_of disk)" of=/dev/null bs=4k count=8 iflag=direct
  bounded vdpa dev del disk
  kill "$server"
  wait_end
  bounded outboard vduse remove disk
  nothing_left disk
}

doctor_says_so() {
  outboard doctor | tee /tmp/doctor || :
  grep -i vduse /tmp/doctor
}

not_allowed_id() {
  ! outboard serve example --listen vduse:example 2>/tmp/example.err
  cat /tmp/example.err
  [ ! -e /dev/vduse/example ]
}

case_run stopped_while_mounted
case_run stopped_twice_while_mounted
case_run used_by_a_loop_device
case_run used_by_a_process
case_run other_storage_is_refused
case_run memory_is_gone_with_its_server
case_run is_not_made_smaller_under_its_driver
case_run removed_while_dead
case_run two_at_once
for what in deleted truncated altered foreign; do
  case_run refuses_journal $what
done
case_run survives_a_truncated_journal split
case_run survives_a_truncated_journal packed
case_run replaces_what_a_dead_one_left
case_run removes_what_a_dead_one_left
case_run refuses_to_remove_a_served_one
case_run unprivileged

# Root opens the node and hands it over: the server's user owns nothing but its folder.
handed_over() {
  bounded outboard vduse create blk disk --ram --size 16M
  chown -R 1000:1000 /tmp/user
  exec 9<>/dev/vduse/disk
  /bin/setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs outboard serve blk --ram --size 16M \
    --listen vduse:disk --node-fd 9 --no-attach --journal /tmp/user/handed >/tmp/disk.out 2>/tmp/disk.err &
  server=$!
  exec 9>&-
  wait_serving disk
  bounded vdpa dev add name disk mgmtdev vduse
  wait_for 10 disk_of disk
  dd if=/dev/urandom of=/tmp/pattern bs=4k count=8
  dd if=/tmp/pattern "of=/dev/$(disk_of disk)" bs=4k oflag=direct
  dd "if=/dev/$(disk_of disk)" bs=4k count=8 iflag=direct | cmp - /tmp/pattern
  bounded vdpa dev del disk
  kill "$server"
  wait_end
  bounded outboard vduse remove disk
  nothing_left disk
}
case_run handed_over
case_run doctor_says_so
case_run not_allowed_id
case_run written_back_while_memory_is_short --engine io_uring
case_run written_back_while_memory_is_short --engine pool
case_end
