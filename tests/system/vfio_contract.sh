#!/bin/sh
# vfio::Handle keeps its promises on a real kernel (programs/vfio_contract).
. /lib/cases.sh
. /lib/vfio.sh

contract() { bounded vfio_contract "$@"; } # CASE ADDRESS

vfio_modules
bind_by_hand $EDU $NVME $XHCI
for name in windows guard sleep reset vectors memory child revoked; do
  case_run contract $name $NVME
done
case_run contract msi $XHCI
case_run contract intx $EDU
case_run contract doorbell $EDU
case_end
