#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A real guest writes and syncs while the daemon under its disk is killed, and
# upgraded: QEMU sees no I/O error, the VM goes on running, and the guest's own
# checks of what it wrote pass.
. "$(dirname "$0")/functions.sh"
requires root fuse weir qemu-nbd qemu-img qemu-system-x86_64 busybox cpio jq \
    kernel-6.9
new_dir
guest=${WEIR_GUEST_DIR:-$T/guest}

kills=4
is_long && kills=40
truncate -s 256M "$T/far"
start_qemu_nbd far raw "$T/far"
new_store 256M "$(uri far)"
"$WEIR" set "$STORE" request-deadline=1
mount_store

qmp() { # COMMAND [ARGUMENTS]: what it returns
    "$tests_dir/tools/qmp" "$T/qmp.sock" "$@"
}

rounds_done() { # NUMBER
    [ "$(grep -c 'guest: ok round-' "$T/guest.log")" -ge "$1" ]
}

"$tests_dir/guest/run-guest" -t 200 -q "$T/qmp.sock" "$guest" \
    "$tests_dir/guest/job-busy" "$MNT/vda.raw" >"$T/guest.log" 2>&1 &
vm=$!
await 90 rounds_done 1
for ((kill = 1; kill <= kills; kill++)); do
    rounds=$(grep -c 'guest: ok round-' "$T/guest.log")
    kill_daemon_only
    await 20 status_is .restarts "$kill"
    await 60 rounds_done $((rounds + 2))
done
"$WEIR" upgrade "$STORE" >"$T/out" || fail 'upgrade'
rounds=$(grep -c 'guest: ok round-' "$T/guest.log")
await 60 rounds_done $((rounds + 2))
[ "$(qmp query-status | jq -r .status)" = running ] || fail 'the VM is stopped'
[ "$(qmp query-blockstats | jq '[.[].stats |
    .failed_rd_operations + .failed_wr_operations +
    .failed_flush_operations] | add')" -eq 0 ] || fail 'QEMU has seen errors'
qmp block_resize '{"node-name": "signal", "size": 2097152}' >"$T/out"
wait $vm || fail 'the guest did not succeed'
! grep -iE 'I/O error|Buffer I/O|remount' "$T/guest.log" ||
    fail 'the guest has seen errors'
drain_store
assert_same "$MNT/vda.raw" "$(uri far)"
"$tests_dir/guest/run-guest" "$guest" "$tests_dir/guest/job-busy-verify" \
    "$MNT/vda.raw" >"$T/verify.log" 2>&1 || fail 'what it wrote is not there'
umount_store
say "$kills kills and an upgrade under a running guest"
