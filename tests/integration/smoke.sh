#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The main path in one piece, with a plain path as the target: create, mount,
# write, drain, compare, umount, write more, umount, drain with no mount.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit jq
new_dir

truncate -s 64M "$T/far.raw"
new_store 64M "$T/far.raw"
mount_store
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=8 seek=5 conv=notrunc,fsync \
    status=none
drain_store
"$WEIR" is clean "$STORE" || fail 'drained and not clean'
cmp "$MNT/vda.raw" "$T/far.raw" || fail 'the target differs'
status_is .state idle || fail "drained and $(status .state)"
status_is .consistent.in_place true || fail 'drained and not in place'
[ "$("$WEIR" umount "$MNT")" = 'all at the target' ] || fail 'umount says else'

mount_store
status_is .dirty_bytes 0 || fail "dirty after a clean end: $(status .dirty_bytes)"
"$WEIR" pause "$STORE"
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=4 conv=notrunc,fsync \
    status=none
status_is .dirty_bytes $((4 << 20)) || fail "dirty: $(status .dirty_bytes)"
"$WEIR" umount "$MNT" >"$T/out"
grep -q '^4 MiB still to upload' "$T/out" || fail "umount: $(cat "$T/out")"
! "$WEIR" is clean "$STORE" || fail 'clean at rest, with 4 MiB to upload'

"$WEIR" drain "$STORE" --wait --timeout 100s 2>"$T/err" ||
    fail "drain without a mount: $(cat "$T/err")"
"$WEIR" is clean "$STORE" || fail 'drained without a mount, and not clean'
cmp "$STORE/vda/disk.raw" "$T/far.raw" || fail 'the target differs at the end'
