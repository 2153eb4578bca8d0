# Sourced by the guest scripts of the example device's tests, after cases.sh.

modprobe() { fail "modules are loaded by path here"; }
module=virtio_example
parameters=/sys/module/$module/parameters

# device SERVER: the sysfs folder of the device of a server (limited, plain), which its PCI slot names (/slots). Waits for it.
device() {
  local pci found
  pci=$(sed -n "s/^$1=//p" /slots)
  wait_for 10 test -e /sys/bus/pci/devices/$pci/virtio*/increment
  for found in /sys/bus/pci/devices/$pci/virtio*; do
    echo "$found"
  done
}

pci_address() {
  sed -n "s/^$1=//p" /slots
}

# put VALUE DEVICE: writes to `increment`; prints nothing, or what is wrong. A writer that hangs is a failure of its own.
put() {
  timeout -s KILL 60 sh -c 'echo "$1" 2>&1 >"$2/increment"' put "$1" "$2" 2>&1 | sed 's/.*write error: //'
}

# accepted VALUE RESULT DEVICE
accepted() {
  expect_equal "$(put "$1" "$3")" '' "error of $1"
  expect_equal "$(cat "$3/increment")" "$1 $2" increment
}

# rejected VALUE REASON DEVICE: the write fails for that reason.
rejected() {
  expect_equal "$(put "$1" "$3")" "$2" "error of $1"
}

not_a_number='Invalid argument'
too_large='Numerical result out of range'
refused='Numerical argument out of domain'
broken='Input/output error'
silent='Connection timed out'
gone='No such device'

show() {
  cat "$2/$1"
}

# waits until an attribute has a value
wait_attribute() { # DEVICE NAME VALUE
  wait_for 20 sh -c "[ \"\$(cat $1/$2)\" = '$3' ]"
}
