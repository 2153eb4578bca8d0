#!/bin/sh
# A machine without an IOMMU, and a kernel without VFIO for that.
. /lib/cases.sh
. /lib/vfio.sh

vfio_modules

doctor_says_what_is_missing() {
  outboard doctor | grep '^missing *IOMMU '
  outboard doctor | grep -A1 '^missing *IOMMU ' | grep -q 'intel_iommu=on'
}

binding_is_refused() {
  refuses 'no IOMMU' outboard pci bind $EDU --yes
  refuses 'has no VFIO without an IOMMU' outboard pci bind $EDU --no-iommu --yes
  outboard pci list | grep -A1 "^$EDU " | grep -q 'no IOMMU group; cannot be used: no IOMMU'
}

opening_leads_there() {
  refuses "outboard pci bind $EDU" outboard show vfio:$EDU
  refuses "outboard pci bind $EDU" outboard show vfio:$EDU,interface=no-iommu
}

case_run doctor_says_what_is_missing
case_run binding_is_refused
case_run opening_leads_there
case_end
