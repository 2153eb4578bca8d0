#!/bin/sh
# A machine whose IOMMU does not look after interrupts.
. /lib/cases.sh
. /lib/vfio.sh

vfio_modules
hand_over $EDU $XHCI

risk_is_named_and_not_taken() {
  refuses 'allow_unsafe_interrupts' outboard show vfio:$EDU
  expect_equal "$(cat /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts)" N parameter
}

# Without remapping x86 has one vector of MSI for a device, whatever the device could use.
fewer_vectors_than_there_are_is_a_value() {
  echo 1 >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts
  outboard show vfio:$XHCI --json | tr -d ' \n' | grep -q '"MSI":16'
  expect_equal "$(function_user vectors vfio:$XHCI msi 16)" 1 vectors
}

case_run risk_is_named_and_not_taken
case_run fewer_vectors_than_there_are_is_a_value
case_end
