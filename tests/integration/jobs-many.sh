#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Several jobs at once on one disk, each to a target of its own, beside the
# relay and a snapshot, while the guest writes: mirrors end as the disk, backups
# as the instant at which each began, the relay's target as the disk, bitmaps
# with what was written since; and over a kill -9 of it all.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img qemu-io jq
. "$tests_dir/integration/crashes.sh"
new_dir
. "$tests_dir/integration/jobs-rig.sh"

rounds=2
is_long && rounds=30
disk_bytes=$((24 << 20))

# By the stamps: IMAGE is the disk at one instant between the two copies of the
# log.
is_of_instant() { # IMAGE NAME
    "$stamp" verify -b "$T/$2.before" "$1" "$T/$2.after" >"$T/judge.log" 2>&1 ||
        fail "seed $seed: $2: $(tail -n 2 "$T/judge.log")"
}

start_writing() {
    start_writer vda "$MNT/vda.raw" -t 6 -b 512-131072 -p 8
}

end_writing() {
    kill "${writer_pid[vda]}"
    wait "${writer_pid[vda]}" || fail "seed $seed: the guest has seen an error"
    not_on_exit "kill -9 ${writer_pid[vda]}"
}

begin_backup() { # NAME [NAME=VALUE…]
    cp "$T/vda.stamps" "$T/$1.before"
    backup "$1" "$T/$1" "${@:2}"
    await 20 eval "job_is $1 running || is_no_job $1"
    cp "$T/vda.stamps" "$T/$1.after"
}

# One with the same content as the disk has it now, and a bitmap from then on.
await_end() { # NAME
    await_job "$1" none
    ended_as "$1" completed
}

new_image relay
new_job_store --target "$T/relay"
"$WEIR" set "$STORE" cut-interval=1 >>"$T/weir.log"
start_writing
for ((round = 1; round <= rounds; round++)); do
    forget_events
    new_image b1 b2 b3 m1 m2
    ! grains_of inc | grep -q . || bitmap remove inc
    add_bitmap inc
    mirror m1 "$T/m1" full
    begin_backup b1 full speed=$((8 << 20))
    mirror m2 "$T/m2" top speed=$((12 << 20))
    cp "$T/vda.stamps" "$T/s.before"
    "$WEIR" snapshot create "$STORE" s$round >>"$T/weir.log"
    cp "$T/vda.stamps" "$T/s.after"
    begin_backup b2 full bitmap=inc bitmap-mode=on-success
    begin_backup b3 top
    is_of_instant "$MNT/.snapshots/s$round/vda.raw" s
    if ((round % 2 == 0)); then
        # All killed in the midst of it.
        kill_daemon
        await_writer vda
        mount_store
        # From what is there the log goes on.
        verify_stamps vda "$MNT/vda.raw" -a -A
        start_writing
    fi
    for name in b1 b2 b3; do
        await_end $name
        is_of_instant "$T/$name" $name
    done
    qmp block-job-set-speed device=m2 speed=0
    await_job m1 ready
    await_job m2 ready
    end_writing
    job complete m1
    soft_cancel m2
    await_end m1
    await_end m2
    assert_same "$MNT/vda.raw" "$T/m1"
    assert_same "$MNT/vda.raw" "$T/m2"
    drain_store
    assert_same "$MNT/vda.raw" "$T/relay"
    is_of_instant "$MNT/.snapshots/s$round/vda.raw" s
    # What b2's bitmap says was written since it: with that b2 is the disk.
    run_backup b2 "$T/b2" incremental bitmap=inc
    assert_same "$MNT/vda.raw" "$T/b2"
    "$WEIR" snapshot delete "$STORE" s$round >>"$T/weir.log"
    start_writing
done
end_writing
umount_store
"$WEIR" check "$STORE" >"$T/out" || fail "check: $(cat "$T/out")"
say "seed $seed: $rounds rounds of five jobs, the relay and a snapshot"
