#!/bin/sh
# `outboard pci`, `outboard lspci --sysfs` and the rows of `outboard doctor`, against a kernel that has VFIO.
. /lib/cases.sh
. /lib/blk.sh
. /lib/vfio.sh

PORT=0000:00:06.0

# listed ADDRESS: its line in `pci list` that says who drives it and whether it can be had.
listed() { outboard pci list | grep -A1 "^$1 " | tail -n1; }
doctor_says() { outboard doctor | grep "^$1 *$2 " || fail "doctor does not say $1 of $2: $(outboard doctor | grep " $2 ")"; }

without_modules() {
  doctor_says ok IOMMU
  doctor_says missing vfio-pci
  doctor_says missing vfio_iommu_type1
  refuses 'its module is not loaded' outboard pci bind $EDU --yes
  outboard pci bind $EDU | grep -q '^modprobe vfio-pci$'
  expect_equal "$(driver_of $EDU)" '' driver
}

with_modules() {
  modprobe -a vfio_iommu_type1 vfio-pci virtio_blk virtio_net
  doctor_says ok vfio-pci
  doctor_says ok vfio_iommu_type1
  doctor_says ok VFIO
  doctor_says missing 'VFIO devices'
}

list_says_what_each_is() {
  listed $EDU | grep -q 'no driver, IOMMU group [0-9]*; to use it: outboard pci bind'
  listed $NVME | grep -q 'nvme, IOMMU group [0-9]*; to use it: '
  listed $PORT | grep -q 'cannot be used: it is a bridge'
  listed $SHARED_EDU | grep -q "cannot be used: IOMMU group .* $SHARED_NVME (nvme)"
  outboard pci list --json | tr -d ' \n' | grep -q "\"address\":\"$EDU\",\"vendor\":4660,\"device\":4584"
  expect_equal "$(outboard pci list | grep -c '^0000:')" "$(ls $functions | wc -l)" 'functions listed'
}

edu_is_handed_over_and_back() {
  outboard pci bind $EDU --yes
  expect_equal "$(driver_of $EDU)" vfio-pci driver
  [ -c "/dev/vfio/$(group_of $EDU)" ]
  listed $EDU | grep -q "usable: /dev/vfio/$(group_of $EDU)"
  doctor_says ok 'VFIO devices'
  outboard pci unbind $EDU --yes
  expect_equal "$(driver_of $EDU)" '' driver
  [ ! -e "/dev/vfio/$(group_of $EDU)" ]
}

nvme_comes_back_with_its_disk() {
  [ -b /dev/nvme0n1 ] || wait_for 10 test -b /dev/nvme0n1
  outboard pci bind $NVME --yes
  expect_equal "$(driver_of $NVME)" vfio-pci driver
  listed $NVME | grep -q 'was nvme'
  outboard pci unbind $NVME --yes | grep -q 'back to nvme'
  expect_equal "$(driver_of $NVME)" nvme driver
  expect_equal "$(tr -d '\0\n' <$functions/$NVME/driver_override)" '(null)' override
  wait_for 10 ls $functions/$NVME/nvme/nvme*/nvme*n1
}

# What is printed is a shell script that does the same.
printed_commands_work() {
  outboard pci bind $NVME >/tmp/commands
  expect_equal "$(driver_of $NVME)" nvme 'driver before'
  sh -e /tmp/commands
  expect_equal "$(driver_of $NVME)" vfio-pci driver
  outboard pci unbind $NVME >/tmp/commands
  sh -e /tmp/commands
  expect_equal "$(driver_of $NVME)" nvme 'driver after'
}

mounted_disk_is_refused() {
  mkfs.ext4 -q -F "/dev/$(disk own)"
  mount -t ext4 "/dev/$(disk own)" /mnt
  refuses 'is in use: /mnt' outboard pci bind $OWN --yes
  listed $OWN | grep -q 'is in use: /mnt'
  umount /mnt
  mkswap "/dev/$(disk own)"
  swapon "/dev/$(disk own)"
  refuses 'in use: swap' outboard pci bind $OWN --yes
  swapoff "/dev/$(disk own)"
  outboard pci bind $OWN --yes
  outboard pci unbind $OWN --yes | grep -q 'back to virtio-pci'
  disk own
}

