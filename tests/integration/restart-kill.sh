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
truncate -s 64M "$T/far"
start_nbdkit far file "$T/far"
new_store 64M "$(uri far)"
# The clusters of a dead connection rest for 4 times this before they go on.
"$WEIR" set "$STORE" request-deadline=1

guest_has_written() { # BYTES
    [ "$(awk '/^weir_guest_written_bytes_total/ { printf "%d", $2 }' \
        "$MNT/.weir/metrics")" -gt "$1" ]
}

for ((round = 1; round <= rounds; round++)); do
    mount_store
    dd if=/dev/urandom of="$T/synced" bs=64k count=16 status=none
    dd if="$T/synced" of="$MNT/vda.raw" bs=64k seek=$((round % 32 * 16)) \
        conv=notrunc,fsync status=none
    fio --name=load --filename="$MNT/vda.raw" --rw=randwrite \
        --bsrange=4k-128k --offset=32M --size=32M --direct=1 \
        --ioengine=libaio --iodepth=16 --time_based --runtime=60 >"$T/fio.log" 2>&1 &
    load=$!
    # So that the next life cannot have sent all of it before it is asked.
    "$WEIR" set "$STORE" bwlimit=2M
    await 20 guest_has_written $((24 << 20))
    kill_daemon
    wait "$load" || true
    rm "$T/fio.log"
    # The dead mount is cleaned up by the next one, by itself.
    mount_store
    dirty=$(status .dirty_bytes)
    [ "$dirty" -gt 0 ] || fail 'nothing is dirty after kill -9'
    "$WEIR" set "$STORE" bwlimit=off
    cmp -n $((1 << 20)) -i 0:$((round % 32 << 20)) "$T/synced" \
        "$MNT/vda.raw" || fail 'what was fsynced is not there'
    drain_store
    status_is .dirty_bytes 0 || fail "dirty after the drain: $(status .)"
    assert_same "$MNT/vda.raw" "$(uri far)"
    umount_store
done
say "$rounds rounds, last one with $((dirty >> 20)) MiB dirty after kill -9"
