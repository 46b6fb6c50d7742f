#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Create, mount, write, umount, mount again: what was written is there, the
# buffer between is a plain raw image, a second disk joins, and each can go.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq
new_dir

start_nbdkit far memory 64M
new_store 64M "$(uri far)"
# What was on its way when a mount ended rests for four times this.
"$WEIR" set "$STORE" request-deadline=1
[ "$(stat -c %a "$STORE")" = 700 ] || fail "the store's mode is not 0700"
[ -z "$(find "$STORE" -type f -perm /077)" ] || fail 'files others can read'

mount_store
[ "$(stat -c %s "$MNT/vda.raw")" -eq $((64 << 20)) ] || fail 'size of vda.raw'
[ "$(ls -A "$MNT")" = vda.raw ] || fail "shown in the mount: $(ls -A "$MNT")"
dd if=/dev/urandom of="$T/data" bs=1M count=8 status=none
dd if="$T/data" of="$MNT/vda.raw" bs=1M seek=3 conv=notrunc,fsync status=none
truncate -s 64M "$T/want"
dd if="$T/data" of="$T/want" bs=1M seek=3 conv=notrunc status=none
cmp "$MNT/vda.raw" "$T/want"
umount_store
[ -z "$(daemon_pid)" ] || fail 'umount returned and the daemon is still there'

cmp "$STORE/vda/disk.raw" "$T/want" || fail 'the buffer is not a plain image'
mount_store
cmp "$MNT/vda.raw" "$T/want" || fail 'not what was written before the remount'
jq -e '.schema_version and .disks[0].name == "vda"' "$MNT/.weir/status.json" \
    >"$T/out" || fail "status.json: $(cat "$MNT/.weir/status.json")"
grep -q '^weir_.*dirty_bytes' "$MNT/.weir/metrics" || fail 'no metrics'
umount_store "$MNT" --drain
assert_same "$T/want" "$(uri far)"

# From an image; all of it is owed.
start_nbdkit second memory 64M
"$WEIR" create "$STORE/vdb" --from "$T/want" --target "$(uri second)"
mount_store
cmp "$MNT/vdb.raw" "$T/want"
drain_store
assert_same "$T/want" "$(uri second)"
umount_store

"$WEIR" check "$STORE" >"$T/out" || fail "check: $(cat "$T/out")"
"$WEIR" remove "$STORE/vdb" || fail 'a clean disk cannot be removed'
[ ! -e "$STORE/vdb" ] || fail 'remove left the disk'
"$WEIR" remove "$STORE" || fail 'a clean store cannot be removed'
[ ! -e "$STORE" ] || fail 'remove left the store'
