#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The daemon is killed under a guest at work, with a drain running: the next
# one goes on, the guest sees a pause and no error, and in the end the target
# is the disk. Then what else can happen to the two processes of a mount.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/takeover-rig.sh"
requires root fuse weir qemu-nbd qemu-img jq fio kernel-6.9
new_dir

kills=10
is_long && kills=1000
# No nbdkit: 1.32 aborts now and then when a client is killed (raw_send_socket).
truncate -s 128M "$T/far"
start_qemu_nbd far raw "$T/far"
new_store 128M "$(uri far)"
# So slow that the drain goes on all the time.
"$WEIR" set "$STORE" request-deadline=1 bwlimit=40M
mount_store
status_is .takeover resend || fail "takeover: $(status .takeover)"

begin_load 128
: >"$T/pauses"
for ((kill = 1; kill <= kills; kill++)); do
    # A random moment; now and then one that lets the daemon last, or the
    # holder takes six short lives in a row for a daemon that cannot live.
    moment=$((RANDOM % 1500))
    [ $((kill % 4)) -ne 0 ] || moment=$((600 + RANDOM % 900))
    sleep "$((moment / 1000)).$(printf %03d $((moment % 1000)))"
    began=${EPOCHREALTIME/./}
    kill_daemon_only
    await 20 restarts_are "$kill"
    load_goes_on
    await 10 has_noticed "$began"
    longest_since "$began" >>"$T/pauses"
done
end_load
say_pauses "$kills kills, $(wc -l <"$T/fio-runs") runs of fio verified"
"$WEIR" set "$STORE" bwlimit=0
drain_store
assert_same "$MNT/vda.raw" "$(uri far)"

# Requests that were taken and never answered are what it is about: the
# daemon stops with some in its hands, and is killed before it goes on.
dd if=/dev/urandom of="$T/data" bs=1M count=4 status=none
"$(tool power-cut)" --stop "$(daemon_pid)"
dd if="$T/data" of="$MNT/vda.raw" bs=1M seek=7 conv=notrunc,fsync \
    oflag=direct status=none &
writer=$!
restarts=$kills
kill_daemon_only
restarts=$((restarts + 1))
await 20 restarts_are $restarts
wait $writer || fail 'a write across the kill failed'
cmp -n $((4 << 20)) -i 0:$((7 << 20)) "$T/data" "$MNT/vda.raw"

# An open generated file: whole from the start, or an error, never a mixture.
exec 7<"$MNT/.weir/status.json"
kill_daemon_only
restarts=$((restarts + 1))
await 20 restarts_are $restarts
jq -e ".restarts == $restarts" <&7 >"$T/out" || fail 'an old handle is wrong'
exec 7<&-

# Commands meet the moment between two daemons and wait for the second.
kill_daemon_only
restarts=$((restarts + 1))
"$WEIR" is mounted "$STORE" || fail 'status between two daemons'
await 20 restarts_are $restarts
pid=$(holder_pid)
umount_store
is_gone "$pid" || fail 'umount returned and the holder is still there'
[ -z "$(daemon_pid)" ] || fail 'umount returned and the daemon is still there'

# In that moment nobody has the store's lock, and it is a guest's all the same.
"$WEIR" mount -f --hold "$STORE" "$MNT" 2>"$T/daemon.log" &
daemon=$!
await 10 status_is .takeover resend
mkdir "$T/elsewhere"
pid=$(holder_pid)
"$(tool power-cut)" --stop "$pid"
kill_daemon_only
refused 3 "$WEIR" remove "$STORE" --discard
refused 3 "$WEIR" remove "$STORE/vda" --discard
refused 3 "$WEIR" create "$STORE/vdb" --size 1M
refused 3 "$WEIR" check "$STORE"
refused 3 "$WEIR" mount "$STORE" "$T/elsewhere"
# The next daemon waits for somebody who has it for a moment.
exec 8<>"$STORE/lock"
flock 8
echo $$ >"$STORE/lock"
kill -CONT "$pid"
await 10 grep -q 'its guest waits too' "$T/daemon.log"
exec 8<&-
await 20 restarts_are 1
! grep 'ended with code' "$T/daemon.log" || fail 'it came too early'
head -c 4096 "$MNT/vda.raw" | cmp - <(head -c 4096 "$STORE/vda/disk.raw")
umount_store
wait $daemon || fail 'the holder did not end with 0'

# Paused stays paused, and the holder passes signals on.
mount_store
"$WEIR" pause "$STORE"
kill_daemon_only
await 20 restarts_are 1
status_is .state paused || fail 'the next daemon forgot that it is paused'
pid=$(holder_pid)
kill "$pid"
await 20 is_gone "$pid"
! is_mounted || fail 'SIGTERM to the holder left the mount'

# Without its holder the daemon serves on, and says that it is alone.
mount_store
kill -9 "$(holder_pid)"
await 10 status_is .takeover none
head -c 4096 "$MNT/vda.raw" | cmp - <(head -c 4096 "$STORE/vda/disk.raw")
refused 1 "$WEIR" upgrade "$STORE"
umount_store

# A daemon that cannot live: in the end an error, not a wait without end.
mount_store
pid=$(holder_pid)
mv "$STORE/weir.conf" "$T/weir.conf"
kill_daemon_only
await 20 is_gone "$pid"
! timeout 5 head -c 1 "$MNT/vda.raw" >"$T/out" 2>"$T/err" ||
    fail 'a mount without a daemon answers'
[ -s "$T/err" ] || fail 'the guest waits for a daemon that never comes'
mv "$T/weir.conf" "$STORE/weir.conf"
mount_store
umount_store

# A kernel that cannot send again: errors for what was taken, and a new mount.
kill_with_one_taken() {
    "$(tool power-cut)" --stop "$(daemon_pid)"
    head -c 1M "$MNT/vda.raw" >/dev/null 2>"$T/err" &
    reader=$!
    kill_daemon_only
    ! timeout 20 tail --pid=$reader -f /dev/null || wait $reader &&
        fail 'an unanswered request was answered'
    is_gone $reader || fail 'a request hangs after the kill'
    await 20 is_mounted
    head -c 4096 "$MNT/vda.raw" | cmp - <(head -c 4096 "$STORE/vda/disk.raw")
}
export WEIR_DEBUG=no-resend
mount_store
status_is .takeover planned-only || fail "takeover: $(status .takeover)"
kill_with_one_taken
"$WEIR" upgrade "$STORE" >"$T/out" || fail 'a planned handover needs no resend'
head -c 4096 "$MNT/vda.raw" | cmp - <(head -c 4096 "$STORE/vda/disk.raw")
# That the daemon before left in good order is not believed of its successor.
kill_with_one_taken

# What somebody else has mounted there meanwhile is not taken away for that.
mount -t tmpfs weir-test "$MNT"
on_exit "umount '$MNT'"
touch "$MNT/somebody-elses"
pid=$(holder_pid)
kill_daemon_only
await 20 is_gone "$pid"
[ -e "$MNT/somebody-elses" ] || fail 'the mount of somebody else is gone'
umount "$MNT"
mount_store
umount_store
