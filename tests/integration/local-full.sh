#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The local file system fills up under a running store. It costs the writes
# that met it their success, and nothing else: syncs, reads, overwriting and
# the drain go on, the store opens again, also after kill -9, and a discard
# makes room. A bitmap goes on recording, and is what it was after a clean end.
. "$(dirname "$0")/functions.sh"
requires root fuse weir loop nbdkit qemu-img jq mkfs.ext4 mkfs.xfs
. "$tests_dir/integration/crashes.sh"
new_dir
far=$T/far

has_room() { # BYTES
    [ "$(df --output=avail -B1 "$FS" | tail -n 1)" -ge "$1" ]
}

# The copies of a cut that is whole give their room back: that is filled, too.
is_told_full() {
    status '.buffer | .used_bytes * 100 / .limit_bytes >= 98' | grep -qx true ||
        { write_on 60 -p 0 -b 65536-262144; false; }
}

recorded_bytes() {
    "$WEIR" bitmap list "$STORE/vda" --json | jq '[.. | .count? // empty] | add'
}

run_full() { # TYPE SIZE [mkfs option…]
    new_fs "$@"
    STORE=$FS/store
    rm -f "$T/vda.stamps" "$far"
    new_store 512M "$far"
    "$WEIR" bitmap add "$STORE/vda" daily --granularity 4K >"$T/weir.log"
    # How long a killed daemon's writes to the target are in doubt.
    "$WEIR" set "$STORE" request-deadline=2
    mount_store
    write_on 1500 -p 0 -b 262144-1048576 -t 12
    expect "$(failed writes)" -gt 0
    grep -q 'No space left' "$T/on.log" || fail "$1: $(tail -n 1 "$T/on.log")"
    write_on 600 -p 0 -b 512-8192
    expect "$(failed writes)" -gt 0
    expect "$(succeeded writes)" -gt 0
    expect "$(failed syncs)" -eq 0
    expect "$(succeeded syncs)" -gt 0
    full=$(failed writes)
    verify_stamps vda "$MNT/vda.raw" -a
    await 10 is_told_full
    drain_store
    assert_same "$MNT/vda.raw" "$far"

    # It opens again: after a clean end, and after none.
    recorded=$(recorded_bytes)
    expect "$recorded" -gt 0
    umount_store
    expect "$(recorded_bytes)" -eq "$recorded"
    mount_store
    verify_stamps vda "$MNT/vda.raw" -a -A
    start_writer vda "$MNT/vda.raw" -e -p 0 -b 512-8192
    random_wait 600
    kill_daemon
    await_writer vda
    mount_store
    verify_stamps vda "$MNT/vda.raw" -a -A

    # A discard makes room, and what is written then is kept.
    write_on 400 -p 100 -P -b 1048576-1048576
    expect "$(failed discards)" -eq 0
    await 20 has_room $((16 << 20))
    write_on 200 -p 0 -b 4096-16384
    expect "$(failed writes)" -eq 0
    verify_stamps vda "$MNT/vda.raw" -a
    drain_store
    assert_same "$MNT/vda.raw" "$far"
    umount_store
    detach_fs
    rm -f "$fs_image"
    say "seed $seed: full $1: $full of 600 writes met it, 0 syncs, opened again"
}

run_full ext4 64M -m 0
run_full xfs 300M
