#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Jobs are killed at random points: their daemon (kill -9, holder or all),
# their target, the link to it. Each time they go on where they were: a mirror
# has sent little more than the disk when it is over, a backup is the disk at its
# instant, and a bitmap has all that was written.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img qemu-io jq python3
. "$tests_dir/integration/crashes.sh"
new_dir
. "$tests_dir/integration/jobs-rig.sh"

# What the death of a daemon costs is what was sent in the last two seconds or
# so: not yet flushed, or its sums not yet durable. So it is the rate that counts.
mib=64 kills=2 rate=$((4 << 20))
if is_long; then
    mib=1024 kills=10
fi
kills=${WEIR_TEST_KILLS:-$kills}
disk_bytes=$((mib << 20))

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
    0) kill_daemon; mount_store ;;
    1) kill_server far; restart_server far ;;
    2) proxy link drop ;;
    3) if status_is .takeover resend; then
        kill_daemon_only
        await 20 timeout 10 "$WEIR" status "$STORE" --json
    else
        proxy link drop
    fi ;;
    esac
    await 20 eval "! is_no_job $1"
}

# From wherever it is to somewhere else, and a kill.
kill_again_and_again() { # ID
    local i at
    for ((i = 1; i <= kills; i++)); do
        at=$(offset "$1")
        await 60 has_got_on "$1" $((at + (RANDOM % 100 + 20) * disk_bytes /
            kills / 160))
        random_wait 300
        kill_something "$1" $(((RANDOM % 2 * 2 + i) % 4))
    done
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
kill_again_and_again m
becomes_true $((mib * 4 * 1048576 / rate + 60)) job_is m ready ||
    fail "seed $seed: not ready: $(block_field tojson m)"
job complete m
await_job m none
assert_same "$MNT/vda.raw" "$T/far"
sent=$(bytes_sent "$T/far.requests")
sent=$((${sent% *} + ${sent#* }))
# A tenth of a gigabyte for ten kills.
limit=$((disk_bytes + kills * (1 << 30) / 100))
[ "$sent" -le "$limit" ] || fail "seed $seed: sent $sent of $disk_bytes bytes"
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
for ((i = 1; i <= kills; i++)); do
    write_grains 0x$((10 + i)) $((RANDOM % (mib * 16))) $((RANDOM % (mib * 16)))
    at=$(offset j)
    await 60 has_got_on j $((at + (RANDOM % 100 + 20) * (disk_bytes / 4) /
        kills / 160))
    kill_something j $(((RANDOM % 2 * 2 + i) % 4))
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
