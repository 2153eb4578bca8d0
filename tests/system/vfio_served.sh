#!/bin/sh
# Devices that our servers on the host put into this machine, behind its IOMMU: bound to vfio-pci here, and driven by the
# drivers that drive everything else. /parameters: where they are.
. /lib/cases.sh
. /lib/vfio.sh
. /parameters

vfio_modules

functions_are_what_was_served() {
  expect_equal "$(cat $functions/$example/vendor):$(cat $functions/$example/device)" 0x1af4:0x107f example
  expect_equal "$(cat $functions/$edu/vendor):$(cat $functions/$edu/device)" 0x1234:0x11e8 edu
  hand_over $example $edu $blk
}

example_adds_one() { expect_equal "$(outboard example vfio:$example 41)" 42 sum; }
edu_computes() { expect_equal "$(outboard edu factorial vfio:$edu 12)" 479001600 '12!'; }
disk_keeps_its_data() { outboard blk verify vfio:$blk --write --depth 32 --length 4M; }

case_run functions_are_what_was_served
case_run example_adds_one
case_run edu_computes
case_run disk_keeps_its_data
driver_tests --edu vfio:$edu --example vfio:$example --blk vfio:$blk --report /dev/ttyS1
case_end
