#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The states that a job goes through, exactly, with and without auto-finalize and
# auto-dismiss, paused while it runs and when it is ready (219); verbs that a
# state does not take are refused in QEMU's words, and change nothing.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img qemu-io jq
new_dir
. "$tests_dir/integration/jobs-rig.sh"

refuses() { # STATE VERB…: job j
    local state=$1 verb
    shift
    for verb; do
        qmp_refused "Job 'j' in state '$state' cannot accept command verb '$verb'" \
            "job-$verb" id=j
    done
    job_is j "$state" || fail "a verb that was refused: $(job_field .status j)"
}

begin() { # backup|mirror [NAME=VALUE…]
    fresh far
    "$1" j "$T/far" full speed=65536 "${@:2}"
    await_job j running
}

# Beyond the point that its speed let it get to.
let_go() {
    qmp block-job-set-speed device=j speed=0
}

pause_twice() { # STATE-THEN STATE-BEFORE
    job pause j
    await_job j "$1"
    qmp_refused '*already paused*' job-pause id=j
    job resume j
    await_job j "$2"
    qmp_refused '*not paused*' job-resume id=j
}

new_job_store
fill_disk 4
new_image far2

for finalize in true false; do
    for dismiss in true false; do
        end='waiting pending concluded'
        [ $dismiss = false ] || end+=' null'

        begin backup auto-finalize=$finalize auto-dismiss=$dismiss
        refuses running complete finalize dismiss
        pause_twice paused running
        let_go
        if [ $finalize = false ]; then
            await_job j pending
            refuses pending pause resume complete dismiss
            has_event '.event == "BLOCK_JOB_PENDING" and .data.id == "j"' ||
                fail 'no event'
            job finalize j
        fi
        if [ $dismiss = false ]; then
            await_job j concluded
            refuses concluded cancel pause resume complete finalize
            job dismiss j
            end+=' null'
        fi
        await_job j none
        ended_as j completed
        traced j "created running paused running $end"
        assert_same "$MNT/vda.raw" "$T/far"

        end='waiting pending concluded null'
        begin mirror auto-finalize=$finalize auto-dismiss=$dismiss
        refuses running complete finalize dismiss
        pause_twice paused running
        let_go
        await_job j ready
        [ "$(block_field .ready j)" = true ] || fail 'ready, and does not say so'
        refuses ready finalize dismiss
        pause_twice standby ready
        job complete j
        if [ $finalize = false ]; then
            await_job j pending
            refuses pending pause resume complete dismiss
            job finalize j
        fi
        if [ $dismiss = false ]; then
            await_job j concluded
            refuses concluded cancel pause resume complete finalize
            job dismiss j
        fi
        await_job j none
        traced j "created running paused running ready standby ready $end"
        assert_same "$MNT/vda.raw" "$T/far"
    done
done

# Cancelled, in every state that takes it.
for kind in backup mirror; do
    begin $kind
    job cancel j
    await_job j none
    traced j 'created running aborting concluded null'
    begin $kind
    job pause j
    await_job j paused
    job cancel j
    await_job j none
    [[ $(trace_of j) == 'created running paused '*'aborting concluded null' ]] ||
        fail "cancelled while paused: $(trace_of j)"
    ended_as j cancelled
done
begin backup auto-finalize=false
let_go
await_job j pending
job cancel j
await_job j none
traced j 'created running waiting pending aborting concluded null'
begin mirror auto-dismiss=false
let_go
await_job j ready
job cancel j
await_job j concluded
refuses concluded cancel pause resume complete finalize
job dismiss j
await_job j none
traced j 'created running ready aborting concluded null'

# A mirror that is completed while it stands; names that are taken; no such job.
begin mirror
qmp_refused "*'j'*" blockdev-backup job-id=j device=vda target="$T/far2" sync=full
let_go
await_job j ready
job pause j
await_job j standby
job complete j
job resume j || true
await_job j none
ended_as j completed
for verb in pause resume cancel complete finalize dismiss; do
    qmp_refused '*' "job-$verb" id=nobody
done
qmp_refused '*' block-job-set-speed device=nobody speed=0
qmp_refused '*' block-job-cancel device=nobody

# A job that was pending, or had ended, is that in the next daemon as well.
begin backup auto-finalize=false
let_go
await_job j pending
backup k "$T/far2" top auto-dismiss=false
await_job k concluded
umount_store
mount_store
await_job j pending
await_job k concluded
job finalize j
job dismiss k
await_job j none
await_job k none
assert_same "$MNT/vda.raw" "$T/far"
umount_store
