#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The target answers EIO: to one request of ten, to all of them for a while,
# to flushes only. Nothing is called clean that was not flushed, the guest
# sees no error, and the drain ends identical once the errors stop.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq
new_dir

size=64M
tells_of_the_error() {
    [ "$(status '.disks[0].target_error')" != null ]
}

fault=$T/fault # errors happen while this file exists
while read -r name options; do
    rm -f "$fault"
    # shellcheck disable=SC2086
    start_nbdkit "$name" --filter=error memory $size error=EIO \
        error-file="$fault" $options
    new_store $size "$(uri "$name")"
    mount_store
    touch "$fault"
    dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=64 conv=notrunc,fsync \
        status=none || fail "$name: the guest got an error"
    if [ "$name" != now-and-then ]; then
        await 20 tells_of_the_error
        [ "$(status .dirty_bytes)" -eq $((64 << 20)) ] ||
            fail "$name: $(status .dirty_bytes) dirty: cleared unflushed"
        status=0
        "$WEIR" drain "$STORE" --wait --timeout 1s >"$T/out" 2>"$T/err" ||
            status=$?
        [ "$status" -eq 124 ] || fail "$name: drain ended with $status"
        answers_within 1 "$WEIR" status "$STORE" --json
    fi
    [ "$name" = now-and-then ] || rm "$fault"
    drain_store
    assert_same "$MNT/vda.raw" "$(uri "$name")"
    umount_store
    rm -rf "$STORE"
    stop_server "$name"
done <<'END'
now-and-then error-pwrite-rate=10%
all-writes error-pwrite-rate=100% error-zero-rate=100% error-trim-rate=100%
all-flushes error-rate=0% error-flush=EIO error-flush-rate=100%
everything error-rate=100%
END
