#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Errors of a mirror's target and of the local disk, by each policy: reported,
# ignored, stopped at, and gone on from; a target that is full, one that cannot
# flush, one that is killed and comes back, or does not. Numbers in brackets:
# QEMU's tests of the same.
. "$(dirname "$0")/functions.sh"
requires root fuse loop weir nbdkit nbdfuse losetup mkfs.ext4 qemu-img \
    qemu-io jq
new_dir
. "$tests_dir/integration/jobs-rig.sh"

ask=("$tests_dir/tools/qmp" "$STORE/control.sock")
new_job_store
fill_disk 6
fill_disk 3 40

#
# Errors of the target: reported, ignored, stopped at (041)
#
new_image bad
start_faulty bad write

begin_bad() { # POLICY
    rm -f "$T/bad.fault"
    new_image bad
    # The server has the old file.
    stop_server bad
    start_faulty bad write
    forget_events
    touch "$T/bad.fault"
    mirror m "$(uri bad)" full on-target-error="$1"
}

begin_bad report
await_job m none
ended_as m '*Input/output error*'
met_error write report || fail 'no event'
! has_event '.event == "BLOCK_JOB_READY"' || fail 'ready, in spite of it'

begin_bad ignore
await 10 met_error write ignore
rm "$T/bad.fault"
await_job m ready
ends_well m "$T/bad"

begin_bad stop
await_job m paused
met_error write stop || fail 'no event'
[ "$(block_field '.["io-status"]' m)" = failed ] || fail 'io-status'
answers_within 1 "${ask[@]}" query-jobs
rm "$T/bad.fault"
job resume m
await_job m ready
[ "$(block_field '.["io-status"]' m)" = ok ] || fail 'io-status, well again'
ends_well m "$T/bad"

# Once ready, and cancelled while it stands (229).
begin_bad stop
await_job m paused
cancel_is cancelled block-job-cancel device=m force=true

rm -f "$T/bad.fault"
mirror m "$(uri bad)" none on-target-error=stop
await_job m ready
forget_events
touch "$T/bad.fault"
write_grains 0x21 30
await_job m standby
cancel_is cancelled job-cancel id=m

# Full (248): it stands, there is room again, it goes on.
rm -f "$T/room"
full_target() {
    start_nbdkit full --filter=error file "$T/full" error=ENOSPC \
        error-pwrite-rate=100% error-file="$T/full.fault"
}
fresh full
touch "$T/full.fault"
full_target
mirror m "$(uri full)" full on-target-error=enospc
await_job m paused
[ "$(block_field '.["io-status"]' m)" = nospace ] ||
    fail "full: io-status $(block_field '.["io-status"]' m)"
rm "$T/full.fault"
job resume m
await_job m ready
ends_well m "$T/full"

#
# A flush fails once it is ready (mirror-ready-cancel-error)
#
flush_fails() { # PATTERN: another one, or nothing is sent
    forget_events
    new_image flush
    start_faulty flush flush
    mirror m "$(uri flush)" top on-target-error=stop
    await_job m ready
    touch "$T/flush.fault"
    write_grains $1 40
    await_job m standby
    met_error write stop || fail 'no event'
}
flush_fails 0x31
rm "$T/flush.fault"
soft_cancel m || true
job resume m
await_job m none
ended_as m completed
stop_server flush
flush_fails 0x32
cancel_is cancelled block-job-cancel device=m force=true
stop_server flush

#
# A target that is killed and comes back (264)
#
fresh far
start_nbdkit far file "$T/far"
mirror m "$(uri far)" top speed=$((1 << 20))
await 10 offset_is_beyond $((1 << 20))
kill_server far
job_is m running || fail "its target died, and it is $(job_field .status m)"
qmp block-job-set-speed device=m speed=0
restart_server far
await_job m ready
ends_well m "$T/far"
[ "$(last_event '.offset == .len')" = true ] || fail "$(last_event .)"

# ... or does not: whoever cancels it has an answer.
fresh far
stop_server far
start_nbdkit far file "$T/far"
mirror m "$(uri far)" top speed=$((1 << 20))
await 10 offset_is_beyond $((1 << 20))
kill_server far
timeout 10 "${ask[@]}" job-cancel id=m >"$T/out" || fail "no answer: $(cat "$T/out")"
becomes_true 10 is_no_job m || fail 'cancelled, and it is still there'
ended_as m cancelled
umount_store

#
# Errors of the local disk (041)
#
failing_store
kill "$collector"
events_seen=0
new_job_store
fill_disk 1
write_bad_grain 9
copy_disk "$T/want"

fresh far
echo once >"$T/unreadable"
mirror m "$T/far" top
await_job m none
ended_as m '*Input/output error*'
met_error read report || fail 'no event'
! has_event '.event == "BLOCK_JOB_READY"' || fail 'ready, in spite of it'

fresh far
echo always >"$T/unreadable"
mirror m "$T/far" top on-source-error=ignore
await 10 met_error read ignore
rm "$T/unreadable"
await_job m ready
ends_well m "$T/far"

fresh far
echo once >"$T/unreadable"
mirror m "$T/far" top on-source-error=stop
await_job m paused
met_error read stop || fail 'no event'
[ "$(block_field '.["io-status"]' m)" = failed ] || fail 'io-status'
job resume m
await_job m ready
[ "$(block_field '.["io-status"]' m)" = ok ] || fail 'io-status, well again'
ends_well m "$T/far"
umount_store
