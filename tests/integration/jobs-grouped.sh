#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Two backups of one transaction, of one instant. One of them fails: the other
# one completes, or with completion-mode=grouped neither does and both bitmaps
# are what they were; the next ones lead to the disk. One that stops at errors
# goes on when it is told to.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img qemu-io jq
new_dir
. "$tests_dir/integration/jobs-rig.sh"

# Jobs good and bad, with the bitmaps of these names.
both_backups() { # COMPLETION-MODE [MEMBER-OF-THE-BAD-ONE]
    jq -cn --arg far "$T/good" --arg bad "$(uri bad)" --arg mode "$1" \
        --argjson more "${2:-{\}}" '
        {properties: {"completion-mode": $mode}, actions: [
            {type: "blockdev-backup", data: {"job-id": "good", device: "vda",
                target: $far, sync: "incremental", bitmap: "good"}},
            {type: "blockdev-backup", data: ({"job-id": "bad", device: "vda",
                target: $bad, sync: "incremental", bitmap: "bad"} + $more)}]}'
}

await_both() { # STATUS|none
    await_job good "$1"
    await_job bad "$1"
}

# Copies of the disk, bitmaps that say what was written since, a fault.
begin() {
    forget_events
    copy_disk "$T/good"
    cp --sparse=always "$T/good" "$T/bad"
    for name in good bad; do
        ! grains_of $name | grep -q . || bitmap remove $name
        add_bitmap $name
    done
    write_grains "$1" 0 15.5 512.5 1022
    has_grains good 6
    has_grains bad 6
    copy_disk "$T/want"
}

recover() { # GRAINS-OF-GOOD GRAINS-OF-BAD
    has_grains good "$1"
    has_grains bad "$2"
    rm -f "$T/bad.fault"
    run_backup good "$T/good" incremental bitmap=good
    run_backup bad "$(uri bad)" incremental bitmap=bad
    assert_same "$MNT/vda.raw" "$T/good"
    assert_same "$MNT/vda.raw" "$T/bad"
}

new_job_store
new_image bad
start_faulty bad write

begin 0x21
touch "$T/bad.fault"
qmp transaction "$(both_backups individual)"
write_grains 0x31 100+2
await_both none
ended_as good completed
ended_as bad '*Input/output error*'
assert_same "$T/want" "$T/good"
recover 2 8

begin 0x22
touch "$T/bad.fault"
qmp transaction "$(both_backups grouped)"
write_grains 0x32 200+2
await_both none
ended_as good cancelled
ended_as bad '*Input/output error*'
recover 8 8

# All well: both are of one instant. What waits for the others is not over.
begin 0x23
touch "$T/bad.fault"
qmp transaction "$(both_backups grouped '{"on-target-error": "stop"}')"
write_grains 0x33 300+2
await_job bad paused
await_job good waiting
[ "$(block_field '.["io-status"]' bad)" = failed ] ||
    fail "io-status $(block_field '.["io-status"]' bad)"
has_event '.event == "BLOCK_JOB_ERROR" and .data.device == "bad" and
    .data.operation == "write" and .data.action == "stop"' || fail 'no event'
rm "$T/bad.fault"
job resume bad
await_both none
ended_as good completed
ended_as bad completed
assert_same "$T/want" "$T/good"
assert_same "$T/want" "$T/bad"
recover 2 2

# One of them is cancelled: so is the other one.
begin 0x24
touch "$T/bad.fault"
qmp transaction "$(both_backups grouped '{"on-target-error": "stop"}')"
await_job bad paused
job cancel bad
await_both none
ended_as good cancelled
ended_as bad cancelled
recover 6 6

# An order that cannot begin begins none.
qmp_refused '*' transaction "$(both_backups grouped '{"bitmap": "unknown"}')"
is_no_job good || fail 'one of two began'
has_grains good 0
bitmap clear good
umount_store
