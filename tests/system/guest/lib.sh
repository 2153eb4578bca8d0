# Sourced by the other scripts here: where the guest root is, and how its programs run on the host.

GUEST_CACHE=${OUTBOARD_GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/outboard/guest}
GUEST_ROOT=${GUEST_ROOT:-$GUEST_CACHE/root}

guest_die() {
  echo "guest: $*" >&2
  exit 1
}

# Fails with exit status 77 (a test that cannot run) when the root is not there.
guest_need_root() {
  [ -e "$GUEST_ROOT/.manifest" ] && return
  echo "guest: there is no guest root in $GUEST_CACHE" >&2
  echo "  to make it: ./dev guest fetch" >&2
  exit 77
}

# Prints the path of a program of the root.
guest_find() {
  local folder
  for folder in usr/bin usr/sbin usr/libexec; do
    if [ -x "$GUEST_ROOT/$folder/$1" ]; then
      echo "$GUEST_ROOT/$folder/$1"
      return
    fi
  done
  guest_die "the guest root has no program '$1'"
}

# Replaces this process by a program of the root, through the root's own loader: its C library is newer than ours.
guest_exec() {
  local name=$1 program libraries=$GUEST_ROOT/usr/lib/x86_64-linux-gnu
  shift
  program=$(guest_find "$name")
  case $name in
    qemu-system-*) # its firmware is looked up in these
      set -- -L "$GUEST_ROOT/usr/share/qemu" -L "$GUEST_ROOT/usr/share/seabios" -L "$GUEST_ROOT/usr/lib/ipxe/qemu" "$@" ;;
  esac
  QEMU_MODULE_DIR=$libraries/qemu exec "$GUEST_ROOT/usr/lib64/ld-linux-x86-64.so.2" --argv0 "$name" \
    --library-path "$libraries:$libraries/ceph:$libraries/pulseaudio" "$program" "$@"
}

# Kernel versions in the root, oldest first: the long-term one (6.12), then the new one (7.x).
guest_kernels() { ls -v "$GUEST_ROOT/usr/lib/modules"; }

# guest_kernel_version new|lts|iommufd|VERSION
guest_kernel_version() {
  case ${1:-new} in
    new) guest_kernels | tail -1 ;;
    lts) guest_kernels | head -1 ;;
    iommufd) guest_iommufd_kernel ;;
    *) echo "$1" ;;
  esac
}

# The version of the kernel that iommufd_kernel.sh has built last.
guest_iommufd_kernel() {
  local link=$GUEST_CACHE/kernels/iommufd
  if [ ! -e "$link" ]; then
    echo "guest: there is no kernel with IOMMUFD" >&2
    echo "  to build it: ./dev test --iommufd" >&2
    exit 77
  fi
  basename "$(readlink "$link")"
}

# Where a kernel and its modules are.
guest_kernel_root() {
  if [ -e "$GUEST_CACHE/kernels/$1" ]; then echo "$GUEST_CACHE/kernels/$1"; else echo "$GUEST_ROOT"; fi
}

# The bootable image of a kernel version: newer packages have it beside the modules, older ones in /boot.
guest_kernel_image() {
  local file
  for file in "$GUEST_ROOT/usr/lib/modules/$1/vmlinuz" "$GUEST_ROOT/boot/vmlinuz-$1" "$GUEST_CACHE/kernels/$1/vmlinuz"; do
    [ -e "$file" ] && echo "$file" && return
  done
  guest_die "the guest root has no kernel '$1'"
}
