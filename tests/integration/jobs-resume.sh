#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Jobs are killed: their target, the link to it, their daemon (kill -9, alone or
# with its holder), each of them in any four kills. Each time they go on where they
# were: a mirror has sent little more than the disk when it is over, a backup is the
# disk at its instant, and a bitmap has all that was written.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img qemu-io jq python3
. "$tests_dir/integration/crashes.sh"
new_dir
. "$tests_dir/integration/jobs-rig.sh"

# What the death of a daemon costs is what was sent in the last two seconds or
# so: not yet flushed, or its sums not yet durable; of a server or a link what was
# not yet flushed. So it is the rate that counts.
mib=64 kills=4 rate=$((4 << 20))
if is_long; then
    mib=1024 kills=10
fi
kills=${WEIR_TEST_KILLS:-$kills}
disk_bytes=$((mib << 20))
daemon_cost=$(((1 << 30) / 100)) other_cost=$(((1 << 30) / 200))

# One for each kind of kill: a server of its own behind a link of its own.
start_far() {
    new_image far
    : >"$T/far.requests"
    start_nbdkit far --filter=log file "$T/far" logfile="$T/far.requests" \
        logappend=true
    start_proxy link far
}

stop_far() {
    stop_server link
    stop_server far
}

offset() { # ID
    block_field '.offset // 0' "$1"
}

has_got_on() { # ID BYTES
    [ "$(offset "$1")" -gt "$2" ]
}

kill_something() { # ID KIND
    case $2 in
    all) kill_daemon; mount_store ;;
    server) kill_server far; restart_server far ;;
    link) proxy link drop ;;
    daemon) if status_is .takeover resend; then
        kill_daemon_only
        await 20 timeout 10 "$WEIR" status "$STORE" --json
    else
        kill_daemon
        mount_store
    fi ;;
    esac
    await 20 eval "! is_no_job $1"
}

# Which kinds, in which order. Daemons die last of four, when what was sent is
# more than all kills may cost: a job that begins anew then is found out.
choose_kinds() {
    local others=(server link) daemons=(all daemon) first second
    kinds=()
    while [ ${#kinds[@]} -lt "$kills" ]; do
        first=$((RANDOM % 2)) second=$((RANDOM % 2))
        kinds+=("${others[first]}" "${others[1 - first]}"
            "${daemons[second]}" "${daemons[1 - second]}")
    done
    kinds=("${kinds[@]:0:kills}")
}

# When it is a part further, of BYTES in all, or a bit later.
await_place() { # ID NUMBER BYTES
    local part=$(($3 / (kills + 1)))
    await 60 has_got_on "$1" $(($2 * part + RANDOM % 100 * part / 400))
}

say "seed $seed"
new_job_store
fill_disk $mib

#
# A mirror
#
start_far
add_bitmap b
mirror m "$(uri link)" full speed=$rate
choose_kinds
limit=$disk_bytes
for ((i = 1; i <= kills; i++)); do
    await_place m $i $disk_bytes
    random_wait 300
    kind=${kinds[i - 1]}
    kill_something m "$kind"
    case $kind in
    all | daemon) limit=$((limit + daemon_cost)) ;;
    *) limit=$((limit + other_cost)) ;;
    esac
done
becomes_true $((mib * 4 * 1048576 / rate + 60)) job_is m ready ||
    fail "seed $seed: not ready: $(block_field tojson m)"
job complete m
await_job m none
assert_same "$MNT/vda.raw" "$T/far"
sent=$(bytes_sent "$T/far.requests")
sent=$((${sent% *} + ${sent#* }))
[ "$sent" -le "$limit" ] ||
    fail "seed $seed: ${kinds[*]}: sent $sent of $disk_bytes bytes, not $limit"
say "seed $seed: a mirror of $mib MiB, killed $kills times, sent" \
    "$((sent >> 20)) MiB"
stop_far

#
# A backup from a bitmap, while the guest writes
#
start_far
copy_disk "$T/far"
truncate -s $disk_bytes "$T/far"
bitmap clear b # kills have left doubts
fill_disk $((mib / 4)) $((mib / 2))
copy_disk "$T/want"
backup j "$(uri link)" incremental bitmap=b speed=$((rate / 2))
await_job j running
choose_kinds
for ((i = 1; i <= kills; i++)); do
    write_grains 0x$((10 + i)) $((RANDOM % (mib * 16))) $((RANDOM % (mib * 16)))
    # In its first half: the job must not be over before it is seen again.
    await_place j $i $((disk_bytes / 8))
    kill_something j "${kinds[i - 1]}"
    write_grains 0x$((50 + i)) $i $((mib * 8 + i)) $((mib * 12 - i))
done
[ "$(bitmap_field .busy b)" = true ] || fail "busy: $(bitmap_field tojson b)"
qmp block-job-set-speed device=j speed=0
becomes_true 60 is_no_job j || fail "seed $seed: $(block_field tojson j)"
assert_same "$T/want" "$T/far"
stop_far

# All that was written since is in the bitmap: with it the image is the disk.
start_nbdkit far file "$T/far"
run_backup last "$(uri far)" incremental bitmap=b
assert_same "$MNT/vda.raw" "$T/far"
has_grains b 0
umount_store
"$WEIR" check "$STORE" >"$T/out" || fail "check: $(cat "$T/out")"
say "seed $seed: a backup, killed $kills times, was the disk at its instant"
