#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# kill -9 of the daemon: what was fsynced is there, everything counts as
# dirty, and the drain ends with a target that is the disk.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq fio
new_dir

rounds=2
is_long && rounds=40
start_nbdkit far memory 64M
new_store 64M "$(uri far)"
# The clusters of a dead connection rest for 4 times this before they go on.
"$WEIR" set "$STORE" request-deadline=1 >>"$T/weir.log" 2>&1 || true

for ((round = 1; round <= rounds; round++)); do
    mount_store
    dd if=/dev/urandom of="$T/synced" bs=64k count=16 status=none
    dd if="$T/synced" of="$MNT/vda.raw" bs=64k seek=$((round % 64 * 16)) \
        conv=notrunc,fsync status=none
    fio --name=load --filename="$MNT/vda.raw" --rw=randwrite --bs=4k-128k \
        --offset=0 --size=64M --direct=1 --ioengine=libaio --iodepth=16 \
        --time_based --runtime=60 --output="$T/fio.log" &
    load=$!
    await 20 test -s "/proc/$(daemon_pid)/io"
    await 20 daemon_has_written 1000000
    kill_daemon
    wait "$load" || true
    # The dead mount is cleaned up by the next one, by itself.
    mount_store
    dirty=$(status .dirty_bytes)
    [ "$dirty" -gt 0 ] || fail 'nothing is dirty after kill -9'
    drain_store
    status_is .dirty_bytes 0 || fail "dirty after the drain: $(status .)"
    assert_same "$MNT/vda.raw" "$(uri far)"
    umount_store
done
say "$rounds rounds, last one with $((dirty >> 20)) MiB dirty after kill -9"
