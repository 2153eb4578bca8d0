#!/bin/sh
# A kernel that has both interfaces to a device: its group, and its own node with IOMMUFD.
. /lib/cases.sh
. /lib/blk.sh
. /lib/vfio.sh

vfio_modules
hand_over $EDU $BLK
node=/dev/vfio/devices/$(ls $functions/$EDU/vfio-dev)

as_user() { /bin/setpriv --reuid 1000 --regid 1000 --clear-groups "$@"; }

doctor_knows_both() {
  outboard doctor | grep '^ok *iommufd '
  outboard doctor | grep '^ok *VFIO '
}

# interface_of ADDRESS: what `-v` says it was opened by.
either_is_taken_by_name() {
  outboard show "vfio:$EDU,interface=cdev" >/dev/null
  outboard show "vfio:$EDU,interface=group" >/dev/null
  outboard show "vfio:$EDU" >/dev/null
}

one_shuts_the_other() {
  holding "$EDU,interface=cdev"
  refuses 'in use' outboard show "vfio:$EDU,interface=group"
  refuses 'in use' outboard show "vfio:$EDU,interface=cdev"
  let_go
  holding "$EDU,interface=group"
  refuses 'in use' outboard show "vfio:$EDU,interface=cdev"
  let_go
  outboard show "vfio:$EDU,interface=cdev" >/dev/null
}

user_is_told_which_node() {
  refuses "/dev/iommu\|$node" as_user outboard show "vfio:$EDU,interface=cdev"
  chmod 666 /dev/iommu
  refuses "$node" as_user outboard show "vfio:$EDU,interface=cdev"
  chown 1000 "$node"
  as_user outboard show "vfio:$EDU,interface=cdev" >/dev/null
}

list_names_the_node() { outboard pci list --json | tr -d ' \n' | grep -q "\"cdev\":\"$node\""; }

case_run doctor_knows_both
case_run either_is_taken_by_name
case_run one_shuts_the_other
case_run user_is_told_which_node
case_run list_names_the_node
case_end
