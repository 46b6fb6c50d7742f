#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The store's file system loses its power at random moments, under stamped
# writers and with a drain running: ext4 and xfs by their ioctl, btrfs by a
# clone of its device. The file system is mounted again, and the store: what
# was fsynced is there, nothing else than what was written is, and the targets
# (outside, one served by weir's own server, one by a server that outlives it)
# become what the disks are.
. "$(dirname "$0")/functions.sh"
requires root fuse weir loop nbdkit qemu-nbd qemu-img jq mkfs.ext4 mkfs.xfs mkfs.btrfs
. "$tests_dir/integration/crashes.sh"
new_dir

types=${WEIR_TEST_FS:-ext4 xfs btrfs}
cuts=3
is_long && cuts=1000
cuts=${WEIR_TEST_CUTS:-$cuts}
disk_bytes=$((48 << 20))

disk_is_clean() { # INDEX
    status_is ".disks[$1].dirty_bytes" 0
}

one_cut() {
    start_writer vda "$MNT/vda.raw" -t 8 -f $((4 + RANDOM % 200))
    start_writer vdb "$MNT/vdb.raw" -t 4 -f 4 -b 512-65536 -d 2
    ((round % 3 == 0)) || await_sending "$T/far-a.requests"
    random_wait 800
    cut_power
    await_writer vda
    await_writer vdb
    rm -f "$T/far-a.requests"
    mount_store
    verify_stamps vda "$MNT/vda.raw" -A
    verify_stamps vdb "$MNT/vdb.raw" -A
    await 60 disk_is_clean 0
    assert_same "$MNT/vda.raw" "$T/far-a"
    # What is in doubt at the other waits for the end of its quarantine.
    if ((round == cuts || round % 20 == 0)); then
        drain_store
        assert_same "$MNT/vda.raw" "$T/far-a"
        assert_same "$MNT/vdb.raw" "$(uri far-b)"
    fi
}

run_fs() { # TYPE
    new_fs "$1" 512M
    STORE=$FS/store
    # nbdkit 1.32 may abort when its client dies; this one has to stay.
    truncate -s 16M "$T/far-b"
    start_qemu_nbd far-b raw "$T/far-b"
    new_store $disk_bytes "$(logged_target "$T/far-a" 20ms)"
    "$WEIR" create "$STORE/vdb" --size 16M --target "$(uri far-b)" \
        >>"$T/weir.log"
    "$WEIR" set "$STORE" request-deadline=1 >>"$T/weir.log"
    mount_store
    for ((round = 1; round <= cuts; round++)); do
        one_cut
    done
    umount_store
    detach_fs
    stop_server far-b
    rm -f "$T"/*.stamps "$T"/far-[ab] "$fs_image"
}

for type in $types; do
    began=$SECONDS
    taken=0
    run_fs "$type"
    say "seed $seed: $type: $cuts cuts in $((SECONDS - began)) s took $taken" \
        "acknowledged unsynced sectors, 0 fsynced ones; targets identical"
done
