# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2154
#
# What it costs the guest that others want to know what it changes: a hot set of
# a written disk, with ten named bitmaps that record, taking turns with none.
#
# The extents of a hot set are hot, so that no metadata is written meanwhile,
# with bitmaps or without; the counter of those writes is recorded.

bitmaps_rows=(
    "4k-write-qd32 randwrite 4k 32"
    "4k-write-qd1 randwrite 4k 1"
    "64k-write-qd16 randwrite 64k 16"
    "1m-write-qd8 randwrite 1M 8"
)

bench_bitmaps() {
    local n=${rounds:-5} t=${seconds:-3} bytes row round
    bytes=$(numfmt --from=iec 512M)
    if [ "$quick" = yes ]; then
        n=${rounds:-1} t=${seconds:-1} bytes=$(numfmt --from=iec 128M)
    fi
    say "bitmaps: a hot set"
    store_up bits --size "$bytes"
    fill "$work/bits/vda.raw"
    for row in "${bitmaps_rows[@]}"; do
        for ((round = 1; round <= n; round++)); do
            # shellcheck disable=SC2086
            bitmaps_round "$round" "$t" $row
        done
    done
    store_down bits
}

bitmaps_round() { # round, seconds, the row
    local round=$1 t=$2 name=$3 rw=$4 bs=$5 qd=$6 who before
    local order=(none ten)
    if [ $((round % 2)) = 0 ]; then
        order=(ten none)
    fi
    for who in "${order[@]}"; do
        bitmaps_as "$who"
        before=$(intent_writes)
        run_fio bitmaps "$name" "$round" "$who" "$work/bits/vda.raw" \
            --rw="$rw" --bs="$bs" --iodepth="$qd" --runtime="$t" --time_based \
            --randseed="$round"
        record bitmaps "$name" "$round" "$who" metadata \
            $(($(intent_writes) - before))
    done
}

bitmaps_as() { # who: there are ten, or none
    local i has
    has=$("$weir" bitmap list "$work/bits.store/vda" --json | grep -c '"name"' ||
        true)
    for ((i = 1; i <= 10; i++)); do
        case $1,$has in
        ten,0) "$weir" bitmap add "$work/bits.store/vda" "b$i" >/dev/null ;;
        none,10) "$weir" bitmap remove "$work/bits.store/vda" "b$i" >/dev/null ;;
        esac
    done
}

intent_writes() {
    "$weir" metrics "$work/bits.store" |
        awk '/^weir_intent_writes_total/ { n += $NF } END { print n + 0 }'
}