# Neither a mount nor a holder of the disk.
used_without_a_mount_is_refused() {
  local disk node=
  wait_for 10 ls $functions/$NVME/nvme/nvme*/nvme*n1
  disk=$(basename $functions/$NVME/nvme/nvme*/nvme*n1)
  modprobe loop
  losetup /dev/loop0 "/dev/$disk"
  refuses 'is in use: loop0' outboard pci bind $NVME --yes
  mkfs.ext4 -q -F /dev/loop0
  mount -t ext4 /dev/loop0 /mnt
  refuses 'is in use: /mnt, loop0' outboard pci bind $NVME --yes
  umount /mnt
  losetup -d /dev/loop0
  node=/dev/$(basename $functions/$NVME/nvme/nvme*)
  sleep 1000 <"$node" &
  is_called_sleep $!
  refuses "the device ${node#/dev/} is open in process $! (sleep)" outboard pci bind $NVME --yes
  kill $!
  wait $! || :
}

bound_by_two_at_once() {
  local round=0 first second
  while [ $round -lt 4 ]; do
    wait_for 10 ls $functions/$NVME/nvme/nvme*/nvme*n1
    outboard pci bind $NVME --yes >/tmp/first 2>&1 &
    first=$!
    outboard pci bind $NVME --yes >/tmp/second 2>&1 &
    second=$!
    wait $first || fail "$(cat /tmp/first)"
    wait $second || fail "$(cat /tmp/second)"
    outboard pci unbind $NVME --yes | grep -q 'back to nvme'
    round=$((round + 1))
  done
}

interface_that_is_up_is_refused() {
  local name
  name=$(ls $functions/$NET/virtio*/net)
  ip link set "$name" up
  refuses "the network interface $name is up" outboard pci bind $NET --yes
  ip link set "$name" down
  outboard pci bind $NET --yes
  outboard pci unbind $NET --yes
  wait_for 10 test -e "/sys/class/net/$name"
}

# busybox is `exe` until it has read its arguments.
is_called_sleep() { wait_for 10 grep -qx sleep "/proc/$1/comm"; }

bridge_is_refused() { refuses 'it is a bridge' outboard pci bind $PORT --yes; }

shared_group_is_handed_over_whole() {
  refuses "$SHARED_NVME (nvme)" outboard pci bind $SHARED_EDU --yes
  expect_equal "$(driver_of $SHARED_NVME)" nvme driver
  outboard pci bind $SHARED_EDU $SHARED_NVME --yes
  listed $SHARED_EDU | grep -q 'usable: '
  outboard pci unbind $SHARED_EDU $SHARED_NVME --yes
  expect_equal "$(driver_of $SHARED_NVME)" nvme driver
}

who_has_it_open_keeps_it() {
  outboard pci bind $EDU --yes
  sleep 1000 3<>"/dev/vfio/$(group_of $EDU)" &
  is_called_sleep $!
  refuses "process $! (sleep) has it open" outboard pci unbind $EDU --yes
  listed $EDU | grep -q "in use by process $! (sleep)"
  kill $!
  wait $! || :
  outboard pci unbind $EDU --yes
}

without_rights_the_cure_is_root() {
  refuses 'run as root' /bin/setpriv --reuid 1000 --clear-groups outboard pci bind $EDU --yes
  expect_equal "$(driver_of $EDU)" '' driver
}

real_lspci_reads_a_snapshot() {
  outboard lspci local:blk,ram,size=16M --sysfs /tmp/snapshot
  refuses 'exists already' outboard lspci local:blk,ram,size=16M --sysfs /tmp/snapshot
  lspci -A linux-sysfs -O sysfs.path=/tmp/snapshot -vvv -xxxx >/tmp/real
  cat /tmp/real
  grep -q '^00:00.0 Mass storage controller: Red Hat, Inc. Virtio 1.0 block device' /tmp/real
  grep -q 'VirtIO: CommonCfg' /tmp/real
  grep '^[0-9a-f]*: ' /tmp/real >/tmp/real.bytes
  outboard lspci local:blk,ram,size=16M --dump | grep '^[0-9a-f]*: ' >/tmp/our.bytes
  cmp /tmp/real.bytes /tmp/our.bytes
}

case_run without_modules
case_run with_modules
case_run list_says_what_each_is
case_run edu_is_handed_over_and_back
case_run nvme_comes_back_with_its_disk
case_run printed_commands_work
case_run mounted_disk_is_refused
case_run used_without_a_mount_is_refused
case_run bound_by_two_at_once
case_run interface_that_is_up_is_refused
case_run bridge_is_refused
case_run shared_group_is_handed_over_whole
case_run who_has_it_open_keeps_it
case_run without_rights_the_cure_is_root
case_run real_lspci_reads_a_snapshot
case_end
