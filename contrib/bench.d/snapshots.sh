# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2154
#
# What a guest pays for snapshots: for old content that is kept, durably, before
# it overwrites it; and how long it takes to make one.
#
#   snap     one write into each cluster of a disk, before there is a snapshot,
#            after one was made, and once more; p50 to that of before
#   keeping  reads with 100 snapshots kept, to none
#   making   p99 of making one, as a client of the control socket sees it, while
#            a guest writes; a disk of 1 GiB and one of 10 TiB
#
# The disks have no target: what an upload costs is measured elsewhere.

bench_snapshots() {
    local n=${rounds:-5} t=${seconds:-3} bytes many=100 round size
    bytes=$(numfmt --from=iec 256M)
    if [ "$quick" = yes ]; then
        n=${rounds:-1} t=${seconds:-2} bytes=$(numfmt --from=iec 64M) many=10
    fi
    say "snapshots: first overwrite"
    for ((round = 1; round <= n; round++)); do
        snapshots_first "$round" "$bytes"
    done
    say "snapshots: $many kept"
    snapshots_kept "$n" "$t" "$bytes" "$many"
    say "snapshots: making one"
    for size in 1G 10T; do
        snapshots_making "$size" "$many"
    done
}

snapshots_stride() { # round, who, QD, bytes of the disk
    run_fio snap "snap-qd$3" "$1" "$2" "$work/snaps/vda.raw" --rw=write \
        --bs=4k --iodepth="$3" --zonemode=strided --zonesize=4k \
        --zonerange=64k --io_size=$(($4 / 16))
}

snapshots_make() { # name
    "$weir" snapshot create "$work/snaps.store" "$1" >/dev/null
}

snapshots_first() { # round, bytes
    local qd
    for qd in 1 32; do
        store_up snaps --size "$2"
        fill "$work/snaps/vda.raw"
        snapshots_stride "$1" plain "$qd" "$2"
        snapshots_make one
        snapshots_stride "$1" first "$qd" "$2"
        record snap "snap-qd$qd" "$1" first kept \
            "$("$weir" snapshot diff "$work/snaps.store" one --json |
                figures total changed_clusters)"
        snapshots_stride "$1" second "$qd" "$2"
        store_down snaps
    done
}

snapshots_kept() { # rounds, seconds, bytes, how many
    local round i
    store_up snaps --size "$3"
    fill "$work/snaps/vda.raw"
    for ((round = 1; round <= $1; round++)); do
        snapshots_read "$round" none "$2"
    done
    for ((i = 1; i <= $4; i++)); do
        snapshots_make "s$i"
        fio --name=dirty --filename="$work/snaps/vda.raw" --direct=1 \
            --ioengine=io_uring --allow_file_create=0 --fallocate=none \
            --rw=randwrite --bs=4k --number_ios=16 --randseed="$i" \
            >"$work/fio.log" 2>&1 || die "fio cannot write: see fio.log"
    done
    for ((round = 1; round <= $1; round++)); do
        snapshots_read "$round" many "$2"
    done
    store_down snaps
}

snapshots_read() { # round, who, seconds
    local qd
    for qd in 1 32; do
        run_fio keeping "4k-read-qd$qd" "$1" "$2" "$work/snaps/vda.raw" \
            --rw=randread --bs=4k --iodepth="$qd" --runtime="$3" --time_based \
            --randseed="$1"
    done
}

snapshots_making() { # size, how many
    store_up snaps --size "$1"
    start writer fio --name=guest --filename="$work/snaps/vda.raw" --direct=1 \
        --ioengine=io_uring --allow_file_create=0 --fallocate=none \
        --rw=randwrite --bs=4k --iodepth=4 --size=256M --rate_iops=2000 \
        --runtime=600 --time_based
    figures making "$work/snaps.store/control.sock" "$2" "$1" >>"$results" ||
        die "snapshots cannot be made"
    stop writer
    store_down snaps
}
