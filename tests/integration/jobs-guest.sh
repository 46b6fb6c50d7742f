#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A job with a target that is dead, hung or slow: the guest's writes are what
# they are without it, everything answers, a cancel takes less than a second, and
# neither the relay of the disk nor another job waits for it.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img qemu-io fio jq python3
new_dir
. "$tests_dir/integration/jobs-rig.sh"

ask=("$tests_dir/tools/qmp" "$STORE/control.sock")
runs=3 states='hung slow'
if is_long; then
    runs=15 states='hung slow gone'
fi

# p99 of a second of the guest's writes, in microseconds.
latency() {
    fio --name=guest --filename="$MNT/vda.raw" --rw=randwrite --bs=4k \
        --ioengine=libaio --iodepth=4 --direct=1 --size=64M --time_based \
        --runtime=1 --output-format=json >"$T/fio.json" 2>"$T/fio.log" ||
        fail "the guest has seen an error: $(tail -n 1 "$T/fio.log")"
    jq '.jobs[0] | if .error != 0 then error("error") else
        .write.clat_ns.percentile["99.000000"] / 1000 | floor end' "$T/fio.json"
}

median() { # FILE
    sort -n "$1" | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'
}

# Its target is met, and something is under way when it turns bad.
begin_job() { # backup|mirror STATE
    forget_events
    # What an earlier one has copied is of no interest to the server.
    truncate -s 0 "$T/$2"
    truncate -s $disk_bytes "$T/$2"
    "$1" j "$(uri "$2")" full speed=$((1 << 20))
    await 10 eval '[ "$(block_field .offset j)" -gt 0 ]'
    case $2 in
    hung) nbdkit_pause "$T/pause" p ;;
    gone) kill_server gone ;;
    esac
    qmp block-job-set-speed device=j speed=0
}

# Until it is over, as its event says, in milliseconds, at the end of $T/cancels:
# what a loaded machine takes to look is not counted.
end_job() { # STATE
    local began=${EPOCHREALTIME/./} ended
    job cancel j
    await_job j none
    ended_as j cancelled
    ended=$(last_event_at)
    echo $(((ended - began) / 1000)) >>"$T/cancels"
    [ "$1" != hung ] || nbdkit_pause "$T/pause" r
    [ "$1" != gone ] || restart_server gone
}

last_event_at() { # in microseconds, as EPOCHREALTIME has it
    events 'select(.event == "BLOCK_JOB_CANCELLED") | .timestamp |
        .seconds * 1000000 + .microseconds' | tail -n 1
}

# What p99 may be beside a job. Whoever waited for a target would wait for some
# hundred milliseconds, or for ever; a mirror takes nothing from the guest, a backup
# has old content copied aside. The rest is that two seconds are not alike.
bound() { # backup|mirror P99-WITHOUT
    case $1 in
    backup) echo $(($2 * 5 + 40000)) ;;
    mirror) echo $(($2 * 2 + 10000)) ;;
    esac
}

everything_answers() {
    answers_within 1 "$WEIR" status "$STORE" --json
    answers_within 1 "$WEIR" job list "$STORE"
    answers_within 1 "${ask[@]}" query-block-jobs
    answers_within 1 cat "$MNT/.weir/status.json"
    answers_within 1 ls -l "$MNT"
    answers_within 1 dd if=/dev/urandom of="$MNT/vda.raw" bs=64k count=8 \
        seek=77 conv=notrunc,fsync status=none
}

new_image relay other hung slow gone
start_nbdkit relay file "$T/relay"
new_job_store --target "$(uri relay)"
fill_disk
drain_store
start_nbdkit hung --filter=pause file "$T/hung" pause-control="$T/pause"
start_nbdkit slow --filter=rate file "$T/slow" rate=1M
start_nbdkit gone file "$T/gone"

for state in $states; do
    for kind in backup mirror; do
        rm -f "$T/with" "$T/without" "$T/cancels"
        for ((run = 1; run <= runs; run++)); do
            begin_job $kind $state
            latency >>"$T/with"
            [ $run -ne 1 ] || everything_answers
            [ $run -ne 1 ] || drain_store # the relay does not wait for it
            end_job $state
            latency >>"$T/without"
        done
        with=$(median "$T/with") without=$(median "$T/without")
        cancelled=$(sort -n "$T/cancels" | tail -n 1)
        say "$kind, target $state: p99 of writes $with us, without $without us;" \
            "gone $cancelled ms after the cancel, or sooner"
        [ "$cancelled" -lt 1000 ] ||
            fail "cancels took, in ms, $(paste -sd ' ' "$T/cancels")"
        [ "$with" -lt "$(bound $kind "$without")" ] ||
            fail "$kind, target $state: the guest waits"
    done
done

# Another job ends while one's target hangs, and so does the relay's drain.
begin_job mirror hung
fill_disk 8
forget_events
qmp blockdev-backup job-id=k device=vda target="$T/other" sync=full
await_job k none
ended_as k completed
drain_store
assert_same "$MNT/vda.raw" "$T/other"
assert_same "$MNT/vda.raw" "$T/relay"
job_is j running || fail "the hung one: $(job_field .status j)"
timed timeout 20 "$WEIR" umount "$MNT" || fail "umount: $(cat "$T/err")"
[ "$took" -lt 3000 ] || fail "umount took $took ms with a job's target hung"
mount_store
everything_answers
end_job hung
umount_store
