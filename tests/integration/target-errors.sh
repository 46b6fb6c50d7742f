#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The target answers EIO: to one request of ten, to all of them for a while,
# to flushes only. Nothing is called clean that was not flushed, the guest
# sees no error, and the drain ends identical once the errors stop.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq
new_dir

size=16M
tells_of_the_error() {
    [ "$(status '.disks[0].target_error')" != null ]
}

fault=$T/fault # errors happen while this file exists
start_target() { # NAME
    case $1 in
    now-and-then) set -- "$1" error-pwrite-rate=10% ;;
    all-writes) set -- "$1" error-pwrite-rate=100% error-zero-rate=100% \
        error-trim-rate=100% ;;
    everything) set -- "$1" error-rate=100% ;;
    all-flushes) # the error filter leaves flushes alone
        truncate -s $size "$T/far"
        start_nbdkit "$1" eval get_size="echo $size" \
            pread="dd if=$T/far iflag=skip_bytes,count_bytes skip=\$4 count=\$3" \
            pwrite="dd of=$T/far oflag=seek_bytes seek=\$4 conv=notrunc" \
            flush="test ! -e $fault || { echo EIO no disk >&2; exit 1; }"
        return
        ;;
    esac
    start_nbdkit "$1" --filter=error memory $size error=EIO \
        error-file="$fault" "${@:2}"
}

run_one() { # NAME
    local name=$1 status=0
    rm -f "$fault"
    start_target "$name"
    new_store $size "$(uri "$name")"
    # A server without extents calls all of it data.
    "$WEIR" set "$STORE/vda" target-accept=overwrite
    mount_store
    touch "$fault"
    dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=16 conv=notrunc,fsync \
        status=none || fail "$name: the guest got an error"
    if [ "$name" != now-and-then ]; then
        await 20 tells_of_the_error
        [ "$(status .dirty_bytes)" -ge $((16 << 20)) ] ||
            fail "$name: $(status .dirty_bytes) dirty: cleared unflushed"
        "$WEIR" drain "$STORE" --wait --timeout 1s >"$T/out" 2>"$T/err" ||
            status=$?
        [ "$status" -eq 124 ] || fail "$name: drain ended with $status"
        answers_within 1 "$WEIR" status "$STORE" --json
        rm "$fault"
    fi
    drain_store
    assert_same "$MNT/vda.raw" "$(uri "$name")"
    umount_store
    rm -rf "$STORE"
    stop_server "$name"
}

for name in now-and-then all-writes all-flushes everything; do
    run_one $name
    say "$name: identical"
done
