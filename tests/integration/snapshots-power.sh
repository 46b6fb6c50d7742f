#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The store's file system loses its power under stamped writers, with a snapshot
# being made, one being deleted, and copies for others being kept. Each one whose
# making had returned is there, and is what it was; the one under way is there and
# of its instant, or not at all; one whose deletion had returned stays away. The
# targets, outside, still come to be the snapshots.
. "$(dirname "$0")/functions.sh"
requires root fuse weir loop nbdkit qemu-img jq mkfs.ext4 mkfs.xfs mkfs.btrfs
. "$tests_dir/integration/crashes.sh"
new_dir
disks='vda vdb'
. "$tests_dir/integration/snapshot-rig.sh"

types=${WEIR_TEST_FS:-ext4 xfs btrfs}
cuts=4
is_long && cuts=300
cuts=${WEIR_TEST_CUTS:-$cuts}

one_cut() {
    begin_round
    cut_power
    wait "$creator" "$deleter" || true
    await_writer vda
    await_writer vdb
    is_sound
    mount_store
    judge_round
    for disk in vda vdb; do
        verify_stamps $disk "$MNT/$disk.raw" -A
    done
    # What one cut has kept for them the next ones have to leave.
    ((round % 4)) || end_old_ones
    end_round
}

# k and all else, but for the oldest and the youngest.
end_old_ones() {
    local name
    for name in $("$WEIR" snapshot list "$STORE" --json |
        jq -r '.snapshots[1:-1][].name | select(startswith("k"))'); do
        delete "$name" 0
        forget "$name"
        all_are_kept
    done
}

run_fs() { # TYPE
    new_fs "$1" 512M
    STORE=$FS/store
    for disk in $disks; do
        rm -f "$T/$disk.far"
        truncate -s 8M "$T/$disk.far"
    done
    "$WEIR" create "$STORE/vda" --size 8M --target "$(slow vda)"
    "$WEIR" create "$STORE/vdb" --size 3M --cluster-size 16K \
        --target "$(slow vdb)"
    "$WEIR" set "$STORE" cut-interval=1 request-deadline=1 \
        "on-cut=$T/on-cut"
    mount_store
    for ((round = 1; round <= cuts; round++)); do
        one_cut
    done
    create last 0
    await 60 is_pinned last
    pins_are_snapshots
    umount_store
    is_sound
    detach_fs
    kept=()
    rm -f "$T"/*.stamps "$T"/sums/* "$T"/pins/* "$fs_image"
    : >"$T/pinned"
}

for type in $types; do
    began=$SECONDS
    run_fs "$type"
    say "seed $seed: $type: $cuts cuts in $((SECONDS - began)) s;" \
        "so far $judged snapshots of one instant, $compared sums the same," \
        "$pinned were the targets"
done
