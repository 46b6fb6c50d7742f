#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The mounted disk behaves as a plain file does, request by request, also for
# requests of 1 or 512 bytes at odd places with O_DIRECT, whatever the block
# size of the disk that the store lies on: 512 bytes, 4096 (4Kn), ext4, xfs.
#   SEED=N block-sizes.sh repeats a run
. "$(dirname "$0")/functions.sh"
requires root fuse weir loop mkfs.xfs mkfs.ext4 nbdkit qemu-img
exercise=$(tool exercise)
new_dir
seed=${SEED:-$(date +%s)}
rounds=1
ops=2500
is_long && rounds=10 ops=20000
maps=()
kernel_is_at_least 6.6 || maps=(-M)

on_filesystem() { # TYPE BLOCK-SIZE
    local place=$T/$1-$2 round
    mount_loop "$1" 512M "$place" -b "$2"
    STORE=$place/store
    start_nbdkit "$1-$2" memory 24M
    new_store 24M "$(uri "$1-$2")"
    mount_store
    truncate -s 24M "$T/shadow"
    for ((round = 0; round < rounds; round++)); do
        "$exercise" -s $((seed + round)) -n $ops -d "${maps[@]}" \
            "$MNT/vda.raw" "$T/shadow" >"$T/exercise.log" ||
            fail "$1 on $2-byte blocks: $(cat "$T/exercise.log")"
        # Neighbouring sectors of one block, by eight writers at a time.
        "$exercise" -s $((seed + round)) -n $((ops / 10)) -t 8 -d \
            "$MNT/vda.raw" "$T/shadow" >"$T/exercise.log" ||
            fail "$1 on $2-byte blocks: $(cat "$T/exercise.log")"
        drain_store
        assert_same "$T/shadow" "$(uri "$1-$2")"
    done
    umount_store
    cmp "$T/shadow" "$STORE/vda/disk.raw" || fail "$1-$2: the buffer differs"
    mount_store
    cmp "$T/shadow" "$MNT/vda.raw" || fail "$1-$2: differs after a remount"
    umount_store
    stop_server "$1-$2"
    rm "$T/shadow"
}

say "seed $seed"
on_filesystem ext4 4096
on_filesystem xfs 4096
on_filesystem xfs 512
