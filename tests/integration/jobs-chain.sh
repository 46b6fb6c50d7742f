#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The way of the thread of 2019, with QEMU's own tools at the far side: an image
# there, exported by qemu-nbd; a bitmap here; a full backup into it; incremental
# ones, each into an overlay of the one before; one more overlay, and a mirror
# that the bitmap limits into it. The chain is the disk, before and after it is
# committed, and the mirror has sent what the bitmap had, not more.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img qemu-nbd qemu-io jq python3
. "$tests_dir/integration/crashes.sh"
new_dir
. "$tests_dir/integration/jobs-rig.sh"

# The image NAME, on top of BACKING, is what the disk is written to from now on.
export_image() { # NAME [BACKING]
    qemu-img create -q -f qcow2 ${2:+-b "$T/$2" -F qcow2} "$T/$1" 64M
    start_qemu_nbd qemu qcow2 "$T/$1"
}

is_the_disk() { # IMAGE
    qemu-img compare -q -f raw -F qcow2 "$MNT/vda.raw" "$T/$1" \
        >"$T/compare" 2>&1 || fail "$1 is not the disk: $(cat "$T/compare")"
}

# Scattered, and some of it gone or zero again.
guest_works() { # ROUND
    local i words=()
    for ((i = 0; i < 20; i++)); do
        words+=("write -P 0x$((10 + $1)) $((RANDOM % 16000 * 4096)) 20k")
    done
    disk_io "${words[@]}" "discard $(($1 * 3 << 20)) 192k" \
        "write -z $((($1 * 3 + 1) << 20)) 100k"
}

bytes_of() { # BITMAP
    "$WEIR" bitmap list "$STORE/vda" --json >"$T/bitmaps" || fail 'bitmap list'
    bitmap_field .count "$1"
}

new_job_store
fill_disk 24
fill_disk 4 56

# 1, 2, 3: an image, a bitmap and a full backup
export_image full
"$WEIR" bitmap add "$STORE/vda" b
"$WEIR" backup "$STORE/vda" --to "$(uri qemu)" --sync full --wait \
    >>"$T/weir.log" || fail 'the full backup'
stop_server qemu
is_the_disk full

# 4: incremental backups
below=full
for round in 1 2 3; do
    guest_works $round
    export_image inc$round $below
    "$WEIR" backup "$STORE/vda" --to "$(uri qemu)" --sync incremental \
        --bitmap b --job-id inc$round --wait >>"$T/weir.log" ||
        fail "incremental $round"
    stop_server qemu
    is_the_disk inc$round
    [ "$(bytes_of b)" -eq 0 ] || fail "after incremental $round: $(bytes_of b)"
    below=inc$round
done

# 5, 6: one more overlay; what the bitmap has, and what comes while it runs
mirror_into() { # IMAGE BACKING SYNC; what was sent, and asked for, in bytes
    export_image "$1" "$2"
    rm -f "$T/front.requests"
    start_nbdkit front --filter=log nbd socket="$T/qemu.sock" \
        logfile="$T/front.requests"
    wanted=$(bytes_of b)
    [ "$wanted" -gt 0 ] || fail 'nothing is dirty'
    "$WEIR" mirror "$STORE/vda" --to "$(uri front)" --sync "$3" --bitmap b \
        --job-id m >>"$T/weir.log" || fail "mirror $3"
    await_job m ready
    await 5 eval '[ "$(block_field ".offset == .len" m)" = true ]'
    written=$(bytes_sent "$T/front.requests")
    written=$((${written% *} + ${written#* }))
}

end_mirror() {
    "$WEIR" job complete "$STORE" m >>"$T/weir.log" || fail 'job complete'
    await_job m none
    stop_server front
    stop_server qemu
}

guest_works 4
mirror_into diff inc3 differential
[ "$written" -eq "$wanted" ] || fail "sent $written bytes, dirty were $wanted"
say "a differential mirror sent $written bytes for $wanted that were dirty"
end_mirror
is_the_disk diff
[ "$(bytes_of b)" -eq "$wanted" ] || fail 'differential, and b has changed'

guest_works 5
mirror_into top inc3 incremental
[ "$written" -eq "$wanted" ] || fail "sent $written bytes, dirty were $wanted"
say "an incremental mirror sent $written bytes for $wanted that were dirty"
# While it is ready it follows.
write_grains 0x77 333+3
end_mirror
written=$(bytes_sent "$T/front.requests")
written=$((${written% *} + ${written#* }))
[ "$written" -le $((wanted + 3 * grain)) ] ||
    fail "sent $written bytes for $((wanted + 3 * grain))"
is_the_disk top
[ "$(bytes_of b)" -eq 0 ] || fail "incremental, and b has $(bytes_of b)"

# Committed, one by one, into the first one
for image in top inc3 inc2 inc1; do
    qemu-img commit -q -f qcow2 "$T/$image" || fail "commit of $image"
done
qemu-img check -q -f qcow2 "$T/full" || fail 'qemu-img check'
is_the_disk full

# ... which is where the next one goes on.
guest_works 6
start_qemu_nbd qemu qcow2 "$T/full"
"$WEIR" backup "$STORE/vda" --to "$(uri qemu)" --sync bitmap --bitmap b \
    --bitmap-mode on-success --wait >>"$T/weir.log" || fail 'after the commit'
stop_server qemu
is_the_disk full
umount_store
