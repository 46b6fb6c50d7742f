#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# FUSE over io_uring (-o transport=uring): other tests once more through it;
# an end under load; kill -9, after which nobody may hang; and a kernel that
# does not offer it, where all goes on through /dev/fuse.
. "$(dirname "$0")/functions.sh"
requires root fuse kernel-6.14 weir fio jq nbdkit
switch=/sys/module/fuse/parameters/enable_uring
[ -w "$switch" ] || skip "$switch (fuse built with FUSE_IO_URING)"
new_dir

# One for the whole machine: nobody else may turn it meanwhile.
exec {lock}<"$switch"
flock "$lock"
on_exit "echo $(<"$switch") >$switch"

load_on() { # FILE: fio at work on it, $load
    fio --name=load --filename="$1" --rw=randrw --bsrange=4k-128k \
        --direct=1 --ioengine=io_uring --iodepth=32 --time_based \
        --runtime=60 >"$T/fio.log" 2>&1 &
    load=$!
}

guest_has_written() { # BYTES
    [ "$(awk '/^weir_guest_written_bytes_total/ { printf "%d", $2 }' \
        "$MNT/.weir/metrics")" -gt "$1" ]
}

# What a dead daemon leaves answers at once, with an error.
answers_not_connected() {
    ! timeout 5 stat "$MNT" 2>"$T/err" &&
        grep -qE 'not connected|caused connection abort' "$T/err"
}

echo Y >"$switch"
for name in smoke fio-verify block-sizes restart-kill; do
    # Their own time limits hold; its output is ours.
    WEIR_TEST_TRANSPORT=uring "$tests_dir/integration/$name.sh" \
        >"$T/$name.log" 2>&1 {lock}<&- || fail "$name fails over io_uring"
    say "$name over io_uring"
    rm "$T/$name.log"
done

truncate -s 64M "$T/far"
start_nbdkit far file "$T/far"
new_store 64M "$(uri far)"
# How long a killed daemon's writes to the target are in doubt.
"$WEIR" set "$STORE" request-deadline=2
mount_store "$STORE" "$MNT" -o transport=auto
status_is .transport uring || fail "auto means $(status .transport)"
# Entries have buffers of more than 256 MiB: none is touched before its request.
rss_kib=$(awk '/VmRSS/ { print $2 }' "/proc/$(daemon_pid)/status")
[ "$rss_kib" -le $((64 << 10)) ] || fail "idle with an RSS of $rss_kib KiB"
load_on "$MNT/vda.raw"
await 20 guest_has_written $((16 << 20))
daemon=$(daemon_pid)
"$WEIR" umount "$MNT" >"$T/out" 2>&1 && fail 'unmounted under load'
umount -l "$MNT"
is_gone "$load" && fail "fio ended by a lazy umount: $(tail -n 3 "$T/fio.log")"
kill "$load"
wait "$load" || true
await 20 is_gone "$daemon"
timeout 20 "$WEIR" check "$STORE" >"$T/out" || fail "check: $(cat "$T/out")"

mount_store "$STORE" "$MNT" -o transport=uring
load_on "$MNT/vda.raw"
await 20 guest_has_written $((16 << 20))
status_is .takeover none || fail 'a mount with a ring is kept for another'
holder=$(holder_pid)
kill_daemon_only
await 10 is_gone "$holder"
answers_not_connected || fail "a dead daemon's mount: $(cat "$T/err")"
await 10 is_gone "$load"
wait "$load" || true
unmount_by_force "$MNT"

echo N >"$switch"
on_exit "unmount_by_force '$MNT'"
"$WEIR" mount "$STORE" "$MNT" -f -o transport=uring >"$T/daemon.log" 2>&1 &
await 10 test -e "$MNT/vda.raw"
status_is .transport dev || fail 'not offered, and used'
grep -q 'transport=uring: .*/dev/fuse instead' "$T/daemon.log" ||
    fail 'the log does not say that it falls back'
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=4 conv=notrunc,fsync \
    status=none
drain_store
umount_store
