# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2154
#
# The mount beside the raw file and the peers. On a written disk each subject
# stays up and they take turns; a disk never written before is made anew for
# every single run, and is larger, so that a fast run does not come round to
# blocks that it has just written.

# name, pattern, block size, depth, more options
mount_rows=(
    "4k-write-qd32 randwrite 4k 32"
    "4k-write-qd1 randwrite 4k 1"
    "64k-write-qd16 randwrite 64k 16"
    "1m-write-qd8 randwrite 1M 8"
    "4k-read-qd32 randread 4k 32"
    "4k-read-qd1 randread 4k 1"
    "4k-write-sync-qd1 randwrite 4k 1 --fdatasync=1"
)

bench_mount() {
    local n=${rounds:-5} t=${seconds:-3} size=1G fresh=4G drained=4G
    local who=()
    if [ "$quick" = yes ]; then
        n=${rounds:-1} t=${seconds:-1} size=256M fresh=512M drained=512M
    fi
    choose_subjects
    [ ${#who[@]} -gt 0 ] || die "none of --subjects is installed"
    say "mount: a written disk"
    mount_written "$n" "$t" $size
    say "mount: a disk never written before"
    mount_fresh "$n" "$t" $fresh
    case " ${who[*]} " in
    *" weir "*)
        say "mount: while a drain goes on"
        mount_draining "$n" $((t > 2 ? 2 : t)) $drained
        ;;
    esac
}

choose_subjects() {
    local s
    for s in ${subjects//,/ }; do
        case $s in
        raw | weir) ;;
        weir-uring) switch_uring_on || continue ;;
        qsd) command -v qemu-storage-daemon >/dev/null || continue ;;
        nbdfuse) command -v nbdfuse >/dev/null || continue ;;
        *) die "no subject $s" ;;
        esac
        who+=("$s")
    done
}

each_row() { # function, arguments ...: called with the row's words at the end
    local row
    for row in "${mount_rows[@]}"; do
        if [[ ${row%% *} =~ $rows ]]; then
            # shellcheck disable=SC2086
            "$@" $row
        fi
    done
}

# Who goes first changes with the round: the last one's write-back, or a
# burst allowance of the disk, shall not always hit the same subject.
turn() { # round: the subjects in this round's order
    local i k=${#who[@]}
    for ((i = 0; i < k; i++)); do
        printf '%s\n' "${who[($1 + i) % k]}"
    done
}

mount_written() { # rounds, seconds, size
    local s
    for s in "${who[@]}"; do
        subject_up "$s" "$(numfmt --from=iec "$3")"
        progress "filling $s"
        fill "${file_of[$s]}"
    done
    each_row mount_written_row "$1" "$2"
    for s in "${who[@]}"; do
        subject_down "$s"
    done
}

mount_written_row() { # rounds, seconds, the row
    local n=$1 t=$2 name=$3 rw=$4 bs=$5 qd=$6 round s
    shift 6
    for ((round = 1; round <= n; round++)); do
        for s in $(turn "$round"); do
            run_fio written "$name" "$round" "$s" "${file_of[$s]}" \
                --rw="$rw" --bs="$bs" --iodepth="$qd" --runtime="$t" \
                --time_based --randseed="$round" "$@"
        done
    done
}

mount_fresh() { # rounds, seconds, size
    each_row mount_fresh_row "$1" "$2" "$(numfmt --from=iec "$3")"
}

mount_fresh_row() { # rounds, seconds, bytes, the row
    local n=$1 t=$2 bytes=$3 name=$4 rw=$5 bs=$6 qd=$7 round s
    shift 7
    for ((round = 1; round <= n; round++)); do
        for s in $(turn "$round"); do
            subject_up "$s" "$bytes"
            run_fio fresh "$name" "$round" "$s" "${file_of[$s]}" \
                --rw="$rw" --bs="$bs" --iodepth="$qd" --runtime="$t" \
                --randseed="$round" "$@"
            subject_down "$s"
        done
    done
}

# The disk is dirtied whole with the relay paused, then the relay is let go
# and fio runs beside it as soon as something was sent: on the raw file, and in
# the mount. What is dirty at the end says whether the drain lasted as long as fio
# did. Policy none: what cuts cost is
# measured elsewhere, and with them the relay would wait for the next one first.
mount_draining() { # rounds, seconds, size
    local bytes
    bytes=$(numfmt --from=iec "$3")
    subject_up raw "$bytes"
    fill "${file_of[raw]}"
    server_up sink memory "$bytes"
    store_up draining --size "$bytes" --target "$(uri sink)"
    "$weir" set "$work/draining.store" policy=none >/dev/null
    each_row mount_draining_row "$1" "$2"
    store_down draining
    stop sink
    subject_down raw
}

mount_draining_row() { # rounds, seconds, the row
    local n=$1 t=$2 name=$3 rw=$4 bs=$5 qd=$6 round
    shift 6
    local opts=(--rw="$rw" --bs="$bs" --iodepth="$qd" --time_based
        --runtime="$t" "$@")
    for ((round = 1; round <= n; round++)); do
        draining_begin
        run_fio draining "$name" "$round" raw "${file_of[raw]}" \
            --randseed="$round" "${opts[@]}"
        draining_begin
        run_fio draining "$name" "$round" weir "$work/draining/vda.raw" \
            --randseed="$round" "${opts[@]}"
        record draining "$name" "$round" weir left \
            "$(figure_of_status draining dirty_bytes)"
    done
}

draining_begin() { # all is dirty, and something of it was sent
    local sent
    "$weir" pause "$work/draining.store" >/dev/null
    fill "$work/draining/vda.raw"
    sent=$(draining_sent)
    "$weir" resume "$work/draining.store" >/dev/null
    await 10 draining_goes_on "$sent" || die "nothing is drained"
}

draining_sent() {
    "$weir" metrics "$work/draining.store" |
        awk '/^weir_uploaded_bytes_total/ { print $2 }'
}

draining_goes_on() { # bytes sent before
    [ "$(draining_sent)" -gt "$1" ]
}
