#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A backup is the disk at the instant at which it began, whatever is written
# while it runs, and however slow its target is: all of it, what a bitmap names,
# or (sync=none) what is overwritten meanwhile. A snapshot of the same moment is
# the same. The room that it took is free when it is over.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img qemu-io jq
new_dir
. "$tests_dir/integration/crashes.sh"
. "$tests_dir/integration/jobs-rig.sh"

m=1048576
old_patterns() {
    disk_io 'write -P 0x5d 0 64k' "write -P 0xd5 $m 64k" \
        "write -P 0xdc $((32 * m)) 64k" "write -P 0xcd $((64 * m - grain)) 64k"
}
overwrite() {
    disk_io 'write -P 0xab 0 64k' "write -P 0xad $((m - 32768)) 64k" \
        "write -P 0x1d $((32 * m + 32768)) 64k" \
        "write -P 0xea $((64 * m - 2 * grain)) 64k" \
        "discard $((40 * m)) 2m" "write -z $((44 * m)) 100k"
}

# What is at those places in an image, with what is beside it.
has_old_patterns() { # IMAGE
    qemu-io -r -f raw -c 'read -P 0x5d 0 64k' \
        -c "read -P 0 $((m - 32768)) 32k" -c "read -P 0xd5 $m 64k" \
        -c "read -P 0xdc $((32 * m)) 64k" \
        -c "read -P 0 $((32 * m + grain)) 64k" \
        -c "read -P 0 $((64 * m - 2 * grain)) 64k" \
        -c "read -P 0xcd $((64 * m - grain)) 64k" "$1" >"$T/io" 2>&1 &&
        ! grep -qi 'failed\|error' "$T/io"
}

"$WEIR" create "$STORE/vdb" --size 8M >>"$T/weir.log"
new_job_store
fill_disk 4 40
old_patterns
copy_disk "$T/want"
has_old_patterns "$T/want" || fail "the patterns: $(cat "$T/io")"

# Slow, overwritten meanwhile, fast (A18); as a snapshot has it.
fresh far
backup j "$T/far" full speed=65536
await_job j running
"$WEIR" snapshot create "$STORE" same >>"$T/weir.log"
"$WEIR" snapshot list "$STORE" --json | jq -r '.snapshots[].name' >"$T/out"
[ "$(cat "$T/out")" = same ] || fail "snapshots: $(paste -sd ' ' "$T/out")"
! ls "$MNT/.snapshots" | grep -qvE '^(same|latest|uploaded)$' ||
    fail "in the mount: $(ls "$MNT/.snapshots")"
overwrite
overwrite
has_old_patterns "$MNT/.snapshots/same/vda.raw" || fail 'the snapshot: not old'
qmp block-job-set-speed device=j speed=0
await_job j none
ended_as j completed
assert_same "$T/want" "$T/far"
assert_same "$MNT/.snapshots/same/vda.raw" "$T/far"
"$WEIR" snapshot delete "$STORE" same >>"$T/weir.log"

# Under load all the way: by the stamps, nothing that was acknowledged before is
# missing, nothing issued after is there, no sector is older than its neighbours
# may be.
disk=vdb
start_writer vdb "$MNT/vdb.raw" -t 4 -b 512-131072 -p 8
for round in 1 2 3; do
    rm -f "$T/far"
    truncate -s 8M "$T/far"
    forget_events
    cp "$T/vdb.stamps" "$T/vdb.before"
    backup j "$T/far" full speed=$((4 << 20))
    await_job j running
    cp "$T/vdb.stamps" "$T/vdb.after"
    await_job j none
    ended_as j completed
    "$stamp" verify -b "$T/vdb.before" "$T/far" "$T/vdb.after" \
        >"$T/judge.log" 2>&1 || fail "seed $seed: $(tail -n 2 "$T/judge.log")"
done
kill "${writer_pid[vdb]}"
wait "${writer_pid[vdb]}" || fail 'the guest has seen an error'
disk=vda

# What a bitmap names (A17): nothing else reaches the target.
old_patterns
add_bitmap b
old_patterns
copy_disk "$T/want"
fresh far
backup j "$T/far" bitmap bitmap=b bitmap-mode=never speed=65536
await_job j running
overwrite
qmp block-job-set-speed device=j speed=0
await_job j none
ended_as j completed
for at in 0 16 512 1023; do
    cmp -i $((at * grain)) -n $grain "$T/want" "$T/far" || fail "grain $at"
done
[ "$(du -k "$T/far" | cut -f 1)" -le 260 ] ||
    fail "$(du -k "$T/far" | cut -f 1) KiB for four grains"

# sync=none (A16): what was there before each first overwrite, and it goes on.
has_copied() { # GRAIN…: it is in the image as it was
    local at
    for at; do
        cmp -s -i $((at * grain)) -n $grain "$T/want" "$T/far" || return 1
    done
}
fill_disk 4
copy_disk "$T/want"
fresh far
backup j "$T/far" none
await_job j running
for pattern in 0x71 0x72; do
    write_grains $pattern 3 9+2
    await 20 has_copied 3 9 10
done
write_grains 0x73 50
await 20 has_copied 3 9 10 50
job_is j running || fail "sync=none ended: $(job_field .status j)"
[ "$(du -k "$T/far" | cut -f 1)" -le 260 ] ||
    fail "$(du -k "$T/far" | cut -f 1) KiB for four grains"
# What it has and what it has not is the disk of that instant.
dd if="$MNT/vda.raw" of="$T/merged" bs=1M status=none
for at in 3 9 10 50; do
    dd if="$T/far" of="$T/merged" bs=$grain skip=$at seek=$at count=1 \
        conv=notrunc status=none
done
assert_same "$T/want" "$T/merged"
job cancel j
await_job j none
ended_as j cancelled

# Nothing is kept for a job that is over.
nothing_is_kept() {
    [ -z "$(find "$STORE/snapshots" "$STORE"/vda/points "$STORE"/vda/jobs \
        -type f 2>/dev/null)" ]
}
await 20 nothing_is_kept
umount_store
"$WEIR" check "$STORE" >"$T/out" || fail "check: $(cat "$T/out")"
