#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A target that is not ours is not written: too small, read-only, with foreign
# data on it, without flush. drain says so on one line with exit code 5; the
# mount and the guest's writes do not mind; the user's word lets it go on.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq
new_dir

size=32M
truncate -s $size "$T/foreign"
printf 'somebody else was here' | dd of="$T/foreign" bs=1M seek=7 \
    conv=notrunc status=none
cp "$T/foreign" "$T/foreign.before"

start_nbdkit small memory 16M
start_nbdkit readonly -r memory $size
start_nbdkit foreign file "$T/foreign"
start_nbdkit blind --filter=noextents --filter=log file "$T/foreign" \
    logfile="$T/blind.requests"

for name in small readonly foreign blind; do
    new_store $size "$(uri $name)"
    dirty=$(status .dirty_bytes)
    refused 5 "$WEIR" drain "$STORE" --wait --timeout 30s
    say "$name: $(cat "$T/err")"
    mount_store
    dd if=/dev/urandom of="$MNT/vda.raw" bs=64k count=4 conv=notrunc,fsync \
        status=none
    refused 5 "$WEIR" drain "$STORE" --wait --timeout 30s
    [ "$(status .dirty_bytes)" -ge "${dirty:-0}" ] || fail "$name: cleared"
    umount_store
    rm -rf "$STORE"
done
cmp "$T/foreign" "$T/foreign.before" || fail 'a foreign target was written'
[ "$(logged_writes "$T/blind.requests")" -eq 0 ] || fail 'blind: written'

# Two disks of one store have two targets, however they are written.
new_store $size "$T/one"
ln -s "$T/one" "$T/alias"
refused 3 "$WEIR" create "$STORE/vdb" --size $size --target "$T/alias"
[ ! -e "$STORE/vdb" ] || fail 'a disk was made'
"$WEIR" create "$STORE/vdb" --size $size --target "$T/two" >>"$T/weir.log"
refused 3 "$WEIR" set "$STORE/vdb" target="[ nbdkit file $T/one ]"
# What a command serves is not known, but that two of one kind serve one thing.
"$WEIR" set "$STORE/vda" target="[ nbdkit --filter=delay file $T/one wdelay=1 ]"
refused 3 "$WEIR" set "$STORE/vdb" \
    target="[ nbdkit --filter=delay file $T/one wdelay=1 ]"
"$WEIR" set "$STORE/vda" target="$T/one"
mount_store
refused 3 "$WEIR" set "$STORE/vdb" target="$T/alias"
grep -q "disk vda's" "$T/err" || fail "$(cat "$T/err")"
umount_store
rm -rf "$STORE"

# The way out: overwrite makes it equal.
new_store $size "$(uri foreign)"
mount_store
dd if=/dev/urandom of="$MNT/vda.raw" bs=64k count=4 conv=notrunc,fsync \
    status=none
"$WEIR" set "$STORE/vda" target-accept=overwrite
drain_store
assert_same "$MNT/vda.raw" "$T/foreign"
umount_store

# That was said of this one. Another one in its place is refused, and no other
# setting is a word about it.
mount_store
stop_server foreign
head -c $size /dev/urandom >"$T/foreign"
cp "$T/foreign" "$T/foreign.before"
restart_server foreign
dd if=/dev/urandom of="$MNT/vda.raw" bs=64k count=4 conv=notrunc,fsync \
    status=none
is_refused() { [ "$(status '.disks[0].target_state')" = refused ]; }
await 30 is_refused
"$WEIR" set "$STORE" bwlimit=10M max-connections=3 insecure=yes
# Refused, or gone: nbdkit 1.32 may not survive that it is dropped in a read.
"$WEIR" drain "$STORE" --wait --timeout 5s >"$T/out" 2>&1 &&
    fail 'a setting was taken for a word about the target'
cmp "$T/foreign" "$T/foreign.before" || fail 'another target was written'
stop_server foreign || true
restart_server foreign
"$WEIR" set "$STORE/vda" target-accept=overwrite
drain_store
assert_same "$MNT/vda.raw" "$T/foreign"
umount_store
rm -rf "$STORE"

# A target that holds the copy already: compared, only the difference is sent.
cp "$T/foreign" "$T/image"
printf 'new' | dd of="$T/image" bs=1M seek=9 conv=notrunc status=none
stop_server foreign
start_nbdkit copy --filter=log file "$T/foreign" logfile="$T/copy.requests"
"$WEIR" create "$STORE/vda" --from "$T/image" --target "$(uri copy)"
"$WEIR" set "$STORE/vda" target-accept=same
mount_store
drain_store
assert_same "$T/image" "$T/foreign"
umount_store
writes=$(logged_writes "$T/copy.requests")
[ "$writes" -le 2 ] || fail "$writes writes for one cluster that differs"

# A larger target is taken; its tail is left alone.
rm -rf "$STORE"
truncate -s 40M "$T/large"
printf 'tail' | dd of="$T/large" bs=1M seek=39 conv=notrunc status=none
start_nbdkit large file "$T/large"
new_store $size "$(uri large)"
"$WEIR" set "$STORE/vda" target-accept=overwrite
mount_store
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=32 conv=notrunc,fsync \
    status=none
drain_store
cmp -n $((32 << 20)) "$MNT/vda.raw" "$T/large"
[ "$(dd if="$T/large" bs=1M skip=39 count=1 status=none | head -c 4)" = tail ] ||
    fail 'the tail of a larger target was written'
umount_store
