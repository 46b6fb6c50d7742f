# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2154
#
# What it costs the guest that a crash finds its way back. A disk without a
# target is not tracked, so the same row runs on one store with a target (the
# relay paused) and on one without.
#
#   hot   a written disk, where everything was written before: no metadata
#         write is allowed, and their counter is recorded
#   cold  4K random writes over 1 TiB that nobody has written, each run on a
#         new store: nearly every write meets an extent that is cold

track_rows=(
    "4k-write-qd32 randwrite 4k 32"
    "4k-write-qd1 randwrite 4k 1"
    "64k-write-qd16 randwrite 64k 16"
    "1m-write-qd8 randwrite 1M 8"
)

bench_track() {
    local n=${rounds:-5} t=${seconds:-3} cold=5 bytes row round
    bytes=$(numfmt --from=iec 512M)
    if [ "$quick" = yes ]; then
        n=${rounds:-1} t=${seconds:-1} cold=1 bytes=$(numfmt --from=iec 128M)
    fi
    say "track: a hot set"
    server_up paused memory "$bytes"
    track_up on "$bytes" --target "$(uri paused)"
    track_up off "$bytes"
    fill "$work/on/vda.raw"
    fill "$work/off/vda.raw"
    for row in "${track_rows[@]}"; do
        for ((round = 1; round <= n; round++)); do
            # shellcheck disable=SC2086
            track_hot "$round" "$t" $row
        done
    done
    store_down on
    store_down off
    stop paused
    say "track: cold extents"
    for ((round = 1; round <= n; round++)); do
        track_cold "$round" "$cold"
    done
}

track_up() { # name, bytes, more arguments of create
    local name=$1 bytes=$2
    shift 2
    store_up "$name" --size "$bytes" "$@"
    if [ "$name" = on ]; then
        "$weir" pause "$work/on.store" >/dev/null
    fi
}

track_order() { # round: on and off, taking turns
    if [ $(($1 % 2)) = 0 ]; then
        printf 'on\noff\n'
    else
        printf 'off\non\n'
    fi
}

intent_writes() { # name of a store
    "$weir" metrics "$work/$1.store" |
        awk '/^weir_intent_writes_total/ { n += $NF } END { print n + 0 }'
}

track_hot() { # round, seconds, the row
    local round=$1 t=$2 name=$3 rw=$4 bs=$5 qd=$6 who before
    for who in $(track_order "$round"); do
        before=$(intent_writes on)
        run_fio hot "$name" "$round" "$who" "$work/$who/vda.raw" --rw="$rw" \
            --bs="$bs" --iodepth="$qd" --runtime="$t" --time_based \
            --randseed="$round"
        if [ "$who" = on ]; then
            record hot "$name" "$round" on metadata \
                $(($(intent_writes on) - before))
        fi
    done
}

track_cold() { # round, seconds
    local round=$1 t=$2 who bytes
    bytes=$(numfmt --from=iec 1T)
    for who in $(track_order "$round"); do
        if [ "$who" = on ]; then
            server_up paused memory "$bytes"
            track_up on "$bytes" --target "$(uri paused)"
        else
            track_up off "$bytes"
        fi
        run_fio cold 4k-write-qd32 "$round" "$who" "$work/$who/vda.raw" \
            --rw=randwrite --bs=4k --iodepth=32 --runtime="$t" --time_based \
            --randseed="$round"
        store_down "$who"
        stop paused
    done
}
