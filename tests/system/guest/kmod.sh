#!/bin/bash
# kmod.sh KERNEL_VERSION SOURCE_DIR OUT_DIR [make arguments]: builds an out-of-tree kernel module inside the guest root.
# The source folder has a Kbuild with `obj-m := NAME.o`; W=1 and C=1 (sparse) are useful make arguments.
# Needs no mounts; without root privileges it needs user namespaces.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/lib.sh"
guest_need_root

version=$(guest_kernel_version "$1") source=$2 out=$3
shift 3
build=$(mktemp -d "$GUEST_ROOT/build/XXXXXX")
trap 'rm -rf "$build"' EXIT
cp -a "$source/." "$build/"

enter=(chroot "$GUEST_ROOT")
[ "$(id -u)" = 0 ] || enter=(unshare -r chroot "$GUEST_ROOT")
"${enter[@]}" /usr/bin/env -i PATH=/usr/bin:/usr/sbin HOME=/ LC_ALL=C \
  make -C "/usr/src/linux-headers-$version" M="/build/${build##*/}" "$@" modules
mkdir -p "$out"
cp "$build"/*.ko "$out/"
