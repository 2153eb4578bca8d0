#!/bin/bash
# fetch.sh [--refresh]: makes the guest root (QEMU, two kernels, programs for guests) and prints its path.
#
# The root is resolved and downloaded with a private apt state, so nothing of the host changes and no privilege is
# needed; packages are unpacked, none of their scripts runs. Its key is a hash of the package versions. With a root in
# the cache and no --refresh nothing is asked of the network.
set -euo pipefail
umask 022
here=$(dirname "$(readlink -f "$0")")
GUEST_ROOT=
. "$here/lib.sh"
. "$here/apt.sh"

# Change this when the unpacking below changes.
recipe=2

# Programs for the host side, programs for guests, the new kernel.
packages=(qemu-system-x86 qemu-utils qemu-block-extra ovmf seabios virtiofsd
  fio busybox-static iproute2 kmod base-files e2fsprogs pciutils util-linux
  linux-image-cloud-amd64)
# What builds a kernel module inside the root.
module_packages=(linux-headers-cloud-amd64 gcc-14 make sparse perl bash dash coreutils sed grep mawk findutils diffutils
  xz-utils)
# The second kernel, from the stable suite itself.
lts_packages=(linux-image-cloud-amd64 linux-headers-cloud-amd64)

# Writes the names of all .deb files of each set. Against an empty archive directory: apt lists only what is missing.
resolve() {
  private_apt new "$suites" update
  private_apt lts "$suite" update
  private_apt new "$suites" -o Dir::Cache::archives="$GUEST_CACHE/none" --print-uris \
    install "${packages[@]}" "${module_packages[@]}" | awk '{print $2}' >"$GUEST_CACHE/want.new"
  private_apt lts "$suite" -o Dir::Cache::archives="$GUEST_CACHE/none" --print-uris install "${lts_packages[@]}" |
    awk '$2 ~ /^linux-/ && $2 !~ /^linux-(libc-dev|base)_/ {print $2}' >"$GUEST_CACHE/want.lts"
  [ -s "$GUEST_CACHE/want.new" ] && [ -s "$GUEST_CACHE/want.lts" ] ||
    guest_die "apt resolved nothing from $suites; is the mirror reachable?"
}

download() {
  private_apt new "$suites" -y -d install "${packages[@]}" "${module_packages[@]}" >&2
  local names
  mapfile -t names < <(sed 's/_.*//' "$GUEST_CACHE/want.lts")
  (cd "$GUEST_CACHE/apt-lts/archives" && private_apt lts "$suite" download "${names[@]}" >&2)
}

# unpack TREE
unpack() {
  local tree=$1 new=$GUEST_CACHE/apt-new/archives lts=$GUEST_CACHE/apt-lts/archives
  # First, since it has the links /bin, /lib and /lib64.
  dpkg-deb -x "$new/$(grep '^base-files_' "$GUEST_CACHE/want.new")" "$tree"
  { sed "s|^|$new/|" "$GUEST_CACHE/want.new"; sed "s|^|$lts/|" "$GUEST_CACHE/want.lts"; } |
    xargs -P"$(nproc)" -I{} dpkg-deb -x {} "$tree"
}

# What the packages' own scripts would have done, as far as we need it.
settle() {
  local tree=$1 modules
  ln -sf dash "$tree/usr/bin/sh"
  ln -sf mawk "$tree/usr/bin/awk"
  ln -sf x86_64-linux-gnu-gcc-14 "$tree/usr/bin/gcc"
  mkdir -p "$tree/proc/self" "$tree/build"
  grep -F '[stack]' /proc/self/maps >"$tree/proc/self/maps" # objtool wants to read it
  [ -c "$tree/dev/null" ] || mknod -m666 "$tree/dev/null" c 1 3 2>/dev/null || : >"$tree/dev/null"
  for modules in "$tree"/usr/lib/modules/*; do
    depmod -b "$tree" "${modules##*/}"
  done
  # Better to fail here than in a test a year from now.
  modprobe -d "$tree" -S "$(ls -v "$tree/usr/lib/modules" | tail -1)" --show-depends vduse >/dev/null ||
    guest_die "the new kernel has no vduse module any more"
}

# The style checker for kernel code is in no package but that of the whole source (150 MB), of which three files stay.
# Beside the recipe: a root that has none gets it, and one that cannot be reached is no reason to fail.
add_checkpatch() {
  local tree=$1 scratch
  [ ! -e "$tree/usr/src/checkpatch/checkpatch.pl" ] || return 0
  scratch=$(mktemp -d "$GUEST_CACHE/source.XXXXXX")
  if download_checkpatch "$tree" "$scratch" >&2; then
    mkdir -p "$tree/usr/src/checkpatch"
    mv "$scratch"/*/scripts/* "$tree/usr/src/checkpatch/"
  else
    echo "guest: the kernel's style checker could not be fetched; its test will be skipped" >&2
  fi
  rm -rf "$scratch"
}

# download_checkpatch TREE SCRATCH
download_checkpatch() {
  local series
  series=$(ls -v "$1/usr/lib/modules" | sed -n '1s/^\([0-9]*\.[0-9]*\)\..*/\1/p')
  (
    find_mirror
    cd "$2"
    private_apt lts "$suite" download "linux-source-$series" || {
      private_apt lts "$suite" update
      private_apt lts "$suite" download "linux-source-$series"
    }
    dpkg-deb --fsys-tarfile linux-source-*.deb | tar -xO "./usr/src/linux-source-$series.tar.xz" |
      tar -xJ --wildcards '*/scripts/checkpatch.pl' '*/scripts/spelling.txt' '*/scripts/const_structs.checkpatch'
  )
}

# Keeps the two newest roots.
prune() {
  ls -dt "$GUEST_CACHE"/root-* | grep -v '\.tmp$' | tail -n +3 | xargs -r rm -rf
  private_apt new "$suites" autoclean >/dev/null || :
}

main() {
  mkdir -p "$GUEST_CACHE/none/partial"
  exec 9>"$GUEST_CACHE/lock"
  flock 9
  if [ "${1-}" != --refresh ] && [ -e "$GUEST_CACHE/root/.manifest" ]; then
    add_checkpatch "$(readlink -f "$GUEST_CACHE/root")"
    readlink -f "$GUEST_CACHE/root"
    return
  fi
  find_mirror
  resolve
  local key tree
  key=$({ echo "$recipe"; sort "$GUEST_CACHE/want.new" "$GUEST_CACHE/want.lts"; } | sha256sum | cut -c1-16)
  if [ ! -e "$GUEST_CACHE/root-$key/.manifest" ]; then
    download
    tree=$GUEST_CACHE/root-$key.tmp
    rm -rf "$tree"
    mkdir "$tree"
    unpack "$tree"
    settle "$tree"
    sort "$GUEST_CACHE/want.new" "$GUEST_CACHE/want.lts" >"$tree/.manifest"
    mv -T "$tree" "$GUEST_CACHE/root-$key"
  fi
  add_checkpatch "$GUEST_CACHE/root-$key"
  ln -sfnT "root-$key" "$GUEST_CACHE/root"
  prune
  echo "$GUEST_CACHE/root-$key"
}

main "$@"
