#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A second daemon is refused with the pid of the first, a mount point in use
# is refused, one that a guest uses is not taken away, one left dead by a crash
# is cleaned up by the next mount.
. "$(dirname "$0")/functions.sh"
requires root fuse weir jq
new_dir
mkdir "$T/mnt2"

"$WEIR" create "$STORE/vda" --size 16M
"$WEIR" create "$T/store2/vda" --size 16M
mount_store
echo data | dd of="$MNT/vda.raw" conv=notrunc status=none

refused 3 "$WEIR" mount "$STORE" "$T/mnt2"
grep -qw "$(daemon_pid)" "$T/err" || fail "no pid of the first: $(cat "$T/err")"
! is_mounted "$T/mnt2" || fail 'a second daemon mounted'
refused 3 "$WEIR" mount "$STORE" "$MNT"
refused 3 "$WEIR" check "$STORE"
refused 3 "$WEIR" mount "$T/store2" "$MNT"
grep -q mount "$T/err" || fail "does not say what is wrong: $(cat "$T/err")"
[ "$(head -c 4 "$MNT/vda.raw")" = data ] || fail 'the first mount suffered'

# A guest has the disk open: its mount stays.
exec 7<"$MNT/vda.raw"
refused 3 "$WEIR" umount "$MNT"
is_mounted || fail 'umount took the disk away from its guest'
[ "$(head -c 4 <&7)" = data ] || fail 'and broke it'
exec 7<&-

kill_daemon
! stat "$MNT/vda.raw" 2>"$T/err" || fail 'a dead mount answers'
grep -qiE 'not connected|No such' "$T/err" || fail "stale: $(cat "$T/err")"
mount_store
[ "$(head -c 4 "$MNT/vda.raw")" = data ] || fail 'the remount lost data'
[ "$(grep -cF " $MNT " /proc/mounts)" -eq 1 ] || fail 'mounted more than once'

# umount of a dead mount works too.
kill_daemon
"$WEIR" umount "$MNT" >"$T/out" 2>"$T/err" ||
    fail "umount of a dead mount: $(cat "$T/err")"
! grep -qF " $MNT " /proc/mounts || fail 'the dead mount is still there'
