#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The local disk fails. A failed sync freezes the disk for writes, loudly, and
# none is acknowledged any more even when the device works again; reads and
# uploads go on. After a remount everything that was fsynced is there.
. "$(dirname "$0")/functions.sh"
requires root fuse weir loop nbdkit nbdfuse qemu-img jq mkfs.ext4
. "$tests_dir/integration/crashes.sh"
new_dir
far=$T/far

# The file system lies on a device that fails while this exists.
fault=$T/fault

failing_device() { # nbdkit word…
    mkdir -p "$T/device"
    truncate -s 128M "$T/platter"
    mkfs.ext4 -q "$T/platter"
    nbdfuse "$T/device/disk" --command nbdkit -s "$@" >>"$T/device.log" 2>&1 &
    device_pid=$!
    on_exit "kill $device_pid; fusermount3 -uz '$T/device'"
    await 10 test -e "$T/device/disk"
    fs_type=ext4
    FS=$T/fs
    fs_image=$T/device/disk
    mkdir -p "$FS"
    attach_fs
}

end_device() {
    fusermount3 -u "$T/device"
    await 10 is_gone $device_pid
    wait $device_pid || true
    not_on_exit "kill $device_pid; fusermount3 -uz '$T/device'"
}

is_frozen() {
    status_is '.disks[0].frozen' true
}

is_refused() {
    ! dd if=/dev/zero of="$MNT/vda.raw" bs=4k count=1 seek=3 oflag=direct \
        conv=notrunc status=none 2>"$T/err" &&
        ! sync "$MNT/vda.raw" 2>>"$T/err"
}

# With an unclean end: there is nothing that could be ended cleanly.
leave() {
    "$WEIR" umount "$MNT" >>"$T/weir.log" 2>&1 || true
    await 20 eval '! is_mounted && [ -z "$(daemon_pid)" ]'
}

run_failing() { # NAME nbdkit word…
    local syncs i
    failing_device "${@:2}"
    STORE=$FS/store
    rm -f "$T/vda.stamps" "$far"
    new_store 16M "$far"
    "$WEIR" set "$STORE" request-deadline=2 >>"$T/weir.log"
    mount_store
    # The first half has all its blocks: there only data is written from now
    # on. What is written to the other one now needs the journal to last.
    for ((i = 0; i < 8; i++)); do
        write_on 1 -p 0 -b 1048576-1048576 -r $((i << 20))+1048576
    done
    "$WEIR" pause "$STORE" >>"$T/weir.log"
    write_on 200 -p 0 -b 512-65536 -r 0+8388608
    expect "$(failed writes)" -eq 0
    [ "$1" = flush ] || write_on 50 -p 0 -f 0 -b 512-65536 -r 8388608+8388608
    touch "$fault"
    write_on 60 -p 0 -b 512-65536 -f 3 -t 4 -r 0+8388608
    expect "$(failed syncs)" -gt 0
    syncs=$(failed syncs)
    await 10 is_frozen
    "$WEIR" status "$STORE" | grep -q FROZEN || fail "$1: status is silent"
    rm "$fault"
    # The device is well again; no sync is believed any more.
    write_on 60 -p 0 -b 512-65536 -f 3 -t 4
    expect "$(succeeded writes)" -eq 0
    expect "$(succeeded syncs)" -eq 0
    is_refused || fail "$1: a write or a sync after a failed sync"
    verify_stamps vda "$MNT/vda.raw"
    "$WEIR" resume "$STORE" >>"$T/weir.log"
    if [ "$1" = flush ]; then
        drain_store
        assert_same "$MNT/vda.raw" "$far"
    fi
    leave
    detach_fs
    attach_fs
    mount_store
    verify_stamps vda "$MNT/vda.raw" -A
    write_on 60 -p 0 -b 512-65536
    expect "$(failed writes)" -eq 0
    drain_store
    assert_same "$MNT/vda.raw" "$far"
    umount_store
    detach_fs
    end_device
    say "seed $seed: failing $1: $syncs syncs failed, frozen, 0 lost"
}

# ext4's journal is aborted, the file system is read-only from then on.
run_failing write --filter=error file "$T/platter" error=EIO \
    error-pwrite-rate=100% error-file="$fault"
# Flushes only: the file system goes on and has told one sync of it.
run_failing flush eval get_size='echo 134217728' can_write='exit 0' \
    can_flush='exit 0' thread_model='echo serialize_requests' \
    pread="dd if=$T/platter iflag=skip_bytes,count_bytes skip=\$4 count=\$3 bs=1M status=none" \
    pwrite="dd of=$T/platter oflag=seek_bytes seek=\$4 bs=1M conv=notrunc status=none" \
    flush="test ! -e $fault || { echo EIO no disk >&2; exit 1; }"
