#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The disk of a running QEMU moves onto the mount while its guest writes:
# blockdev-add, blockdev-mirror, job-complete, as contrib/docs tells users to.
# Nothing is lost, and from then on the guest's writes are weir's.
. "$(dirname "$0")/functions.sh"
requires root fuse weir qemu-system-x86_64 busybox cpio nbdkit qemu-img jq \
    python3
new_dir
guest=${WEIR_GUEST_DIR:-$T/guest}
size=256M

qmp() {
    "$tests_dir/tools/qmp" "$T/qmp" "$@" >"$T/qmp.out" 2>>"$T/qmp.log" ||
        fail "QMP: $*: $(cat "$T/qmp.out")"
}

job_is() { # STATUS
    "$tests_dir/tools/qmp" "$T/qmp" query-jobs >"$T/qmp.out" &&
        [ "$(jq -r '.[0].status // "gone"' "$T/qmp.out")" = "$1" ]
}

start_nbdkit far memory $size
new_store $size "$(uri far)"
mount_store
truncate -s $size "$T/before.raw"

"$tests_dir/guest/run-guest" -q "$T/qmp" "$guest" \
    "$tests_dir/guest/job-busy" "$T/before.raw" >"$T/guest.log" 2>&1 &
guest_pid=$!
on_exit "end_pid $guest_pid"
await 60 grep -q 'ok round-5' "$T/guest.log"

qmp blockdev-add '{"node-name": "weir0", "driver": "raw", "discard": "unmap",
    "detect-zeroes": "unmap", "cache": {"direct": true},
    "file": {"driver": "file", "filename": "'"$MNT/vda.raw"'",
        "aio": "io_uring", "discard": "unmap", "cache": {"direct": true}}}'
qmp blockdev-mirror '{"job-id": "move", "device": "disk0", "target": "weir0",
    "sync": "full", "copy-mode": "write-blocking"}'
await 60 job_is ready
qmp job-complete '{"id": "move"}'
await 30 job_is gone
qmp query-block
[ "$(jq -r '.[0].inserted.file' "$T/qmp.out")" = "$MNT/vda.raw" ] ||
    fail "the guest is still on $(jq -r '.[0].inserted.file' "$T/qmp.out")"
rounds=$(grep -c 'ok round-' "$T/guest.log")
enough_rounds() {
    [ "$(grep -c 'ok round-' "$T/guest.log")" -gt $((rounds + 5)) ]
}
await 60 enough_rounds

qmp block_resize '{"node-name": "signal", "size": 2097152}'
wait "$guest_pid" || fail 'the guest did not end well'
umount_store "$MNT" --drain
assert_same "$STORE/vda/disk.raw" "$(uri far)"
"$tests_dir/guest/run-guest" "$guest" "$tests_dir/guest/job-busy-verify" \
    "$STORE/vda/disk.raw" >"$T/verify.log" 2>&1 || fail 'the moved disk'
say "$(grep rounds "$T/guest.log" | tr -d '\r'), moved after $rounds"
