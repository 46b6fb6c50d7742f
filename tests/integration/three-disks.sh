#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Three disks of one store drain together, each to its own target; with one
# target gone the group waits, and says for which (rule 17), until the disk is
# taken out of the group: then the others' data arrives.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq
new_dir

for disk in vda vdb vdc; do
    truncate -s 64M "$T/$disk.far"
    start_nbdkit $disk --filter=delay file "$T/$disk.far" wdelay=5ms
    "$WEIR" create "$STORE/$disk" --size 64M --target "$(uri $disk)"
done
mount_store
[ "$(ls "$MNT" | tr '\n' ' ')" = 'vda.raw vdb.raw vdc.raw ' ] ||
    fail "in the mount: $(ls "$MNT")"
for disk in vda vdb vdc; do
    dd if=/dev/urandom of="$MNT/$disk.raw" bs=1M count=48 conv=notrunc,fsync \
        status=none
done

# Together: before the first has ended, each has got something.
all_have_begun() {
    [ "$(status '[.disks[] | .dirty_bytes < 67108864] | all')" = true ]
}
await 30 all_have_begun
drain_store
for disk in vda vdb vdc; do
    assert_same "$MNT/$disk.raw" "$(uri $disk)"
done

kill_server vdb
for disk in vda vdb vdc; do
    dd if=/dev/urandom of="$MNT/$disk.raw" bs=1M count=8 conv=notrunc,fsync \
        status=none
done
group_waits() {
    [ "$(status .cuts.waits_for)" = vdb ]
}
await 60 group_waits
[ "$(status '.disks[] | select(.name == "vda").dirty_bytes')" -gt 0 ] ||
    fail 'the group went on without one of its disks'
"$WEIR" set "$STORE/vdb" group=no >/dev/null
others_are_clean() {
    [ "$(status '[.disks[] | select(.name != "vdb").dirty_bytes] | add')" = 0 ]
}
await 60 others_are_clean
[ "$(status '.disks[] | select(.name == "vdb").dirty_bytes')" -gt 0 ] ||
    fail 'a dead target took data'
restart_server vdb
"$WEIR" set "$STORE/vdb" group=yes >/dev/null
drain_store
assert_same "$MNT/vdb.raw" "$(uri vdb)"
umount_store
