# Sourced by the guest scripts of the VDUSE tests, after cases.sh and blk.sh. One server at a time has its process ID in
# $server; its output is in /tmp/NAME.out, what it complains of in /tmp/NAME.err.

# Where images lie: on a tmpfs, or where the tests ask for it (images=throttled in /parameters) in a file system whose writers
# the kernel makes wait as soon as little is dirty, as on a machine whose memory is short.
image=/tmp/image
throttled_images() {
  image=/images/image
  ! [ -e /images ] || return 0
  modprobe loop
  truncate -s 400M /tmp/images.ext4
  mkfs.ext4 -q -F /tmp/images.ext4
  losetup /dev/loop6 /tmp/images.ext4
  mkdir -p /images
  mount -t ext4 /dev/loop6 /images
  echo 8388608 >/proc/sys/vm/dirty_bytes
}
if grep -q images=throttled /parameters; then throttled_images; fi

# More is written to a file system on the disk than may be dirty: the kernel waits for the server, and must not have the
# server wait for itself.
written_back_while_memory_is_short() { # WORDS...
  local name writer
  throttled_images
  truncate -s 160M "$image"
  start_disk disk --image "$image" "$@"
  name=$(disk_of disk)
  mkfs.ext4 -q -F "/dev/$name"
  mount -t ext4 "/dev/$name" /mnt
  dd if=/dev/zero of=/mnt/data bs=1M count=64 conv=fsync &
  writer=$!
  wait_for 60 eval '! running $writer'
  wait $writer
  umount /mnt
  stop_disk disk
  e2fsck -fn "$image"
  rm "$image"
}

# serve NAME ARGUMENTS...: starts a server of a disk; does not wait for it.
serve() {
  local name=$1
  shift
  : >"/tmp/$name.out" # what the one before has said is not for wait_serving
  outboard serve blk "$@" --serial "$name" --listen "vduse:$name" >"/tmp/$name.out" 2>"/tmp/$name.err" &
  server=$!
  echo $server >"/tmp/$name.pid"
}

# running PID: also false for one that has ended and that nobody has waited for.
running() { [ -e "/proc/$1/exe" ]; }

says_serving() { grep -q '^serving blk' "/tmp/$1.out"; }

# wait_serving NAME: until the server says that the disk is there.
wait_serving() {
  local tries=300
  while [ $tries -gt 0 ]; do
    if says_serving "$1"; then return; fi
    running "$server" || fail "the server of $1 ended: $(tail -n3 "/tmp/$1.err" | tr '\n' ' ')"
    sleep 0.1
    tries=$((tries - 1))
  done
  fail "the server of $1 does not get ready: $(tail -n3 "/tmp/$1.err" | tr '\n' ' ')"
}

# start_disk NAME ARGUMENTS...
start_disk() {
  serve "$@"
  wait_serving "$1"
}

# disk_of NAME: the block device, without /dev/.
disk_of() {
  local found
  found=$(ls -d /sys/bus/vdpa/devices/"$1"/virtio*/block/*)
  echo "${found##*/}"
}

# nothing_left NAME: neither on the bus nor in VDUSE, and no journal.
nothing_left() {
  [ ! -e "/sys/bus/vdpa/devices/$1" ] && [ ! -e "/dev/vduse/$1" ] && [ ! -e "/sys/class/vduse/$1" ] &&
    [ ! -e "$(journal_of "$1")" ]
}

# Where a server keeps its journal unless told otherwise.
journal_of() { echo "/run/outboard/vduse/$1.journal"; }

# wait_end: until the server has ended; its status is in $status.
wait_end() {
  status=0
  wait "$server" || status=$?
}

# stop_disk NAME: as a service manager does; all must be gone.
stop_disk() {
  kill "$server"
  wait_end
  expect_equal $status 0 "the server's exit status ($(tail -n3 "/tmp/$1.err" | tr '\n' ' '))"
  nothing_left "$1" || fail "something of $1 is left"
}

# Also of a server that is no child of this shell.
wait_gone() { wait_for 30 eval '! running $server'; }

kill_server() {
  kill -9 "$server"
  wait_end
  wait_gone
}

# ring_words LAYOUT: what serve needs for it.
ring_words() { [ "$1" = split ] || echo --packed; }

# netlink_answers: the vdpa family, and with it every other, still works.
netlink_answers() { timeout 20 vdpa dev show; }

# bounded COMMAND...: its output and status, or failure after half a minute.
bounded() { timeout 30 "$@"; }

# a_disk_can_be_used NAME: another device of the machine, start to end.
a_disk_can_be_used() {
  start_disk "$1" --ram --size 16M
  dd if=/dev/urandom of=/tmp/pattern bs=4k count=64
  dd if=/tmp/pattern "of=/dev/$(disk_of "$1")" bs=4k oflag=direct
  dd "if=/dev/$(disk_of "$1")" bs=4k count=64 iflag=direct | cmp - /tmp/pattern
  stop_disk "$1"
}
