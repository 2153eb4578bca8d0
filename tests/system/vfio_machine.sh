#!/bin/sh
# The machine itself, without a program of ours: every function is where the tests look for it, and the kernel gives each to
# vfio-pci.
. /lib/cases.sh
. /lib/vfio.sh

functions_are_where_tests_look() {
  local row
  for row in $EDU=0x1234:0x11e8 $BLK=0x1af4:0x1042 $NVME=0x1b36:0x0010 $HOT=0x1af4:0x1042 $SHARED_EDU=0x1234:0x11e8 \
    $SHARED_NVME=0x1b36:0x0010 $OWN=0x1af4:0x1042 $NET=0x1af4:0x1041 $XHCI=0x1033:0x0194; do
    expect_equal "$(cat $functions/${row%=*}/vendor):$(cat $functions/${row%=*}/device)" "${row#*=}" "${row%=*}"
  done
}

each_slot_is_a_group() {
  expect_equal "$(group_of $SHARED_EDU)" "$(group_of $SHARED_NVME)" 'the group of the shared slot'
  expect_equal "$(ls /sys/kernel/iommu_groups/$(group_of $SHARED_EDU)/devices | wc -l)" 2 'its members'
  for address in $EDU $BLK $OWN $NET $XHCI $HOT $NVME; do
    expect_equal "$(ls /sys/kernel/iommu_groups/$(group_of $address)/devices | wc -l)" 1 "members beside $address"
  done
}

kernel_gives_to_vfio() { # ADDRESS
  bind_by_hand "$1"
  expect_equal "$(driver_of "$1")" vfio-pci driver
  [ -c "/dev/vfio/$(group_of "$1")" ]
}

kernel_takes_back() { # ADDRESS
  unbind_by_hand "$1"
  [ "$(driver_of "$1")" != vfio-pci ]
}

# Twice: the address is decoded by the kernel's own driver, then by the tool.
real_lspci_reads_them() {
  lspci -s $EDU -vvv -xxx
  lspci -s $BLK -vvv | grep -q 'Kernel driver in use: vfio-pci'
}

vfio_modules
case_run functions_are_where_tests_look
case_run each_slot_is_a_group
for address in $EDU $BLK $NVME $HOT $SHARED_EDU $SHARED_NVME $XHCI; do
  case_run kernel_gives_to_vfio $address
done
case_run real_lspci_reads_them
for address in $EDU $BLK $NVME $HOT $SHARED_EDU $SHARED_NVME $XHCI; do
  case_run kernel_takes_back $address
done
case_end
