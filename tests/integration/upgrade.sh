#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# weir upgrade: the daemon is replaced under a guest at work; no error, a short
# pause, and what is known of the target stays exact: nothing is dirty after
# that was not before.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/takeover-rig.sh"
requires root fuse weir nbdkit qemu-img jq fio
new_dir

# A program of its own, so that it can be replaced.
installed=$WEIR
cp "$installed" "$T/weir"
WEIR=$T/weir
truncate -s 128M "$T/far"
start_nbdkit far file "$T/far"
new_store 128M "$(uri far)"
"$WEIR" set "$STORE" request-deadline=1
mount_store
drain_store

# Exact: a few clusters are dirty, and paused they stay so.
"$WEIR" pause "$STORE"
dd if=/dev/urandom of="$MNT/vda.raw" bs=64k count=5 seek=9 conv=notrunc,fsync \
    status=none
before=$(status .dirty_bytes)
[ "$before" -eq $((5 << 16)) ] || fail "dirty before: $before"
old=$(daemon_pid)
"$WEIR" upgrade "$STORE" >"$T/out" || fail "upgrade: $(cat "$T/out")"
new=$(daemon_pid)
[ "$new" != "$old" ] || fail 'the daemon is the same'
grep -q "process $old) to .* (process $new); .* paused for [0-9]* ms" \
    "$T/out" || fail "says: $(cat "$T/out")"
status_is .dirty_bytes "$before" || fail "dirty after: $(status .dirty_bytes)"
status_is .state paused || fail 'paused no more'
status_is '.disks[0].in_doubt_bytes' 0 || fail 'something is in doubt'
status_is .restarts 1 || fail "restarts: $(status .restarts)"
"$WEIR" resume "$STORE"
drain_store

# The file is another one now: that is what runs afterwards.
rm "$T/weir"
cp "$installed" "$T/weir"
begin_load 128
: >"$T/pauses"
for i in 1 2 3 4 5; do
    "$WEIR" upgrade "$STORE" >"$T/out" || fail "upgrade: $(cat "$T/out")"
    load_goes_on
    sed 's/.*paused for \([0-9]*\) ms/\1000/' "$T/out" >>"$T/pauses"
    status_is .restarts $((i + 1)) || fail "restarts: $(status .restarts)"
done
[ "$(readlink "/proc/$(daemon_pid)/exe")" = "$T/weir" ] ||
    fail 'the program that was replaced still runs'
end_load
say_pauses '5 upgrades under fio'
drain_store
assert_same "$MNT/vda.raw" "$(uri far)"

# A program that does not run is not tried on a guest.
ln "$T/weir" "$T/weir.good"
rm "$T/weir"
printf '#!/bin/false\n' >"$T/weir"
chmod +x "$T/weir"
refused 1 "$installed" upgrade "$STORE"
mv "$T/weir.good" "$T/weir"
status_is .restarts 6 || fail 'the daemon was replaced all the same'
umount_store

# With nobody to keep the connection it is refused, and says what to do.
"$WEIR" mount -f "$STORE" "$MNT" 2>"$T/daemon.log" &
daemon=$!
await 10 is_mounted
refused 1 "$WEIR" upgrade "$STORE"
grep -q umount "$T/err" || fail "says: $(cat "$T/err")"
umount_store
wait $daemon
refused 1 "$WEIR" upgrade "$STORE"

# In the foreground, with a holder.
"$WEIR" mount -f --hold "$STORE" "$MNT" 2>"$T/daemon.log" &
daemon=$!
await 10 status_is .takeover resend
"$WEIR" upgrade "$STORE" >"$T/out"
umount_store
wait $daemon || fail 'the holder did not end with 0'

# A discard of all there is keeps a daemon busy for long. One that is told to
# leave does so at once, and what is not punched yet reads as zero ever after.
STORE=$T/huge
MNT=$T/huge-mnt
mkdir "$MNT"
truncate -s 256G "$T/huge.far"
start_nbdkit huge file "$T/huge.far"
new_store 256G "$(uri huge)"
mount_store
dd if=/dev/urandom of="$T/data" bs=1M count=1 status=none
for at in 0 131072 262143; do
    dd if="$T/data" of="$MNT/vda.raw" bs=1M seek=$at conv=notrunc,fsync \
        status=none
done
fallocate -p -l 256G "$MNT/vda.raw"
timed "$WEIR" upgrade "$STORE" || fail "upgrade: $(cat "$T/err")"
[ "$took" -lt 5000 ] || fail "with a discard under way: $took ms"
cmp -n 1M -i $((262143 << 20)):0 "$STORE/vda/disk.raw" "$T/data" ||
    fail 'the discard was over before: the test tests nothing'
for at in 0 131072 262143; do
    cmp -n 1M -i $((at << 20)):0 "$MNT/vda.raw" /dev/zero ||
        fail "the discard was lost, at $at MiB"
done
say "upgrade with a discard of 256 GiB under way: $took ms"
# The rest of it is of no interest.
kill_daemon
