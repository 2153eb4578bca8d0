#!/bin/sh
# A kernel that has both doors to a device: its group, and its own node with IOMMUFD.
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

# door_of ADDRESS: what `-v` says it was opened by.
either_is_taken_by_name() {
  outboard show "vfio:$EDU,door=cdev" >/dev/null
  outboard show "vfio:$EDU,door=group" >/dev/null
  outboard show "vfio:$EDU" >/dev/null
}

one_shuts_the_other() {
  holding "$EDU,door=cdev"
  refuses 'in use' outboard show "vfio:$EDU,door=group"
  refuses 'in use' outboard show "vfio:$EDU,door=cdev"
  let_go
  holding "$EDU,door=group"
  refuses 'in use' outboard show "vfio:$EDU,door=cdev"
  let_go
  outboard show "vfio:$EDU,door=cdev" >/dev/null
}

user_is_told_which_node() {
  refuses "/dev/iommu\|$node" as_user outboard show "vfio:$EDU,door=cdev"
  chmod 666 /dev/iommu
  refuses "$node" as_user outboard show "vfio:$EDU,door=cdev"
  chown 1000 "$node"
  as_user outboard show "vfio:$EDU,door=cdev" >/dev/null
}

list_names_the_node() { outboard pci list --json | tr -d ' \n' | grep -q "\"cdev\":\"$node\""; }

case_run doctor_knows_both
case_run either_is_taken_by_name
case_run one_shuts_the_other
case_run user_is_told_which_node
case_run list_names_the_node
case_end
