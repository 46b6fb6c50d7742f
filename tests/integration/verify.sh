#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# weir verify: a target that somebody else wrote is noticed, counted, said in
# words and by exit code, and --repair makes it right; with a mount and
# without. What the guest writes meanwhile is no difference.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq fio
new_dir

truncate -s 64M "$T/far.img"
start_nbdkit far file "$T/far.img"
new_store 64M "$(uri far)"
mount_store
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=40 conv=notrunc,fsync status=none
drain_store
"$WEIR" verify "$STORE" >"$T/out" || fail "sound, but: $(cat "$T/out")"
grep -q '0 clusters differ' "$T/out" || fail "says: $(cat "$T/out")"

spoil() { # clusters of 64 KiB, one byte each
    local cluster
    for cluster; do
        printf x | dd of="$T/far.img" bs=1 seek=$((cluster * 65536 + 77)) \
            conv=notrunc status=none
    done
}

# In data, at its end, and in what is a hole here.
spoil 3 4 639 900
status=0
"$WEIR" verify "$STORE" --json >"$T/out" 2>"$T/err" || status=$?
[ $status -eq 1 ] || fail "spoilt, and exit code $status"
[ "$(jq .differing_clusters "$T/out")" -eq 4 ] || fail "counts: $(cat "$T/out")"
status=0
"$WEIR" verify "$STORE" --repair >"$T/out" 2>&1 || status=$?
[ $status -eq 0 ] || fail "repaired, and exit code $status: $(cat "$T/out")"
drain_store
assert_same "$MNT/vda.raw" "$(uri far)"

# Beside a guest that writes all the time.
fio --name=load --filename="$MNT/vda.raw" --rw=randwrite --bs=16k --size=32M \
    --direct=1 --ioengine=libaio --iodepth=4 --time_based --runtime=60 \
    >"$T/fio.log" 2>&1 &
load=$!
for _ in 1 2 3; do
    "$WEIR" verify "$STORE" >"$T/out" 2>&1 ||
        fail "a busy guest counts as a difference: $(cat "$T/out")"
done
kill "$load"
wait "$load" || true
rm -f "$T/fio.log"
drain_store
umount_store

# At rest.
"$WEIR" verify "$STORE" >"$T/out" 2>&1 || fail "at rest: $(cat "$T/out")"
spoil 10
! "$WEIR" verify "$STORE" >"$T/out" 2>&1 || fail 'spoilt at rest, unnoticed'
"$WEIR" verify "$STORE" --repair >"$T/out" 2>&1 || fail "repair: $(cat "$T/out")"
"$WEIR" drain "$STORE" --wait >/dev/null
assert_same "$STORE/vda/disk.raw" "$(uri far)"
say 'spoilt clusters found and mended, mounted and at rest'
