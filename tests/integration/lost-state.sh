#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The store's state file is destroyed. The disk opens, the target is known
# again by the sums of what it holds, and what it holds is not sent again.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq
new_dir

truncate -s 64M "$T/far.img"
start_nbdkit far file "$T/far.img"
new_store 64M "$(uri far)"
mount_store
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=48 conv=notrunc,fsync status=none
drain_store
umount_store

for damage in missing garbage; do
    case $damage in
    missing) rm "$STORE/state" ;;
    garbage) dd if=/dev/urandom of="$STORE/state" bs=200 count=1 status=none ;;
    esac
    "$WEIR" set "$STORE" request-deadline=1 2>/dev/null || true
    mount_store
    drain_store
    sent=$(status '.disks[0].sent_bytes')
    [ "$sent" -eq 0 ] || fail "$damage: $sent bytes were sent again"
    assert_same "$MNT/vda.raw" "$(uri far)"
    umount_store
done

# Another target of the same size is not taken for ours.
rm "$STORE/state"
dd if=/dev/urandom of="$T/far.img" bs=1M count=48 conv=notrunc status=none
mount_store
refused() {
    [ "$(status '.disks[0].target_state' | tr -d '"')" = refused ]
}
await 20 refused
umount_store
say 'a lost state: the target known by its sums, nothing sent again'
