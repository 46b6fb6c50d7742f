#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The link and the server fail in the middle of a drain, again and again:
# killed and started again, connections cut, connects refused. The drain
# resumes by itself each time and ends identical.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq python3
new_dir

rounds=1
is_long && rounds=20
size=96M
truncate -s $size "$T/far"
# The delay keeps requests on their way, for the faults to meet; the cache
# loses at kill -9 what was not flushed.
start_nbdkit far --filter=delay --filter=cache file "$T/far" wdelay=20ms \
    cache=writeback
start_proxy link far
new_store $size "$(uri link)"
"$WEIR" set "$STORE" request-deadline=1 # quarantines of 4 s
mount_store

sent_more_than() { # BYTES
    [ "$(status '.disks[0].sent_bytes')" -gt "$1" ]
}

# Wait until the drain has got on by a megabyte, so that the fault is in it.
gets_on() {
    local now
    now=$(status '.disks[0].sent_bytes')
    await 30 sent_more_than $((now + (1 << 20)))
}

for ((round = 1; round <= rounds; round++)); do
    "$WEIR" set "$STORE" bwlimit=12M # 8 s for all that follows
    dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=96 conv=notrunc,fsync \
        status=none
    gets_on
    proxy link drop
    gets_on
    proxy link refuse
    await 10 status_is '.disks[0].target_state' offline
    proxy link pass
    gets_on
    kill_server far
    answers_within 1 "$WEIR" status "$STORE" --json
    dd if=/dev/urandom of="$MNT/vda.raw" bs=64k count=32 conv=notrunc,fsync \
        status=none
    restart_server far
    "$WEIR" set "$STORE" bwlimit=0
    drain_store
    status_is .dirty_bytes 0 || fail "dirty: $(status .dirty_bytes)"
    assert_same "$MNT/vda.raw" "$(uri far)"
done
umount_store
