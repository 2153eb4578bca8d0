#!/bin/sh
# Our drivers and our command on real functions of the guest, under the kernel's VFIO. /parameters: interface=group|cdev.
. /lib/cases.sh
. /lib/blk.sh
. /lib/vfio.sh
interface=automatic
. /parameters

vfio_modules
modprobe -a virtio_blk
hand_over $EDU $BLK $NVME $HOT $XHCI $SHARED_EDU $SHARED_NVME

# What follows `vfio:`, and all of it.
words() { if [ "$interface" = automatic ]; then echo "$1"; else echo "$1,interface=$interface"; fi; }
target() { echo "vfio:$(words "$1")"; }

identity_is_what_sysfs_says() { # ADDRESS
  outboard show "$(target $1)" --json | tr -d ' \n' >/tmp/shown
  for pair in vendor:vendor device:device class:class revision:revision subsystem_vendor:subsystem_vendor \
    subsystem:subsystem_device; do
    grep -q "\"${pair%:*}\":$(($(cat $functions/$1/${pair#*:})))[,}]" /tmp/shown || fail "${pair%:*}: $(cat /tmp/shown)"
  done
}

# What another kernel's driver, or the bus, knows of a function is not in its configuration space.
of_the_function() { grep -v '^	Kernel \|^	IOMMU group\|^	Latency\|^	Physical Slot\|^	NUMA node\|^	Interrupt:\|^	Control:'; }

# The real one looks while a driver has the function open: else it may sleep.
lspci_agrees() { # ADDRESS
  holding "$(words $1)"
  lspci -vvv -s "${1#0000:}" | of_the_function >/tmp/real
  let_go
  outboard lspci "$(target $1)" | of_the_function >/tmp/ours
  diff /tmp/real /tmp/ours || fail "lspci differs: $(diff /tmp/real /tmp/ours | head -n4 | tr '\n' ' ')"
  rm -rf /tmp/snapshot
  outboard lspci "$(target $1)" --sysfs /tmp/snapshot
  lspci -A linux-sysfs -O sysfs.path=/tmp/snapshot -vvv | of_the_function >/tmp/read
  diff /tmp/real /tmp/read || fail "a snapshot differs: $(diff /tmp/real /tmp/read | head -n4 | tr '\n' ' ')"
  lspci -A linux-sysfs -O sysfs.path=/tmp/snapshot -v -xxxx | grep -q '^f0: '
}

disk_keeps_its_data_at_depth() {
  outboard blk verify "$(target $BLK)" --write --depth 32 --length 16M
  outboard blk verify "$(target $BLK)" --depth 32 --length 16M
}

# What our driver has written, the kernel's driver reads.
kernel_reads_what_was_written() {
  local name
  dd if=/dev/urandom of=/tmp/pattern bs=64k count=16
  outboard blk write "$(target $BLK)" </tmp/pattern
  outboard pci unbind $BLK --yes
  name=$(disk blk)
  dd "if=/dev/$name" bs=64k count=16 iflag=direct | cmp - /tmp/pattern
  hand_over $BLK
}

nvme_says_its_version() {
  expect_equal "$(function_user register "$(target $NVME)" 0 8)" 00010400 'the version register'
}

reset_works_where_there_is_one() {
  outboard reset "$(target $NVME)"
  outboard reset "$(target $BLK)" || :
  refuses 'reset' outboard reset "$(target $EDU)"
  outboard show "$(target $EDU)" >/dev/null
}

vectors_are_counted() { # ADDRESS KIND COUNT
  outboard show "$(target $1)" --json | tr -d ' \n' | grep -q "\"$2\":$3[,}]"
}

vectors_are_given() { # ADDRESS KIND COUNT
  expect_equal "$(function_user vectors "$(target $1)" "$2" "$3")" "$3" vectors
}

second_process_is_told_who_has_it() {
  holding "$(words $EDU)"
  refuses "$holder" outboard show "$(target $EDU)"
  grep -q 'function_user' /tmp/said
  let_go
  outboard show "$(target $EDU)" >/dev/null
}

killed_driver_leaves_a_usable_device() {
  outboard blk bench "$(target $BLK)" --rw randwrite --depth 32 --seconds 60 &
  bench=$!
  wait_for 20 sh -c "grep -q 'vfio-msix.*$BLK' /proc/interrupts"
  kill -9 $bench
  wait $bench || :
  disk_keeps_its_data_at_depth
}

edu_computes() { expect_equal "$(outboard edu factorial "$(target $EDU)" 12)" 479001600 '12!'; }

for address in $EDU $BLK $NVME $XHCI $SHARED_NVME; do
  case_run identity_is_what_sysfs_says $address
done
for address in $EDU $BLK $NVME $XHCI; do
  case_run lspci_agrees $address
done
case_run vectors_are_given $NVME msi-x 65
case_run vectors_are_given $NVME msi-x 1
case_run vectors_are_given $XHCI msi 16
case_run disk_keeps_its_data_at_depth
case_run kernel_reads_what_was_written
case_run nvme_says_its_version
case_run reset_works_where_there_is_one
case_run vectors_are_counted $NVME MSI-X 65
case_run vectors_are_counted $XHCI MSI 16
case_run vectors_are_counted $EDU MSI 1
case_run second_process_is_told_who_has_it
case_run killed_driver_leaves_a_usable_device
case_run edu_computes
driver_tests --edu "$(target $EDU)" --blk "$(target $BLK)" --report /dev/ttyS1
# The one of QEMU's disks that has a function-level reset.
driver_tests --blk "$(target $HOT)" --report /dev/ttyS1 --gtest_filter='*Reset*:*Sleeps*'
case_end
