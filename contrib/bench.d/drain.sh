# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2154
#
# The drain beside the tools that copy an image to an NBD server. Each run
# has a new server and an image that is not in the page cache. Time is the
# wall time of the whole command (`weir drain STORE --wait`, with no mount),
# from its start to its end, CPU and memory are those of its process as the
# kernel counts them.

bench_drain() {
    local n=${rounds:-5} size=2G bytes
    for tool in nbdcopy qemu-img; do
        command -v $tool >/dev/null || die "$tool is missing (contrib/deps)"
    done
    if [ "$quick" = yes ]; then
        n=${rounds:-1} size=256M
    fi
    bytes=$(numfmt --from=iec $size)
    progress "drain: making an image of $size"
    dd if=/dev/urandom of="$work/source.img" bs=1M iflag=fullblock \
        count=$((bytes >> 20)) conv=fsync status=none
    say "drain: to a near server"
    drain_case near "$n" "$bytes" weir nbdcopy -- memory "$bytes"
    say "drain: to a server that takes 50 ms for each write"
    drain_case wdelay50ms "$n" "$bytes" weir nbdcopy qemu-img -- \
        --filter=delay memory "$bytes" wdelay=50ms
    rm "$work/source.img"
}

drain_case() { # case, rounds, bytes, tools ... -- the server's arguments
    local case=$1 n=$2 bytes=$3 round tool tools=()
    shift 3
    while [ "$1" != -- ]; do
        tools+=("$1")
        shift
    done
    shift
    for ((round = 1; round <= n; round++)); do
        for tool in "${tools[@]}"; do
            progress "drain: $case, round $round, $tool"
            server_up sink "$@"
            drain_run "$case" "$round" "$tool" "$bytes"
            stop sink
        done
    done
}

drain_run() { # case, round, tool, bytes
    local image=$work/source.img store=$work/drain.store command
    case $3 in
    weir)
        "$weir" create "$store/vda" --from "$image" --target "$(uri sink)" \
            >"$work/create.log" 2>&1 || {
            cat "$work/create.log" >&2
            die "weir create --from failed"
        }
        image=$store/vda/disk.raw
        command=("$weir" drain "$store" --wait)
        ;;
    nbdcopy) command=(nbdcopy "$image" "$(uri sink)") ;;
    qemu-img) command=(qemu-img convert -n -W -m 16 -f raw -O raw "$image"
        "nbd:unix:$work/sink.sock") ;;
    esac
    figures evict "$image"
    figures timed "$work/timed" "${command[@]}" >"$work/$3.log" 2>&1 || {
        tail -3 "$work/$3.log" >&2
        die "$3 failed"
    }
    drain_record "$@"
    rm -rf "$store"
}

drain_record() { # case, round, tool, bytes
    local wall cpu rss
    read -r wall cpu rss <"$work/timed"
    record drain "$1" "$2" "$3" seconds "$wall"
    record drain "$1" "$2" "$3" bytes "$4"
    record drain "$1" "$2" "$3" cpu "$cpu"
    record drain "$1" "$2" "$3" rss "$rss"
}
