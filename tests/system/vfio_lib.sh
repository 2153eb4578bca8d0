# Sourced by the guest scripts of the VFIO tests, after cases.sh. The functions of the machine (vfio_guest.py):
EDU=0000:00:04.0
BLK=0000:00:05.0
NVME=0000:01:00.0
HOT=0000:02:00.0
SHARED_EDU=0000:00:08.0
SHARED_NVME=0000:00:08.1
OWN=0000:00:09.0
NET=0000:00:0a.0
XHCI=0000:00:0b.0

functions=/sys/bus/pci/devices

vfio_modules() { modprobe -a vfio_iommu_type1 vfio-pci; }

# driver_of ADDRESS: the name of its driver; empty: none.
driver_of() { if [ -e "$functions/$1/driver" ]; then basename "$(readlink "$functions/$1/driver")"; fi; }

# group_of ADDRESS: the number of its IOMMU group.
group_of() { basename "$(readlink "$functions/$1/iommu_group")"; }

# bind_by_hand ADDRESS...: gives functions to vfio-pci as the kernel's documentation says, without a program of ours.
bind_by_hand() {
  local address
  for address; do
    echo vfio-pci >"$functions/$address/driver_override"
    [ ! -e "$functions/$address/driver" ] || echo "$address" >"$functions/$address/driver/unbind"
    echo "$address" >/sys/bus/pci/drivers_probe
  done
}

# unbind_by_hand ADDRESS...: and back to what the kernel would choose.
unbind_by_hand() {
  local address
  for address; do
    echo >"$functions/$address/driver_override"
    [ ! -e "$functions/$address/driver" ] || echo "$address" >"$functions/$address/driver/unbind"
    echo "$address" >/sys/bus/pci/drivers_probe
  done
}

# refuses TEXT COMMAND...: the command fails, and says TEXT.
refuses() {
  local text=$1
  shift
  ! "$@" >/tmp/said 2>&1 || fail "it did: $*"
  cat /tmp/said
  grep -q -- "$text" /tmp/said || fail "it does not say '$text': $(head -n2 /tmp/said | tr '\n' ' ')"
}

# bounded COMMAND...: its output and status, or failure after half a minute.
bounded() { timeout 30 "$@"; }

# hand_over ADDRESS...: the same with our command.
hand_over() { outboard pci bind "$@" --yes; }

# holding ADDRESS[,WORD...]: a process that has the function open, until let_go; its number is in $holder.
holding() {
  rm -f /tmp/holding /tmp/held
  mkfifo /tmp/holding
  function_user hold "vfio:$1" </tmp/holding >/tmp/held 2>&1 &
  holder=$!
  exec 9>/tmp/holding
  wait_for 10 grep -q open /tmp/held
}
let_go() {
  exec 9>&-
  wait "$holder"
}
