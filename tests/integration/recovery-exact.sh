#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A loss of power under 4K random writes all over the disk, with a target that
# hangs (or, in the long tier, is away): what is sent after it is what differs,
# by comparison of the two images, and at most 1 MiB more. No more than 20 %
# of the disk differ.
. "$(dirname "$0")/functions.sh"
requires root fuse weir loop nbdkit qemu-img jq python3 mkfs.xfs
. "$tests_dir/integration/crashes.sh"
new_dir

mib=512
variants=hung
if is_long; then
    mib=10240
    variants='hung away'
fi
mib=${WEIR_TEST_MIB:-$mib}
clusters=$((mib * 16))
far_log=$T/far.requests

start_target() {
    rm -f "$far_log"
    start_nbdkit far --filter=log --filter=pause file "$T/far" \
        logfile="$far_log" pause-control="$T/pause"
}

# How many clusters of two images differ, and in how many bytes of 512.
differing() { # A B
    python3 - "$1" "$2" <<'END'
import sys
a, b = (open(name, 'rb', buffering=0) for name in sys.argv[1:3])
clusters = sectors = 0
while True:
    x, y = a.read(1 << 20), b.read(1 << 20)
    if not x:
        break
    if x == y:
        continue
    for at in range(0, len(x), 65536):
        if x[at:at + 65536] != y[at:at + 65536]:
            clusters += 1
            sectors += sum(x[i:i + 512] != y[i:i + 512]
                           for i in range(at, at + 65536, 512))
print(clusters, sectors * 512)
END
}

has_written() { # REQUESTS, by the log's count of sequences
    local next
    next=$(od -An -tu8 -j24 -N8 "$T/vda.stamps")
    [ "$next" -gt "$1" ]
}

run_one() { # VARIANT
    local n bytes sent zeroed beyond
    new_fs xfs $((mib + mib / 4 + 256))M
    STORE=$FS/store
    truncate -s ${mib}M "$T/far"
    start_target
    new_store ${mib}M "$(uri far)"
    "$WEIR" set "$STORE" request-deadline=1 >>"$T/weir.log"
    mount_store
    "$stamp" write -s "$seed" -n $mib -b 1048576-1048576 -t 4 -p 0 -f 0 \
        "$MNT/vda.raw" "$T/vda.stamps" >"$T/fill.log"
    drain_store
    umount_store
    mount_store
    status_is .dirty_bytes 0 || fail 'dirty before it began'

    if [ "$1" = hung ]; then
        nbdkit_pause "$T/pause" p
    else
        kill_server far
    fi
    # All over, then in one place until the power goes.
    "$stamp" write -s "$seed" -n $((clusters * 14 / 100)) -b 4096-4096 -p 0 \
        -f 32 "$MNT/vda.raw" "$T/vda.stamps" >"$T/spread.log"
    n=$(od -An -tu8 -j24 -N8 "$T/vda.stamps")
    start_writer vda "$MNT/vda.raw" -b 4096-4096 -p 0 -f 32 \
        -r $((RANDOM % (mib - mib / 25) << 20))+$((mib / 25 << 20))
    await 60 has_written $((n + clusters / 25))
    random_wait 1000
    cut_power
    await_writer vda
    # What had arrived and was not executed dies with the server.
    [ "$1" != hung ] || kill_server far

    read -r n bytes < <(differing "$STORE/vda/disk.raw" "$T/far")
    ((n * 5 <= clusters)) || fail "$n of $clusters clusters differ"
    start_target
    mount_store
    verify_stamps vda "$MNT/vda.raw" -A
    drain_store
    assert_same "$MNT/vda.raw" "$T/far"
    read -r sent zeroed < <(bytes_sent "$far_log")
    beyond=$((sent + zeroed - n * 65536))
    umount_store
    detach_fs
    stop_server far
    rm -f "$T/vda.stamps" "$fs_image"
    say "seed $seed: $1: $n of $clusters clusters differed (in" \
        "$((bytes >> 10)) KiB), sent $((sent >> 10)) KiB and zeroed" \
        "$((zeroed >> 10)) KiB: $((beyond / 1024)) KiB beyond them"
    ((beyond <= 1 << 20)) || fail "$1: $beyond bytes beyond $n clusters"
}

for variant in ${WEIR_TEST_VARIANTS:-$variants}; do
    run_one $variant
done
