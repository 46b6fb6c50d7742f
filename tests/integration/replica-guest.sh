#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The host burns, with a guest at work on ext4, xfs and btrfs: what the far side
# has kept of the last whole cut is a disk that a power cut could have left. Each
# file system mounts, which is its journal's replay, is sound, and holds every
# file whose fsync had returned before the cut. At last the steps of
# contrib/docs/restore.md: a new store from the copy, and a guest on it.
# The long tier has 500 fires. That the judge can see is replica-none.sh's to
# show. A seed as argument repeats the random part.
. "$(dirname "$0")/functions.sh"
requires root fuse loop weir jq qemu-nbd qemu-img qemu-system-x86_64 busybox \
    cpio stdbuf python3 mkfs.ext4 mkfs.xfs mkfs.btrfs e2fsck \
    xfs_repair btrfs
new_dir
seed=${1:-$RANDOM}
RANDOM=$seed
rounds=4
is_long && rounds=500
. "$tests_dir/integration/replica-rig.sh"

one_fire() { # ROUND
    local kept wrong files place='on its way'
    start_host on-cut="$top_dir/contrib/hooks/reflink-copy '$T/far/cuts' \
        '$T/far/vda' && echo \$WEIR_CUT \$WEIR_TIME >'$T/far/note'"
    await 120 has_kept_load
    await 120 has_synced $((5 + RANDOM % 10))
    read -r -t "0.$((RANDOM % 900))" <> <(:) || true # anywhere in a cut
    burn_host
    stop_server far
    kept=$(last_kept)
    wrong=$(judge "$kept/vda" "$(when_kept "$kept")") ||
        fail "seed $seed, fire $1, ${kept##*/}: $wrong"
    # What the page says of a far side that keeps nothing.
    if [ "$T/far/note" -nt "$T/far/vda" ]; then
        wrong=$(judge "$T/far/vda" "$(when_kept "$kept")") ||
            fail "seed $seed, fire $1, in place by the note: $wrong"
        assert_same "$kept/vda" "$T/far/vda"
        place='at rest'
    fi
    files=$(grep -c 'guest: synced' "$T/guest.stamped")
    say "fire $1: ${kept##*/} is sound, the far side was $place ($files synced)"
}

# contrib/docs/restore.md, from the copy to a guest.
test_restore() {
    local kept
    kept=$(last_kept)
    cp --reflink=auto "$kept/vda" "$T/far/restored"
    start_qemu_nbd far raw "$T/far/vda"
    "$WEIR" create "$STORE/vda" --from "$T/far/restored" \
        --target "$(uri far)" >>"$T/weir.log" 2>&1 || fail 'create'
    "$WEIR" set "$STORE/vda" target-accept=same
    mount_store
    "$tests_dir/guest/run-guest" "$guest" "$tests_dir/guest/job-load-verify" \
        "$MNT/vda.raw" >"$T/verify.log" 2>&1 || fail 'the guest on the copy'
    drain_store
    assert_same "$MNT/vda.raw" "$(uri far)"
    status_is .consistent.in_place true || fail "$(status .consistent)"
    umount_store
    stop_server far
    rm -rf "$STORE"
    say 'a new store from the copy; a guest runs on it, the far side follows'
}

for ((round = 1; round <= rounds; round++)); do
    one_fire "$round"
done
test_restore
