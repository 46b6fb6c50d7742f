#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Who may see what: nobody else without allow_other; with it, the owner and
# the mode decide. What chmod, chown and touch change is kept.
. "$(dirname "$0")/functions.sh"
requires root fuse weir setpriv jq
new_dir
chmod 755 "$T"
"$WEIR" create "$STORE/vda" --size 16M

as() { # UID COMMAND…
    setpriv --reuid "$1" --regid "$1" --clear-groups "${@:2}"
}

mount_store
[ "$(stat -c '%u:%g %a' "$MNT/vda.raw")" = '0:0 600' ] ||
    fail "owner and mode: $(stat -c '%u:%g %a' "$MNT/vda.raw")"
! as 65534 stat "$MNT/vda.raw" 2>"$T/err" || fail 'others see the mount'
! as 65534 ls "$STORE" 2>"$T/err" || fail 'others see the store'
# A daemon that is not for us is not waited for, as the next one would be.
! timed as 65534 "$WEIR" status "$STORE" || fail 'and its status'
grep -q 'Permission denied' "$T/err" || fail "says: $(cat "$T/err")"
[ "$took" -lt 5000 ] || fail "after $took ms it is clear that others may not"
findmnt -no OPTIONS "$MNT" | grep -q nosuid || fail 'mounted without nosuid'
findmnt -no OPTIONS "$MNT" | grep -q nodev || fail 'mounted without nodev'
umount_store

mount_store "$STORE" "$MNT" -o allow_other,uid=65534,gid=65533,mode=0640
[ "$(stat -c '%u:%g %a' "$MNT/vda.raw")" = '65534:65533 640' ] ||
    fail "uid, gid, mode: $(stat -c '%u:%g %a' "$MNT/vda.raw")"
as 65534 dd if=/dev/zero of="$MNT/vda.raw" bs=4k count=1 conv=notrunc \
    status=none || fail 'the owner may not write'
as 65533 dd if="$MNT/vda.raw" of=/dev/null bs=4k count=1 status=none ||
    fail 'the group may not read'
! as 65533 dd if=/dev/zero of="$MNT/vda.raw" bs=4k count=1 conv=notrunc \
    2>"$T/err" || fail 'the group may write'
! as 1234 dd if="$MNT/vda.raw" of=/dev/null bs=4k count=1 2>"$T/err" ||
    fail 'others may read'
! as 65534 chown 1234 "$MNT/vda.raw" 2>"$T/err" || fail 'others may chown'

# As libvirt does at the start of a VM, and back at its end.
chown 1234:1235 "$MNT/vda.raw"
chmod 0644 "$MNT/vda.raw"
touch -d '2001-02-03 04:05:06 UTC' "$MNT/vda.raw"
umount_store
mount_store "$STORE" "$MNT" -o allow_other
[ "$(stat -c '%u:%g %a %Y' "$MNT/vda.raw")" = '1234:1235 644 981173106' ] ||
    fail "not kept: $(stat -c '%u:%g %a %Y' "$MNT/vda.raw")"

# The size is not a guest's to change; keeping it is harmless.
truncate -s 16M "$MNT/vda.raw" || fail 'a truncate to the same size'
printf abc | dd of="$MNT/vda.raw" conv=notrunc status=none
: >"$MNT/vda.raw" || fail 'open with O_TRUNC'
[ "$(stat -c %s "$MNT/vda.raw")" -eq $((16 << 20)) ] || fail 'size after O_TRUNC'
[ "$(head -c 3 "$MNT/vda.raw")" = abc ] || fail 'O_TRUNC truncated'
for size in 8M 32M; do
    ! truncate -s $size "$MNT/vda.raw" 2>"$T/err" || fail "truncated to $size"
    grep -qi 'not permitted' "$T/err" || fail "not EPERM: $(cat "$T/err")"
done
# Nothing is written beyond the end; what straddles it is written up to it.
end=$((16 << 20))
! dd if=/dev/zero of="$MNT/vda.raw" bs=1 count=1 seek=$end oflag=seek_bytes \
    conv=notrunc 2>"$T/err" || fail 'written beyond the end'
grep -qi 'too large' "$T/err" || fail "not EFBIG: $(cat "$T/err")"
printf 0123456789 | dd of="$MNT/vda.raw" bs=10 seek=$((end - 4)) \
    oflag=seek_bytes conv=notrunc 2>"$T/err" && fail 'a write across the end'
[ "$(tail -c 4 "$MNT/vda.raw")" = 0123 ] || fail 'a write across the end'
! touch "$MNT/new-file" 2>"$T/err" || fail 'a file was created in the mount'
! rm "$MNT/vda.raw" 2>"$T/err" || fail 'the disk was removed from the mount'
! mv "$MNT/vda.raw" "$MNT/x.raw" 2>"$T/err" || fail 'the disk was renamed'
umount_store

# Read-only.
mount_store "$STORE" "$MNT" -o ro
! dd if=/dev/zero of="$MNT/vda.raw" bs=4k count=1 conv=notrunc 2>"$T/err" ||
    fail 'written through a read-only mount'
[ "$(head -c 3 "$MNT/vda.raw")" = abc ] || fail 'read-only: content'
umount_store
