#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A real guest on the mount, its disk drained to a real server: the target is
# the disk, byte for byte, and a second boot from the mount finds everything.
#
# One server per run, another each day; --long takes all, and boots a guest
# from the target itself where that is a raw file.
#   guest-drain.sh [nbdkit-file|nbdkit-memory|qemu-raw|qemu-qcow2|nbd-server]
. "$(dirname "$0")/functions.sh"
requires root fuse weir qemu-system-x86_64 busybox cpio mkfs.xfs mkfs.btrfs \
    nbdkit qemu-nbd nbd-server
new_dir
guest=${WEIR_GUEST_DIR:-$T/guest}
size=768M
far=$T/far

start_target() { # KIND: the server "far"; what it keeps in $far, if anything
    rm -f "$far"
    case $1 in
    nbdkit-file) truncate -s $size "$far" && start_nbdkit far file "$far" ;;
    nbdkit-memory) start_nbdkit far memory $size ;;
    qemu-raw) truncate -s $size "$far" && start_qemu_nbd far raw "$far" ;;
    qemu-qcow2)
        qemu-img create -q -f qcow2 "$far" $size
        start_qemu_nbd far qcow2 "$far"
        ;;
    nbd-server) truncate -s $size "$far" && start_nbd_server far "$far" ;;
    *) fail "no target called $1" ;;
    esac
}

boot() { # JOB IMAGE
    "$tests_dir/guest/run-guest" "$guest" "$tests_dir/guest/$1" "$2" \
        >"$T/$1.log" 2>&1 || fail "guest: $1 on $2"
}

run_one() { # KIND
    local began=$SECONDS
    start_target "$1"
    new_store $size "$(uri far)"
    mount_store
    boot job-write "$MNT/vda.raw"
    drain_store
    status_is .dirty_bytes 0 || fail "dirty after the drain: $(status .)"
    assert_same "$MNT/vda.raw" "$(uri far)"
    boot job-verify "$MNT/vda.raw"
    drain_store
    umount_store
    assert_same "$STORE/vda/disk.raw" "$(uri far)"
    stop_server far
    if is_long && [[ $1 == *file || $1 == *raw || $1 == nbd-server ]]; then
        boot job-verify "$far"
    fi
    rm -rf "$STORE"
    say "$1: identical, $((SECONDS - began)) s"
}

kinds=(nbdkit-file nbdkit-memory qemu-raw qemu-qcow2 nbd-server)
if [ $# -gt 0 ]; then
    kinds=("$@")
elif ! is_long; then
    kinds=("${kinds[$(($(date +%s) / 86400 % ${#kinds[@]}))]}")
fi
for kind in "${kinds[@]}"; do
    run_one "$kind"
done
