#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# fio writes and reads back with checksums: 512 bytes to 1 MiB, one request at
# a time and 32, O_DIRECT, through the page cache and through a mapping, with
# trims between, and the relay at work all along. The same data is there after
# a remount, and at the target in the end.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq fio
new_dir

share=24 # MiB that each job has to itself
is_long && share=512
jobs=()
# Shared mappings under direct_io are the kernel's from 6.6 on. First, because
# fio's mmap engine forgets --offset.
if kernel_is_at_least 6.6; then
    jobs=("mapped --bsrange=4k-64k --ioengine=mmap")
fi
jobs+=(
    "mixed-32 --bsrange=512-1M --direct=1 --ioengine=libaio --iodepth=32"
    "uring-32 --bsrange=4k-256k --direct=1 --ioengine=io_uring --iodepth=32"
    "mixed-1 --bssplit=512/10:1536/10:4k/40:64k/40 --direct=1 --ioengine=psync"
    "buffered --bsrange=512-256k --ioengine=psync --fsync=64"
)
trimmed=${#jobs[@]} # the share after them
size=$(((trimmed + 1) * share))M

# Every 512 bytes have a checksum of their own, so that requests of any size
# can check what requests of other sizes wrote.
run_fio() { # NAME OPTION…
    fio --name="$1" --filename="$MNT/vda.raw" --verify=crc32c \
        --verify_interval=512 --verify_fatal=1 \
        --verify_state_save=0 "${@:2}" >"$T/$1.log" 2>&1 ||
        fail "$1: $(grep -m 1 -E 'verify|error' "$T/$1.log")"
    rm "$T/$1.log"
}

# Random sizes leave gaps between them: one pass in order comes first.
write_and_verify() {
    local i name options
    run_fio layout --rw=write --bs=1M --direct=1 --ioengine=io_uring \
        --iodepth=4 --size=$((trimmed * share))M
    for i in "${!jobs[@]}"; do
        read -r name options <<<"${jobs[i]}"
        # shellcheck disable=SC2086
        run_fio "$name" --rw=randwrite --offset=$((i * share))M \
            --size=${share}M $options
    done
}

verify_again() {
    run_fio read-direct --rw=randread --bsrange=512-512k --direct=1 \
        --ioengine=io_uring --iodepth=16 --size=$((trimmed * share))M
    run_fio read-buffered --rw=read --bs=256k --size=$((trimmed * share))M
    cmp -n $((share << 20)) -i $(((trimmed * share) << 20)):0 \
        "$MNT/vda.raw" /dev/zero || fail 'what was trimmed is not zero'
}

truncate -s $size "$T/far"
start_nbdkit far file "$T/far"
new_store $size "$(uri far)"
mount_store

dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=$share conv=notrunc \
    seek=$((trimmed * share)) status=none
fio --name=trims --filename="$MNT/vda.raw" --rw=randtrim --ioengine=falloc \
    --offset=$((trimmed * share))M --size=${share}M --bsrange=512-1M \
    >"$T/trims.log" 2>&1 || fail "trims: $(grep -m 1 error "$T/trims.log")"
rm "$T/trims.log"
write_and_verify
verify_again

before=$(sha256sum <"$MNT/vda.raw")
umount_store
mount_store
[ "$(sha256sum <"$MNT/vda.raw")" = "$before" ] || fail 'a remount changed it'
verify_again
drain_store
assert_same "$MNT/vda.raw" "$(uri far)"
umount_store
assert_same "$STORE/vda/disk.raw" "$(uri far)"
