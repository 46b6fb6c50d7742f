#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A killed daemon's ring still writes the local disk. Its store's lock is free
# only when the ring is empty: a second mount waits, or says that the store is
# busy, but reads nothing before. What it then shows does not change any more,
# and the drain ends identical.
#
# The store lies on a disk whose writes can be held up: ext4 on a loop device
# on nbdfuse on nbdkit's pause filter.
. "$(dirname "$0")/functions.sh"
requires root fuse loop weir nbdkit nbdinfo nbdfuse qemu-img mkfs.ext4 jq flock \
    python3
new_dir

rounds=1
is_long && rounds=20

slow_disk() { # an ext4 at $T/fs
    local device
    start_nbdkit disk --filter=pause memory 256M pause-control="$T/pause"
    on_exit "nbdkit_pause '$T/pause' r"
    mkdir "$T/fs"
    : >"$T/disk"
    run_server nbdfuse nbdfuse "$T/disk" "$(uri disk)"
    on_exit "fusermount3 -uz '$T/disk'"
    await 20 test -s "$T/disk"
    device=$(new_loop "$T/disk")
    on_exit "losetup -d $device"
    mkfs.ext4 -q "$device"
    mount "$device" "$T/fs"
    on_exit "umount '$T/fs' || umount -l '$T/fs'"
    # Registered last, runs first: a paused disk cannot be unmounted.
    on_exit "nbdkit_pause '$T/pause' r"
}

mount_again() {
    local status=0
    "$WEIR" mount "$STORE" "$MNT" >>"$T/mount.log" 2>&1 </dev/null || status=$?
    echo $status >"$T/mounted"
}

slow_disk
STORE=$T/fs/store
truncate -s 32M "$T/far"
start_nbdkit far file "$T/far"
new_store 32M "$(uri far)"
"$WEIR" set "$STORE" request-deadline=1
for ((round = 1; round <= rounds; round++)); do
    mount_store
    dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=32 conv=notrunc,fsync \
        status=none
    drain_store
    pid=$(daemon_pid)
    # What a close of it would write out, and wait for.
    sync "$STORE/lock"
    nbdkit_pause "$T/pause" p
    dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=16 oflag=direct \
        conv=notrunc status=none 2>>"$T/dd.log" &
    writer=$!
    # It is over when the disk does not take it.
    ! becomes_true 1 is_gone $writer || fail 'the local disk is not slow'
    kill -9 "$(holder_pid)" "$pid"
    ! becomes_true 2 flock -n "$STORE/lock" true ||
        fail 'the lock is free, and the ring still writes'
    rm -f "$T/mounted"
    mount_again &
    mounting=$!
    if becomes_true 3 test -e "$T/mounted"; then
        [ "$(cat "$T/mounted")" -eq 3 ] ||
            fail "mounted with writes under way: exit $(cat "$T/mounted")"
    fi
    waited=$(cat "$T/mounted" 2>/dev/null || echo 'still waiting')
    nbdkit_pause "$T/pause" r
    wait $mounting
    if [ "$(cat "$T/mounted")" -ne 0 ]; then
        await 20 is_gone "$pid"
        mount_again
    fi
    [ "$(cat "$T/mounted")" -eq 0 ] || fail "mount: $(tail -n 1 "$T/mount.log")"
    on_exit "unmount_by_force '$MNT'"
    # Past the caches, now and when everything is through.
    dd if="$MNT/vda.raw" bs=1M iflag=direct status=none >"$T/seen"
    drain_store
    dd if="$MNT/vda.raw" bs=1M iflag=direct status=none | cmp - "$T/seen" ||
        fail 'an old write landed after it had been read'
    assert_same "$T/seen" "$(uri far)"
    wait $writer || true
    umount_store
done
say "$rounds rounds; the second mount with the first one's writes held up:" \
    "$waited"
