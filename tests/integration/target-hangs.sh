#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The target hangs in the middle of a request. status, ls, df and the guest's
# writes answer as if nothing was; so does umount. When the target is back the
# drain goes on by itself and ends identical.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq python3
new_dir

size=64M
truncate -s $size "$T/far"
start_nbdkit far --filter=pause file "$T/far" pause-control="$T/pause"
new_store $size "$(uri far)"
"$WEIR" set "$STORE" request-deadline=1

is_not_connected() {
    [ "$(status '.disks[0].target_state')" != online ]
}

everything_answers() {
    answers_within 1 "$WEIR" status "$STORE" --json
    answers_within 1 "$WEIR" status "$STORE"
    answers_within 1 cat "$MNT/.weir/status.json"
    answers_within 1 ls -l "$MNT"
    answers_within 1 df "$MNT"
    answers_within 1 stat "$MNT/vda.raw"
    answers_within 1 dd if=/dev/urandom of="$MNT/vda.raw" bs=64k count=8 \
        seek=77 conv=notrunc,fsync status=none
}

mount_store
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=64 conv=notrunc,fsync \
    status=none
nbdkit_pause "$T/pause" p
everything_answers
await 30 is_not_connected
everything_answers
nbdkit_pause "$T/pause" r
drain_store
assert_same "$MNT/vda.raw" "$(uri far)"

# umount does not wait for it either, and what is dirty stays so.
nbdkit_pause "$T/pause" p
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=64 conv=notrunc,fsync \
    status=none
timed timeout 20 "$WEIR" umount "$MNT" || fail "umount: $(cat "$T/err")"
[ "$took" -lt 1000 ] || say "umount took $took ms with the target hung"
[ "$took" -lt 3000 ] || fail "umount took $took ms with the target hung"
[ "$(status .dirty_bytes)" -gt 0 ] || fail 'umount forgot what is dirty'
mount_store
everything_answers
nbdkit_pause "$T/pause" r
drain_store
assert_same "$MNT/vda.raw" "$(uri far)"
umount_store
