# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2154
#
# Does the guest feel its target? In each round fio writes three times, in
# changing order: with the relay at a target in a bad state, on the same
# store with the relay paused, and on a store that has no target at all. The
# 99th percentile of the write latency should be the same in all three.

guest_states=(hung refusing 1mbit gone)
# For a pause to take hold, or for the first attempts after it.
guest_settle=0.3

bench_guest() {
    local n=${rounds:-7} t=${seconds:-3} bytes state
    bytes=$(numfmt --from=iec 512M)
    if [ "$quick" = yes ]; then
        n=${rounds:-2} t=${seconds:-1} bytes=$(numfmt --from=iec 128M)
    fi
    store_up none --size "$bytes"
    fill "$work/none/vda.raw"
    for state in "${guest_states[@]}"; do
        say "guest: the target is $state"
        guest_state "$state" "$n" "$t" "$bytes"
    done
    store_down none
}

guest_state() { # state, rounds, seconds, bytes
    local state=$1 n=$2 t=$3 bytes=$4 round qd began
    guest_server "$state" "$bytes"
    store_up bad --size "$bytes" --target "$(uri far)"
    "$weir" pause "$work/bad.store" >/dev/null
    fill "$work/bad/vda.raw"
    "$weir" resume "$work/bad.store" >/dev/null
    guest_spoil "$state"
    for qd in 1 16; do
        for ((round = 1; round <= n; round++)); do
            guest_round "$state" "$qd" "$round" "$t"
        done
    done
    guest_answers "$state"
    began=$EPOCHREALTIME
    store_down bad
    record guest "$state" 1 umount seconds "$(since "$began")"
    # nbdkit does not end while it is paused.
    [ "$state" != hung ] || figures control "$work/far.control" r
    stop far
}

# What the relay meets. The file plugin keeps its content over a restart,
# and a target that was good first is the harder case: there are connections
# and requests under way when it turns bad.
guest_server() { # state, bytes
    rm -f "$work/far.img"
    truncate -s "$2" "$work/far.img"
    case $1 in
    hung) server_up far --filter=pause file "$work/far.img" \
        pause-control="$work/far.control" ;;
    1mbit) server_up far --filter=rate file "$work/far.img" rate=1M ;;
    gone) server_up far file "$work/far.img" ;;
    refusing) rm -f "$work/far.sock" ;;
    esac
}

guest_spoil() { # state
    [ "$1" = refusing ] ||
        await 10 "$weir" is connected "$work/bad.store" ||
        die "weir does not connect to its target"
    case $1 in
    hung) figures control "$work/far.control" p ;;
    gone)
        kill -KILL "${pid_of[far]}"
        wait "${pid_of[far]}" 2>/dev/null || :
        unset 'pid_of[far]'
        ;;
    esac
}

guest_round() { # state, depth, round, seconds
    local who order=(none paused bad)
    if [ $(($3 % 2)) = 0 ]; then
        order=(bad paused none)
    fi
    for who in "${order[@]}"; do
        guest_run "$who" "$@"
    done
}

guest_run() { # who, state, depth, round, seconds
    local who=$1 state=$2 qd=$3 round=$4 t=$5 file=$work/bad/vda.raw
    case $who in
    bad) "$weir" resume "$work/bad.store" >/dev/null ;;
    *) "$weir" pause "$work/bad.store" >/dev/null ;;
    esac
    if [ "$who" = none ]; then
        file=$work/none/vda.raw
    fi
    sleep "$guest_settle"
    run_fio guest "$state-qd$qd" "$round" "$who" "$file" --rw=randwrite \
        --bs=4k --iodepth="$qd" --time_based --runtime="$t" \
        --randseed="$round"
}

guest_answers() { # state: do the others answer meanwhile?
    local began
    "$weir" resume "$work/bad.store" >/dev/null
    began=$EPOCHREALTIME
    "$weir" status "$work/bad.store" >/dev/null
    record guest "$1" 1 status seconds "$(since "$began")"
    began=$EPOCHREALTIME
    ls -l "$work/bad" >/dev/null
    record guest "$1" 1 ls seconds "$(since "$began")"
    began=$EPOCHREALTIME
    df "$work/bad" >/dev/null
    record guest "$1" 1 df seconds "$(since "$began")"
}

since() { # EPOCHREALTIME of the beginning: seconds
    figures minus "$EPOCHREALTIME" "$1"
}
