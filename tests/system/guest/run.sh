#!/bin/bash
# run.sh LOGDIR KERNEL_IMAGE INITRD "kernel arguments" [QEMU arguments]: becomes the QEMU process of one guest.
#
# LOGDIR gets `console` (the kernel and the test's output), `result` (the second serial port: CASE, NOTE and RC lines)
# and `qemu` (QEMU's own messages). LOGDIR `-` puts the console on this terminal.
# GUEST_SMP, GUEST_MEM, GUEST_REBOOT=1 (a reboot boots again; otherwise it ends QEMU).
#
# Always TCG: where nested virtualisation is broken /dev/kvm opens and the guest then hangs.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/lib.sh"
guest_need_root

logs=$1 kernel=$2 initrd=$3 append=$4
shift 4
memory=${GUEST_MEM:-512M}
if [ "$logs" = - ]; then
  serial=(-serial mon:stdio -serial null)
else
  mkdir -p "$logs"
  rm -f "$logs"/{console,result,qemu}
  serial=(-serial "file:$logs/console" -serial "file:$logs/result")
  exec </dev/null >"$logs/qemu" 2>&1
fi
reboot=(-no-reboot)
[ -z "${GUEST_REBOOT:-}" ] || reboot=()

guest_exec qemu-system-x86_64 \
  -accel tcg -cpu max -smp "${GUEST_SMP:-1}" -m "$memory" -machine q35,memory-backend=m \
  -object "memory-backend-memfd,id=m,size=$memory,share=on" \
  -nodefaults -display none "${reboot[@]}" "${serial[@]}" \
  -kernel "$kernel" -initrd "$initrd" -append "console=ttyS0 quiet panic=-1 oops=panic $append" "$@"
