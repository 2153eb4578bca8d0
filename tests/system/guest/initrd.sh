#!/bin/bash
# initrd.sh -k KERNEL_VERSION -o OUT [option...]: makes an initial RAM disk for a guest.
#   -m MODULE     a kernel module, with what it depends on (loading it is the test's business)
#   -e FILE.ko    a module built elsewhere
#   -b PROGRAM    a program of this machine, with its libraries: /bin/NAME in the guest
#   -t PROGRAM    a program of the guest root, behind its own loader: /bin/NAME in the guest
#   -f SRC:DST    a file
#   -s SCRIPT     what the guest runs, as /test; without it a second archive is expected to bring it
# The guest has busybox, and /lib/cases.sh for tests of several cases. Archives may be concatenated.
set -euo pipefail
umask 022
here=$(dirname "$(readlink -f "$0")")
. "$here/lib.sh"
guest_need_root

version='' out='' script=''
modules=() extra_modules=() host_programs=() root_programs=() files=()
while getopts k:o:m:e:b:t:f:s: option; do
  case $option in
    k) version=$OPTARG ;;
    o) out=$OPTARG ;;
    m) modules+=("$OPTARG") ;;
    e) extra_modules+=("$OPTARG") ;;
    b) host_programs+=("$OPTARG") ;;
    t) root_programs+=("$OPTARG") ;;
    f) files+=("$OPTARG") ;;
    s) script=$OPTARG ;;
    *) exit 2 ;;
  esac
done
[ -n "$version" ] && [ -n "$out" ] || guest_die "initrd.sh needs -k and -o"
kernel_root=$(guest_kernel_root "$version")

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

add_busybox() {
  local applet busybox=$GUEST_ROOT/usr/bin/busybox
  mkdir -p "$tree"/{bin,lib,proc,sys,dev,tmp,run,etc,usr,mnt,opt/t/bin,opt/t/lib}
  ln -s bin "$tree/sbin"
  ln -s ../bin "$tree/usr/bin"
  ln -s ../bin "$tree/usr/sbin"
  cp "$busybox" "$tree/bin/"
  for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
  done
}

module_files() {
  local module
  for module in "${modules[@]}"; do
    modprobe -d "$kernel_root" -S "$version" --show-depends "$module" ||
      guest_die "kernel $version has no module '$module'"
  done | awk '$1 == "insmod" {print $2}' | sort -u
}

add_modules() {
  local file target folder=$tree/lib/modules/$version
  mkdir -p "$folder/extra"
  module_files | while read -r file; do
    target=$folder/${file#*/lib/modules/"$version"/}
    mkdir -p "${target%/*}"
    case $file in
      *.xz) xz -dc "$file" >"${target%.xz}" ;;
      *.zst) zstd -qdc "$file" >"${target%.zst}" ;;
      *) cp "$file" "$target" ;;
    esac
  done
  for file in "${extra_modules[@]}"; do
    cp "$file" "$folder/extra/"
  done
  cp "$kernel_root/lib/modules/$version"/modules.{order,builtin,builtin.modinfo} "$folder/"
  depmod -b "$tree" "$version"
}

# Programs of this machine keep their usual paths for libraries. A static one makes ldd fail, which is fine.
add_host_programs() {
  local program library
  for program in "${host_programs[@]}"; do
    install -D "$program" "$tree/bin/${program##*/}"
    { ldd "$program" 2>/dev/null || :; } | { grep -oE '/[^ )]+' || :; } | while read -r library; do
      install -D "$library" "$tree$library"
    done
  done
}

# Programs of the root bring their newer C library, in /opt/t, behind a wrapper that names their loader.
add_root_programs() {
  local name program libraries=$GUEST_ROOT/usr/lib/x86_64-linux-gnu loader=$GUEST_ROOT/usr/lib64/ld-linux-x86-64.so.2
  for name in "${root_programs[@]}"; do
    program=$(guest_find "$name")
    cp "$program" "$tree/opt/t/bin/$name"
    cp "$loader" "$tree/opt/t/lib/"
    "$loader" --library-path "$libraries:$libraries/ceph" --list "$program" | awk '/=> \//{print $3}' |
      xargs -rI{} cp -Ln {} "$tree/opt/t/lib/"
    rm -f "$tree/bin/$name" # busybox may have one of that name
    printf '#!/bin/sh\nexec /opt/t/lib/%s --argv0 %s --library-path /opt/t/lib /opt/t/bin/%s "$@"\n' \
      "${loader##*/}" "$name" "$name" >"$tree/bin/$name"
    chmod +x "$tree/bin/$name"
    [ "$name" != lspci ] || install -D "$GUEST_ROOT/usr/share/misc/pci.ids" "$tree/usr/share/misc/pci.ids"
  done
}

add_files() {
  local file
  install -m755 "$here/init" "$tree/init"
  install -m644 "$here/cases.sh" "$tree/lib/cases.sh"
  for file in "${files[@]}"; do
    install -D "${file%%:*}" "$tree/${file##*:}"
  done
  [ -z "$script" ] || install -m755 "$script" "$tree/test"
}

add_busybox
add_modules
add_host_programs
add_root_programs
add_files
(cd "$tree" && find . -mindepth 1 -printf '%P\n' | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0) >"$out.tmp"
mv "$out.tmp" "$out"
