#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The commands that act on a store, mounted and not: drain, is, pause, resume,
# set, resize, status in text and JSON, metrics.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq
new_dir

exits() { # CODE COMMAND…
    local status=0
    timeout 60 "${@:2}" >"$T/out" 2>"$T/err" || status=$?
    [ "$status" -eq "$1" ] ||
        fail "exit $status, not $1: ${*:3}: $(head -n 1 "$T/err")"
}

truncate -s 128M "$T/far"
start_nbdkit far file "$T/far"
new_store 64M "$(uri far)"
exits 2 "$WEIR" is mounted "$STORE"
mount_store
exits 0 "$WEIR" is mounted "$STORE"

# Paused: nothing leaves. Resumed: it drains by itself.
"$WEIR" pause "$STORE"
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=64 conv=notrunc,fsync \
    status=none
exits 2 "$WEIR" is clean "$STORE"
status_is .state paused || fail "state $(status .state), not paused"
exits 124 "$WEIR" drain "$STORE" --wait --timeout 1s
"$WEIR" resume "$STORE"
await 60 "$WEIR" is clean "$STORE"
exits 0 "$WEIR" is clean "$MNT"
exits 0 "$WEIR" is connected "$STORE"
status_is .state idle || fail "state $(status .state), not idle"
cmp -n $((64 << 20)) "$MNT/vda.raw" "$T/far" || fail 'target differs'

# Every field that is promised is there, in both ways to ask and the file.
fields='["schema_version", "store", "state", "consistent",
    "oldest_unreplicated_time", "dirty_bytes", "sealed_bytes",
    "inflight_bytes", "buffer", "rates", "eta_seconds", "diverging",
    "throttled", "disks", "jobs", "snapshots"]'
for json in "$("$WEIR" status "$STORE" --json)" \
    "$("$WEIR" status "$MNT" --json)" "$(cat "$MNT/.weir/status.json")"; do
    missing=$(jq -c "$fields - keys" <<<"$json")
    [ "$missing" = '[]' ] || fail "status without $missing"
    missing=$(jq -c '["name", "size_bytes", "target", "target_state",
        "target_error", "dirty_bytes", "cluster_bytes"] -
        (.disks[0] | keys)' <<<"$json")
    [ "$missing" = '[]' ] || fail "status of a disk without $missing"
done
"$WEIR" status "$STORE" >"$T/out"
[ "$(wc -L <"$T/out")" -le 80 ] || fail "wider than 80 columns: $(cat "$T/out")"
"$WEIR" metrics "$STORE" >"$T/out"
grep -q '^weir_' "$T/out" || fail 'no metrics'
! grep -v '^#\|^weir_[a-z_]*\({[^}]*}\)\? [-+0-9.eInfNa]*$' "$T/out" ||
    fail 'not Prometheus text'

# bwlimit acts at once, and is kept.
"$WEIR" set "$STORE" bwlimit=4M
began=${EPOCHREALTIME/./}
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=16 conv=notrunc,fsync \
    status=none
drain_store
took=$(((${EPOCHREALTIME/./} - began) / 1000))
[ "$took" -ge 2000 ] || fail "16 MiB at 4 MiB/s took $took ms"
grep -q '^bwlimit=4M' "$STORE/weir.conf" || fail 'bwlimit is not kept'
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=64 conv=notrunc,fsync \
    status=none
await 5 status_is .state draining
# A drain under way tells of itself on SIGUSR1, and gives up its wait on SIGINT
# (job control, because a shell's background jobs ignore that otherwise).
set -m
"$WEIR" drain "$STORE" --wait >"$T/out" 2>"$T/err" &
waiting=$!
set +m
handles_usr1() { # caught, or blocked for a signalfd
    local mask
    mask=$(awk '/^Sig(Blk|Cgt)/ { print "0x" $2 }' /proc/$waiting/status |
        paste -sd'|')
    [ $(((mask) & 0x200)) -ne 0 ]
}
await 5 handles_usr1
usr1_is_answered() {
    kill -USR1 $waiting && grep -q 'to upload' "$T/err"
}
await 5 usr1_is_answered
kill -INT $waiting
code=0
wait $waiting || code=$?
[ "$code" -eq 130 ] || fail "drain --wait interrupted: exit $code"
"$WEIR" status "$STORE" --watch >"$T/out" 2>"$T/err" &
waiting=$!
redrawn() {
    [ "$(grep -ac DRAINING "$T/out")" -ge 2 ]
}
await 10 redrawn
kill $waiting
wait $waiting || true
"$WEIR" set "$STORE" bwlimit=0
began=${EPOCHREALTIME/./}
drain_store
took=$(((${EPOCHREALTIME/./} - began) / 1000))
[ "$took" -lt 10000 ] || fail "the limit went, and 64 MiB took $took ms"

# The disk grows under the guest; its new end is a hole, and is drained.
"$WEIR" resize "$STORE/vda" 128M
[ "$(stat -c %s "$MNT/vda.raw")" -eq $((128 << 20)) ] || fail 'did not grow'
printf 'the new end' | dd of="$MNT/vda.raw" bs=1M seek=127 conv=notrunc,fsync \
    status=none
drain_store
assert_same "$MNT/vda.raw" "$(uri far)"
exits 5 "$WEIR" resize "$STORE/vda" 256M # the target is not that large
[ "$(stat -c %s "$MNT/vda.raw")" -eq $((128 << 20)) ] || fail 'grew anyway'
exits 3 "$WEIR" remove "$STORE/vda" # in use
umount_store

# With no mount: status tells, drain drains.
mount_store
"$WEIR" pause "$STORE"
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=8 conv=notrunc,fsync \
    status=none
umount_store
exits 2 "$WEIR" is clean "$STORE"
exits 0 "$WEIR" drain "$STORE" --wait
exits 0 "$WEIR" is clean "$STORE"
assert_same "$STORE/vda/disk.raw" "$(uri far)"
exits 0 "$WEIR" check "$STORE"
