#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Room for what snapshots keep ends, at buffer-size and on the host: writes that
# need some wait, and get ENOSPC after full-wait; all else goes on, snapshots are
# what they were, status says what to delete, and when there is room again
# writes go on by themselves.
. "$(dirname "$0")/functions.sh"
requires root fuse weir loop nbdkit jq mkfs.ext4
. "$tests_dir/integration/crashes.sh"
new_dir
far=$T/far
export disk_bytes=$((64 << 20))

target() {
    truncate -s "$disk_bytes" "$far"
    printf '[ nbdkit file %s ]\n' "$far"
}

# Past the page cache, which would not ask again.
sum() { # FILE
    dd if="$1" iflag=direct bs=1M status=none | sha256sum
}

fill() { # MIB FROM_MIB
    dd if=/dev/urandom of="$MNT/vda.raw" oflag=direct conv=notrunc bs=1M \
        count="$1" seek="$2" status=none 2>>"$T/fill.log"
}

take_sums() {
    local name
    for name in a b; do
        sum "$MNT/.snapshots/$name/vda.raw" >"$T/sum.$name"
    done
}

assert_sums() { # NAME…
    local name
    for name; do
        [ "$(sum "$MNT/.snapshots/$name/vda.raw")" = "$(cat "$T/sum.$name")" ] ||
            fail "snapshot $name is not what it was"
    done
}

# Two snapshots, of which the older one keeps 8 MiB, or what was copied ahead
# with them, and nobody else needs them.
prepare() { # [weir-create option…]
    new_store 64M "$(target)"
    mount_store
    "$WEIR" set "$STORE" full-wait=1
    fill 24 0
    drain_store
    "$WEIR" snapshot create "$STORE" a >>"$T/weir.log"
    fill 8 0
    "$WEIR" snapshot create "$STORE" b >>"$T/weir.log"
    drain_store
    take_sums
}

says_full() {
    status '.throttled and .state == "throttled" and .room.state == "full"' |
        grep -qx true
}

assert_says_what_to_delete() { # WORDS OF THE LIMIT
    "$WEIR" status "$STORE" | tr -s ' \n' ' ' >"$T/words"
    grep -q "THROTTLED writes wait for room;.*delete the oldest: a ([89][ .].*$1" \
        "$T/words" || fail "status: $(cat "$T/words")"
    "$WEIR" is throttled "$STORE" || fail 'is throttled: no'
}

#
# buffer-size
#
prepare
kept=$(status .buffer.cow_bytes)
"$WEIR" set "$STORE" buffer-size=$((kept + (3 << 20)))
! fill 16 8 || fail 'there was no room, and nobody heard of it'
grep -q 'No space left' "$T/fill.log" || fail "$(tail -n 1 "$T/fill.log")"
await 5 says_full
assert_says_what_to_delete 'raise buffer-size'
[ "$(status .buffer.cow_bytes)" -le $((kept + (5 << 20))) ] ||
    fail "buffer-size is not kept to: $(status .buffer)"
assert_sums a b
# What is kept already may be overwritten, and what was nothing but zeroes.
fill 2 8
fill 4 40
drain_store
assert_same "$MNT/vda.raw" "$far"

# Who waits goes on when the limit is raised; others meanwhile.
"$WEIR" set "$STORE" full-wait=60
fill 8 16 &
writer=$!
await 10 status_is .room.waiting_writes 1
fill 1 8
kill -0 "$writer" || fail 'it did not wait'
"$WEIR" set "$STORE" buffer-size=1G
await 10 is_gone "$writer"
wait "$writer" || fail "$(tail -n 1 "$T/fill.log")"
await 15 status_is .room.state ample
assert_sums a b
drain_store
assert_same "$MNT/vda.raw" "$far"
umount_store
"$WEIR" check "$STORE" >>"$T/weir.log" || fail 'check'
say 'buffer-size: refused, waited, went on'

#
# The host's file system
#
new_fs ext4 96M -m 0
STORE=$FS/store
rm -f "$far"
prepare
free=$(df --output=avail -B1 "$FS" | tail -n 1)
fallocate -l $((free - (3 << 20))) "$FS/filler"
! fill 16 8 || fail 'there was no room, and nobody heard of it'
await 5 says_full
assert_says_what_to_delete "make room on this host's file system"
assert_sums a b
drain_store
assert_same "$MNT/vda.raw" "$far"
"$WEIR" snapshot delete "$STORE" a
await 20 fill 4 12
await 15 status_is .throttled false
assert_sums b
drain_store
assert_same "$MNT/vda.raw" "$far"
fill 2 0
umount_store
"$WEIR" check "$STORE" >>"$T/weir.log" || fail 'check of the full one'
mount_store
assert_sums b
umount_store
detach_fs
say 'full host: refused, back when a snapshot was deleted'
