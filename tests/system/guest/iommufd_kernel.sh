#!/bin/bash
# iommufd_kernel.sh: makes the kernel that Debian's are not: with IOMMUFD, the VFIO device nodes and VFIO without an IOMMU, from
# Debian's sources of the series that the guest root has. Prints its version, by which harness.py finds it. Built once for
# a version of the root's kernel, the options below and the compiler. About six minutes of two processors, 2 GB while it is
# built, 4 MB afterwards.
set -euo pipefail
umask 022
here=$(dirname "$(readlink -f "$0")")
. "$here/lib.sh"
. "$here/apt.sh"
guest_need_root

on=(64BIT SMP EXPERT PRINTK BUG KALLSYMS MULTIUSER BLK_DEV_INITRD BINFMT_ELF BINFMT_SCRIPT MODULES MODULE_UNLOAD
  CC_OPTIMIZE_FOR_PERFORMANCE HIGH_RES_TIMERS NO_HZ_IDLE ACPI PCI PCI_MSI PCIEPORTBUS HOTPLUG_PCI HOTPLUG_PCI_PCIE
  HOTPLUG_PCI_ACPI X86_LOCAL_APIC X86_IO_APIC X86_X2APIC FUTEX EPOLL EVENTFD SIGNALFD TIMERFD AIO IO_URING SHMEM SYSVIPC
  MEMFD_CREATE POSIX_TIMERS ADVISE_SYSCALLS MEMBARRIER RSEQ FILE_LOCKING INOTIFY_USER HUGETLBFS TRANSPARENT_HUGEPAGE PROC_FS
  PROC_SYSCTL SYSFS TMPFS DEVTMPFS EXT4_FS TTY UNIX98_PTYS SERIAL_8250 SERIAL_8250_CONSOLE BLOCK BLK_DEV BLK_DEV_NVME NET UNIX
  INET NETDEVICES NET_CORE VIRTIO_NET VIRTIO_MENU VIRTIO_PCI VIRTIO_BLK IOMMU_SUPPORT INTEL_IOMMU INTEL_IOMMU_DEFAULT_ON
  IRQ_REMAP IOMMUFD VFIO VFIO_GROUP VFIO_CONTAINER VFIO_IOMMU_TYPE1 VFIO_NOIOMMU VFIO_DEVICE_CDEV VFIO_PCI)
off=(IPV6 X86_PKG_TEMP_THERMAL)

options() {
  printf 'CONFIG_%s=y\n' "${on[@]}"
  printf '# CONFIG_%s is not set\n' "${off[@]}"
}

# The newest series of the root, such as 7.2; and the version of its source package.
series=$(guest_kernel_version new | sed 's/^\([0-9]*\.[0-9]*\)\..*/\1/')

fetch_source() { # FOLDER
  find_mirror
  cd "$1"
  private_apt new "$suites" download "linux-source-$series" || {
    private_apt new "$suites" update
    private_apt new "$suites" download "linux-source-$series"
  }
  dpkg-deb --fsys-tarfile linux-source-*.deb | tar -xO "./usr/src/linux-source-$series.tar.xz" | tar -xJ --strip-components=1
}

configure() { # SOURCE OBJECTS VERSION_SUFFIX
  local lost
  options >"$2/wanted"
  echo "CONFIG_LOCALVERSION=\"$3\"" >>"$2/wanted"
  make -s -C "$1" O="$2" tinyconfig
  (cd "$1" && scripts/kconfig/merge_config.sh -m -O "$2" "$2/.config" "$2/wanted" >/dev/null)
  make -s -C "$1" O="$2" olddefconfig
  lost=$(grep '^CONFIG_' "$2/wanted" | grep -vxFf "$2/.config" || :)
  [ -z "$lost" ] || guest_die "this kernel has no longer: $lost"
}

build() { # FOLDER SUFFIX
  local source=$1/source objects=$1/objects result=$1/result
  mkdir -p "$source" "$objects" "$result"
  (fetch_source "$source") >&2
  configure "$source" "$objects" "$2" >&2
  make -s -C "$source" O="$objects" -j"$(nproc)" bzImage modules >&2
  make -s -C "$source" O="$objects" INSTALL_MOD_PATH="$result" modules_install >&2
  rm -f "$result"/lib/modules/*/{build,source}
  mkdir -p "$result/usr"
  mv "$result/lib" "$result/usr/lib"
  ln -s usr/lib "$result/lib"
  install -D "$objects/arch/x86/boot/bzImage" "$result/vmlinuz"
}

# What the result depends on. The number: change it when the way of building changes.
key_of() { { echo 1; options; guest_kernel_version new; gcc -dumpfullversion; } | sha256sum | cut -c1-8; }

main() {
  local key kernels=$GUEST_CACHE/kernels file folder version
  mkdir -p "$kernels"
  exec 9>"$kernels/lock"
  flock 9
  key=$(key_of)
  for file in "$kernels"/*/key; do
    [ -e "$file" ] && [ "$(cat "$file")" = "$key" ] || continue
    version=$(basename "$(dirname "$file")")
    ln -sfn "$version" "$kernels/iommufd"
    echo "$version"
    return
  done
  echo "guest: building a kernel with IOMMUFD; about six minutes, once" >&2
  folder=$(mktemp -d "$kernels/build.XXXXXX")
  # shellcheck disable=SC2064
  trap "rm -rf '$folder'" EXIT
  build "$folder" "-outboard-$key"
  version=$(basename "$folder"/result/usr/lib/modules/*)
  echo "$key" >"$folder/result/key"
  mv -T "$folder/result" "$kernels/$version"
  ln -sfn "$version" "$kernels/iommufd"
  echo "$version"
}

main
