#!/bin/sh
# What a user is told where something is missing, and what mends it: each message, then its cure.
. /lib/cases.sh
. /lib/blk.sh
. /lib/vfio.sh

shown() { outboard show "vfio:$1" >/dev/null; }
as_user() { /bin/setpriv --reuid 1000 --regid 1000 --clear-groups "$@"; }

no_such_function() { refuses 'there is no such PCI function' outboard show vfio:0000:00:1e.0; }

not_an_address() {
  ! outboard show vfio:nvme0 2>/tmp/said
  grep -q 'is not the address of a PCI function' /tmp/said
}

another_drivers_function_is_named_with_it() {
  refuses "nvme" outboard show vfio:$NVME
  grep -q "outboard pci bind $NVME" /tmp/said
}

module_that_is_not_loaded_is_named() {
  modprobe vfio-pci
  hand_over $EDU
  [ ! -e /sys/module/vfio_iommu_type1 ] || rmmod vfio_iommu_type1
  refuses 'modprobe vfio_iommu_type1' outboard show vfio:$EDU
  modprobe vfio_iommu_type1
  shown $EDU
}

group_that_others_share_is_listed() {
  bind_by_hand $SHARED_EDU
  refuses "$SHARED_NVME" outboard show vfio:$SHARED_EDU
  hand_over $SHARED_NVME
  shown $SHARED_EDU
}

node_that_a_user_may_not_open_is_named() {
  refuses "/dev/vfio/$(group_of $EDU)" as_user outboard show vfio:$EDU
  chown 1000 "/dev/vfio/$(group_of $EDU)"
  as_user outboard show vfio:$EDU >/dev/null
}

disk_is_driven_without_root() {
  hand_over $BLK
  chown 1000 "/dev/vfio/$(group_of $BLK)"
  as_user outboard blk verify vfio:$BLK --write --length 4M
}

limit_of_locked_memory_is_named() {
  refuses 'RLIMIT_MEMLOCK\|locked memory\|memlock' /bin/prlimit --memlock=65536:65536 /bin/setpriv --reuid 1000 --regid 1000 \
    --clear-groups --inh-caps=-all --bounding-set=-all outboard blk verify vfio:$BLK --write --length 4M
}

device_without_a_reset_says_so() { refuses 'reset' outboard reset vfio:$EDU; }

case_run no_such_function
case_run not_an_address
case_run another_drivers_function_is_named_with_it
case_run module_that_is_not_loaded_is_named
modprobe -a vfio_iommu_type1 virtio_blk
case_run group_that_others_share_is_listed
case_run node_that_a_user_may_not_open_is_named
case_run disk_is_driven_without_root
case_run limit_of_locked_memory_is_named
case_run device_without_a_reset_says_so
case_end
