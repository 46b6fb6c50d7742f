# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2154
#
# What a guest pays for cuts: for old content that is kept aside before it
# overwrites it, and for waiting while the relay reads it.
#
#   every second   a hot set, a quarter of the disk or all of it, a near target,
#                  and a cut every second; against the same store with its relay
#                  paused (no cut at all), and under policy none
#   first          one write into each cluster of a disk that a cut owes as a
#                  whole (its target is held back), and once more the same
#                  writes; p50 against the same before there was a cut

cuts_rows=(
    "4k-write-qd32 randwrite 4k 32"
    "4k-write-qd1 randwrite 4k 1"
    "64k-write-qd16 randwrite 64k 16"
)

bench_cuts() {
    local n=${rounds:-5} t=${seconds:-4} bytes part row round
    bytes=$(numfmt --from=iec 256M)
    if [ "$quick" = yes ]; then
        n=${rounds:-1} t=${seconds:-2} bytes=$(numfmt --from=iec 64M)
    fi
    say "cuts: every second"
    server_up near memory "$bytes"
    store_up cuts --size "$bytes" --target "$(uri near)"
    "$weir" set "$work/cuts.store" cut-interval=1 >/dev/null
    fill "$work/cuts/vda.raw"
    for part in cuts-hot cuts-all; do
        for row in "${cuts_rows[@]}"; do
            for ((round = 1; round <= n; round++)); do
                # shellcheck disable=SC2086
                cuts_round $part "$round" "$t" "$bytes" $row
            done
        done
    done
    store_down cuts
    stop near
    say "cuts: first overwrite"
    for ((round = 1; round <= n; round++)); do
        cuts_first "$round" "$bytes"
    done
}

cuts_round() { # cuts-hot|cuts-all, round, seconds, bytes of the disk, the row
    local part=$1 round=$2 t=$3 bytes=$4 name=$5 rw=$6 bs=$7 qd=$8
    local who before whole
    local order=(paused cut none)
    [ "$part" = cuts-all ] || bytes=$((bytes / 4))
    if [ $((round % 2)) = 0 ]; then
        order=(none cut paused)
    fi
    for who in "${order[@]}"; do
        cuts_as "$who"
        before=$(cuts_metric weir_aside_clusters_total)
        whole=$(cuts_metric weir_cuts_whole_total)
        run_fio "$part" "$name" "$round" "$who" "$work/cuts/vda.raw" \
            --rw="$rw" --bs="$bs" --iodepth="$qd" --runtime="$t" --time_based \
            --size="$bytes" --randseed="$round"
        if [ "$who" = cut ]; then
            record "$part" "$name" "$round" cut aside \
                $(($(cuts_metric weir_aside_clusters_total) - before))
            record "$part" "$name" "$round" cut whole \
                $(($(cuts_metric weir_cuts_whole_total) - whole))
        fi
    done
}

cuts_as() { # who: the store goes on as
    local store=$work/cuts.store
    "$weir" resume "$store" >/dev/null
    case $1 in
    none) "$weir" set "$store" policy=none >/dev/null ;;
    *) "$weir" set "$store" policy=cut >/dev/null ;;
    esac
    "$weir" drain "$store" --wait >/dev/null 2>&1
    [ "$1" != paused ] || "$weir" pause "$store" >/dev/null
}

cuts_metric() { # name
    "$weir" metrics "$work/cuts.store" |
        awk -v name="$1" '$1 ~ "^" name { n += $NF } END { print n + 0 }'
}

# Strided: each write is the first one in its cluster.
cuts_stride() { # round, who, QD, bytes of the disk
    run_fio first "first-qd$3" "$1" "$2" "$work/cuts/vda.raw" --rw=write \
        --bs=4k --iodepth="$3" --zonemode=strided --zonesize=4k \
        --zonerange=64k --io_size=$(($4 / 16))
}

cuts_first() { # round, bytes
    local qd before paid
    for qd in 1 32; do
        server_up far memory "$2"
        store_up cuts --size "$2" --target "$(uri far)"
        fill "$work/cuts/vda.raw"
        "$weir" drain "$work/cuts.store" --wait >/dev/null 2>&1
        "$weir" set "$work/cuts.store" cut-interval=86400 bwlimit=64K >/dev/null
        cuts_stride "$1" plain "$qd" "$2"
        "$weir" drain "$work/cuts.store" >/dev/null
        await 10 cuts_is_sending || die "no cut begins"
        before=$(cuts_metric weir_aside_clusters_total)
        cuts_stride "$1" first "$qd" "$2"
        paid=$(($(cuts_metric weir_aside_clusters_total) - before))
        record first "first-qd$qd" "$1" first aside "$paid"
        cuts_stride "$1" second "$qd" "$2"
        store_down cuts
        rm -rf "$work/cuts.store"
        stop far
    done
}

cuts_is_sending() {
    "$weir" status "$work/cuts.store" --json | grep -q '"sending"'
}
