#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# After a clean umount the dirty bitmap is exact: it says the same bytes as
# before, and what was clean is not sent again.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq
new_dir

truncate -s 64M "$T/far"
start_nbdkit far --filter=log file "$T/far" logfile="$T/far.requests"
new_store 64M "$(uri far)"
mount_store
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=16 conv=notrunc,fsync \
    status=none
drain_store
status_is .dirty_bytes 0 || fail "dirty after a drain: $(status .dirty_bytes)"
umount_store

: >"$T/far.requests"
mount_store
status_is .dirty_bytes 0 || fail "dirty after a remount: $(status .dirty_bytes)"
drain_store
umount_store
[ "$(logged_writes "$T/far.requests")" -eq 0 ] ||
    fail "a clean store sent: $(grep -m 1 Write "$T/far.requests")"

# Three clusters dirty, in three places, while the target is away.
mount_store
stop_server far
for at in 0 20 63; do
    dd if=/dev/urandom of="$MNT/vda.raw" bs=4k count=1 seek=$((at * 256)) \
        conv=notrunc,fsync status=none
done
before=$(status .dirty_bytes)
[ "$before" -eq $((3 * 65536)) ] || fail "dirty: $before bytes, not 3 clusters"
umount_store
status_is .dirty_bytes "$before" || fail "at rest: $(status .dirty_bytes)"
mount_store
status_is .dirty_bytes "$before" || fail "remounted: $(status .dirty_bytes)"
: >"$T/far.requests"
restart_server far
drain_store
writes=$(logged_writes "$T/far.requests")
[ "$writes" -eq 3 ] || fail "$writes writes for 3 dirty clusters"
assert_same "$MNT/vda.raw" "$(uri far)"
umount_store

# In mid drain: what is on its way gets its answer before the end, so that
# nothing is in doubt and the next start need not wait for a quarantine.
"$WEIR" set "$STORE" bwlimit=4M
mount_store
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=32 conv=notrunc,fsync \
    status=none
has_sent_some() { [ "$(status '.disks[0].sent_bytes')" -gt 0 ]; }
await 20 has_sent_some
[ "$(status .dirty_bytes)" -gt 0 ] || fail 'the drain did not last'
umount_store
grep -qx 'in-doubt=no' "$STORE/state" || fail 'in doubt after a clean umount'
"$WEIR" set "$STORE" bwlimit=off
mount_store
drain_store
assert_same "$MNT/vda.raw" "$(uri far)"
umount_store
