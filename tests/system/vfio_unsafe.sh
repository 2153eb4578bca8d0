#!/bin/sh
# A machine without an IOMMU, and a kernel that lets root do without: only ever by name.
. /lib/cases.sh
. /lib/vfio.sh

vfio_modules

refused_until_it_is_named_and_allowed() {
  refuses 'no IOMMU' outboard pci bind $EDU --yes
  refuses 'is off' outboard pci bind $EDU --no-iommu --yes
  grep -q enable_unsafe_noiommu_mode /tmp/said
  echo 1 >/sys/module/vfio/parameters/enable_unsafe_noiommu_mode
  outboard pci bind $EDU --no-iommu --yes
  [ -c /dev/vfio/noiommu-* ]
}

opened_by_its_name_alone() {
  refuses 'no-iommu' outboard show vfio:$EDU
  outboard show vfio:$EDU,interface=no-iommu >/dev/null
}

registers_work() { expect_equal "$(function_user register vfio:$EDU,interface=no-iommu 0 0)" 010000ed 'the identification'; }

kernel_is_marked() {
  [ $(($(cat /proc/sys/kernel/tainted) & 64)) = 64 ]
}

case_run refused_until_it_is_named_and_allowed
case_run opened_by_its_name_alone
case_run registers_work
case_run kernel_is_marked
case_end
