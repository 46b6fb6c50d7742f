#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A store with two disks goes back to a snapshot, with all that was written,
# discarded and grown since; what it was is a snapshot, too; the targets follow;
# one that was killed is finished by the next.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-io qemu-img jq
new_dir

for disk in far second; do
    truncate -s 96M "$T/$disk"
    start_nbdkit $disk file "$T/$disk"
done
new_store 32M "$(uri far)"
"$WEIR" create "$STORE/vdb" --size 16M --target "$(uri second)"
"$WEIR" set "$STORE" request-deadline=1

write() { # DISK PATTERN OFFSET LEN
    qemu-io -f raw -c "write -P $2 $3 $4" -c flush "$MNT/$1.raw" >"$T/out" ||
        fail "qemu-io: $(cat "$T/out")"
}
copy() { # NAME: what the disks are now
    cp --sparse=always "$MNT/vda.raw" "$T/$1.vda"
    cp --sparse=always "$MNT/vdb.raw" "$T/$1.vdb"
}
are() { # NAME DIR
    cmp "$T/$1.vda" "$2/vda.raw" && cmp "$T/$1.vdb" "$2/vdb.raw"
}

mount_store
write vda 0x11 0 4M
write vdb 0x12 1M 1M
"$WEIR" snapshot create "$STORE" first
copy first
drain_store
write vda 0x21 1M 64k
write vda 0x22 20M 3M
write vdb 0x23 0 8M
qemu-io -f raw -d unmap -c 'discard 2M 1M' "$MNT/vda.raw" >"$T/out"
"$WEIR" snapshot create "$STORE" second
copy second
write vda 0x31 512 512
write vdb 0x32 15M 1M
copy last

refused 3 "$WEIR" rollback "$STORE" first
grep -q umount "$T/err" || fail "not what to do: $(cat "$T/err")"
umount_store
refused 1 "$WEIR" rollback "$STORE" nosuch
"$WEIR" rollback "$STORE" first >"$T/out" || fail "rollback: $(cat "$T/out")"
before=$(sed -n 's/.* kept as snapshot //p' "$T/out")
[ -n "$before" ] || fail "the snapshot is not named: $(cat "$T/out")"
"$WEIR" check "$STORE" >"$T/out" || fail "check: $(cat "$T/out")"

mount_store
are first "$MNT" || fail 'not what the disks were'
are first "$MNT/.snapshots/first" || fail 'the snapshot has changed'
are second "$MNT/.snapshots/second" || fail 'a later snapshot has changed'
are last "$MNT/.snapshots/$before" || fail 'what was before is not kept'
drain_store
status_is .dirty_bytes 0
"$WEIR" verify "$STORE" >"$T/out" || fail "verify: $(cat "$T/out")"
umount_store "$MNT" --drain
truncate -s 32M "$T/first.vda"
assert_same "$T/first.vda" "$(uri far)"
assert_same "$T/first.vdb" "$(uri second)"

# Grown since, and killed at any time: the next one finishes it.
"$WEIR" resize "$STORE/vda" 48M
mount_store
write vda 0x41 40M 8M
umount_store
killed=0
for after in 0.005 0.01 0.02 0.04 0.08 0.16 0.32 0.64 1.28; do
    ! timeout -s KILL "$after" "$WEIR" rollback "$STORE" second \
        >"$T/roll.log" 2>&1 || break
    if "$WEIR" mount "$STORE" "$MNT" 2>"$T/err"; then
        umount_store
    else
        grep -q 'weir rollback .* second again' "$T/err" ||
            fail "mount: $(cat "$T/err")"
        refused 4 "$WEIR" set "$STORE" bwlimit=1M
        killed=$((killed + 1))
    fi
done
"$WEIR" rollback "$STORE" second >"$T/roll.log" 2>&1 ||
    fail "rollback: $(cat "$T/roll.log")"
say "$killed of them left it unfinished"
mount_store
truncate -s 48M "$T/second.vda"
are second "$MNT" || fail 'not what the disks were in second'
drain_store
"$WEIR" verify "$STORE" >"$T/out" || fail "verify: $(cat "$T/out")"
umount_store

# Damaged: refused, and nothing is written.
printf 'damage' | dd of="$STORE/vda/points/1.map" bs=1 seek=100 conv=notrunc \
    status=none
cp "$STORE/vda/disk.raw" "$T/raw"
refused 4 "$WEIR" rollback "$STORE" first
cmp "$STORE/vda/disk.raw" "$T/raw" || fail 'it was written all the same'
