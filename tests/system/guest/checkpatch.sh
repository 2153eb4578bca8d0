#!/bin/bash
# checkpatch.sh FOLDER: the kernel's own style checker on the sources of a kernel module. Exit status 1 if it has complaints.
# Runs inside the guest root, which has the Perl for it; fetch.sh has put it there.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/lib.sh"
guest_need_root
if [ ! -e "$GUEST_ROOT/usr/src/checkpatch/checkpatch.pl" ]; then
  echo "guest: the guest root has no checkpatch; to add it: ./dev guest fetch" >&2
  exit 77
fi

work=$(mktemp -d "$GUEST_ROOT/build/XXXXXX")
trap 'rm -rf "$work"' EXIT
cp -a "$1/." "$work/"
mapfile -t files < <(cd "$work" && find . \( -name '*.[ch]' -o -name Kbuild -o -name Makefile -o -name Kconfig \) | sort)
enter=(chroot "$GUEST_ROOT")
[ "$(id -u)" = 0 ] || enter=(unshare -r chroot "$GUEST_ROOT")
"${enter[@]}" /usr/bin/env -i PATH=/usr/bin:/usr/sbin HOME=/ LC_ALL=C PERL_USE_UNSAFE_INC=0 \
  perl /usr/src/checkpatch/checkpatch.pl --no-tree --strict --terse --no-summary --color=never \
  --root=/ -f "${files[@]/#.\//\/build\/${work##*/}\/}"
