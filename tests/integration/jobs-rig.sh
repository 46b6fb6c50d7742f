# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# jobs-rig.sh - bitmaps and jobs of a disk, asked for over the socket
#
# Sourced after functions.sh. The disk is $disk, of 1024 grains of 64 KiB; a
# bitmap is counted in grains. Events are collected from the first mount on, over
# restarts, in $T/events.
disk=vda
grain=65536
n_grains=1024
disk_bytes=$((n_grains * grain))

# Whoever reads that from a failing device gets an error (see failing_store).
bad_text=THIS-GRAIN-IS-BAD

#
# The store
#
new_job_store() { # [weir-create option…]
    "$WEIR" create "$STORE/$disk" --size $disk_bytes "$@" >>"$T/weir.log" 2>&1 ||
        fail "create: $(tail -n 1 "$T/weir.log")"
    # A lost connection's requests are in doubt for four times that.
    "$WEIR" set "$STORE" request-deadline=1 >>"$T/weir.log"
    mount_store
    collect_events
    open_line
}

collect_events() {
    rm -f "$T/events"
    "$tests_dir/tools/qmp" "$STORE/control.sock" --events "$T/events" \
        2>>"$T/qmp.log" &
    collector=$!
    on_exit "kill $collector"
    await 10 test -e "$T/events"
}

# What was written so far is of no interest any more.
forget_events() {
    events_seen=$(wc -l <"$T/events")
}
events_seen=0

events() { # FILTER: of those since then
    tail -n +$((events_seen + 1)) "$T/events" | jq -rc "$1"
}

has_event() { # CONDITION
    [ -n "$(events "select($1)")" ]
}

# A store on a device of its own that cannot read what has $bad_text in it
# while $T/unreadable is there: the first time only, if that says "once".
failing_store() {
    mkdir -p "$T/device" "$T/fs"
    truncate -s 160M "$T/platter"
    mkfs.ext4 -q "$T/platter"
    nbdfuse "$T/device/disk" --command nbdkit -s eval \
        get_size="echo $((160 << 20))" can_write='exit 0' can_flush='exit 0' \
        thread_model='echo serialize_requests' flush='exit 0' \
        pread="dd if=$T/platter of=\$tmpdir/read iflag=skip_bytes,count_bytes \
            skip=\$4 count=\$3 bs=1M status=none
        if [ -e $T/unreadable ] && grep -qF $bad_text \$tmpdir/read; then
            ! grep -q once $T/unreadable || rm $T/unreadable
            echo EIO bad >&2
            exit 1
        fi
        cat \$tmpdir/read" \
        pwrite="dd of=$T/platter oflag=seek_bytes seek=\$4 bs=1M conv=notrunc \
            status=none" >>"$T/device.log" 2>&1 &
    on_exit "kill $!; fusermount3 -uz '$T/device'"
    await 10 test -e "$T/device/disk"
    local device
    device=$(new_loop "$T/device/disk" --direct-io=on)
    on_exit "losetup -d $device"
    mount "$device" "$T/fs"
    on_exit "umount '$T/fs' || umount -l '$T/fs'"
    STORE=$T/fs/store
}

#
# Asking, over one connection for all: a process for each would take longer than
# most of what is asked for. It is made anew when the daemon was.
#
open_line() {
    [ -z "$line_of" ] || { kill $line && wait $line || true; }
    coproc "$tests_dir/tools/qmp" "$STORE/control.sock" - 2>>"$T/qmp.log"
    # Subshells have these, unlike a coprocess's own.
    exec 7<&"${COPROC[0]}" 8>&"${COPROC[1]}"
    line=$COPROC_PID line_of=$STORE
    on_exit "kill $line"
}
line_of=

talk() { # COMMAND [JSON | NAME=VALUE…]: {"return": …} or {"error": …}
    [ "$line_of" = "$STORE" ] || fail 'no line to the daemon: new_job_store first'
    printf '%s\n' "${*@Q}" >&8
    read -r -t 30 answer <&7 || fail "no answer: $*"
    printf '%s\n' "$answer"
}

qmp() { # COMMAND [JSON | NAME=VALUE…]: the answer is in $T/answer
    talk "$@" >"$T/answer"
    ! grep -q '^{"error"' "$T/answer" || fail "$*: $(cat "$T/answer")"
}

# The answer to a command that is refused is an error in these words (a glob).
qmp_refused() { # WORDS COMMAND [JSON | NAME=VALUE…]
    local words=$1 said
    shift
    talk "$@" >"$T/answer"
    said=$(jq -r '.error.desc // empty' "$T/answer")
    [ -n "$said" ] || fail "not refused: $*: $(cat "$T/answer")"
    # shellcheck disable=SC2053
    [[ $said == $words ]] || fail "$*: '$said', not '$words'"
}

ask() { # FILTER COMMAND [JSON | NAME=VALUE…]
    talk "${@:2}" | jq -r ".return | $1"
}

#
# Bitmaps
#
add_bitmap() { # NAME [NAME=VALUE…]
    qmp block-dirty-bitmap-add node=$disk name="$1" persistent=true "${@:2}"
}

bitmap() { # add|clear|… NAME
    qmp "block-dirty-bitmap-$1" node=$disk name="$2"
}

bitmap_field() { # FILTER NAME
    ask ".[] | select(.[\"node-name\"] == \"$disk\") | .[\"dirty-bitmaps\"] //
        [] | .[] | select(.name == \"$2\") | $1" query-named-block-nodes
}

grains_of() { # NAME
    bitmap_field ".count / $grain" "$1"
}

has_grains() { # NAME NUMBER
    local count
    count=$(grains_of "$1")
    [ "$count" = "$2" ] || fail "$1 has ${count:-no} grains, not $2"
}

# What is recorded while a job is busy with a bitmap has no name.
unnamed_grains() {
    ask ".[] | select(.[\"node-name\"] == \"$disk\") | .[\"dirty-bitmaps\"] //
        [] | [.[] | select(has(\"name\") | not) | .count] | add / $grain" \
        query-named-block-nodes
}

sum_of_bitmap() { # NAME
    ask .sha256 x-debug-block-dirty-bitmap-sha256 node=$disk name="$1"
}

# Which grains, as ranges: [[1,2],[7,1]].
extents_of() { # NAME
    "$WEIR" bitmap export "$STORE/$disk" "$1" --json |
        jq -c "[.extents[] | [.offset / $grain, .length / $grain]]"
}

#
# Jobs
#
backup() { # ID TARGET SYNC [NAME=VALUE…]
    qmp blockdev-backup job-id="$1" device=$disk target="$2" sync="$3" "${@:4}"
}

mirror() { # ID TARGET SYNC [NAME=VALUE…]
    qmp blockdev-mirror job-id="$1" device=$disk target="$2" sync="$3" "${@:4}"
}

job() { # VERB ID
    qmp "job-$1" id="$2"
}

soft_cancel() { # ID
    qmp block-job-cancel device="$1" force=false
}

# A field of query-jobs, or of query-block-jobs.
job_field() { # FILTER ID
    ask ".[] | select(.id == \"$2\") | $1" query-jobs
}

block_field() { # FILTER ID
    ask ".[] | select(.device == \"$2\") | $1" query-block-jobs
}

job_is() { # ID STATUS
    [ "$(job_field .status "$1")" = "$2" ]
}

is_no_job() { # ID
    [ "$(ask "[.[] | select(.id == \"$1\")] | length" query-jobs)" = 0 ]
}

await_job() { # ID STATUS|none
    local seconds=30 what=(job_is "$1" "$2")
    [ "$2" != none ] || what=(is_no_job "$1")
    becomes_true $seconds "${what[@]}" || fail "$1 is not $2 after $seconds s:" \
        "$(job_field 'tojson' "$1") $(block_field 'tojson' "$1")"
}

# How it ended, as its event says: completed, cancelled, or the error.
end_of() { # ID
    events "select(.data.device == \"$1\") |
        if .event == \"BLOCK_JOB_CANCELLED\" then \"cancelled\"
        elif .event == \"BLOCK_JOB_COMPLETED\" then .data.error // \"completed\"
        else empty end"
}

has_ended() { # ID
    [ -n "$(end_of "$1")" ]
}

ended_as() { # ID WORDS (a glob)
    local how
    becomes_true 10 has_ended "$1" || fail "$1 has not ended"
    how=$(end_of "$1")
    # shellcheck disable=SC2053
    [[ $how == $2 ]] || fail "$1 ended as '$how', not '$2'"
}

trace_of() { # ID: the states it went through
    events "select(.event == \"JOB_STATUS_CHANGE\" and .data.id == \"$1\") |
        .data.status" | paste -sd ' '
}

traced() { # ID STATES
    has_traced() { [ "$(trace_of "$1")" = "$2" ]; }
    becomes_true 10 has_traced "$@" || fail "$1 went '$(trace_of "$1")', not '$2'"
}

# A backup or a mirror from the beginning to the end.
run_backup() { # ID TARGET SYNC [NAME=VALUE…]
    forget_events
    backup "$@"
    await_job "$1" none
    ended_as "$1" completed
}

run_mirror() { # ID TARGET SYNC [NAME=VALUE…]
    forget_events
    mirror "$@"
    await_job "$1" ready
    job complete "$1"
    await_job "$1" none
    ended_as "$1" completed
}

# Mirrors of most tests are called m.
offset_is_beyond() { # BYTES
    [ "$(block_field .offset m)" -gt "$1" ]
}

cancel_is() { # WORDS COMMAND ID [NAME=VALUE…]
    qmp "${@:2}"
    await_job m none
    ended_as m "$1"
}

last_event() { # FILTER, of the event that says how it ended
    events "select(.event == \"BLOCK_JOB_CANCELLED\" or
        .event == \"BLOCK_JOB_COMPLETED\") | .data | $1"
}

met_error() { # OPERATION ACTION
    has_event ".event == \"BLOCK_JOB_ERROR\" and .data.operation == \"$1\" and
        .data.action == \"$2\""
}

#
# The guest
#
disk_io() { # qemu-io command…
    local words=() command
    for command; do
        words+=(-c "$command")
    done
    qemu-io -f raw -t none "${words[@]}" "$MNT/$disk.raw" >"$T/io" 2>&1 ||
        fail "qemu-io: $(cat "$T/io")"
    ! grep -qi 'failed\|error' "$T/io" || fail "qemu-io: $(cat "$T/io")"
}

write_grains() { # PATTERN GRAIN[+COUNT]…; a half of one is 8.5
    local pattern=$1 at count words=()
    shift
    for at; do
        count=1
        [[ $at != *+* ]] || count=${at#*+}
        at=${at%+*}
        [[ $at == *.5 ]] && at=$((${at%.5} * grain + grain / 2)) ||
            at=$((at * grain))
        words+=("write -P $pattern $at $((count * grain))")
    done
    disk_io "${words[@]}"
}

# A grain that a failing device will not read.
write_bad_grain() { # GRAIN
    printf "$bad_text\n%.0s" {1..3700} >"$T/unreadable-grain"
    truncate -s $grain "$T/unreadable-grain"
    dd if="$T/unreadable-grain" of="$MNT/$disk.raw" bs=$grain seek="$1" oflag=direct \
        conv=notrunc status=none
}

fill_disk() { # [MIB [SEEK-MIB]]
    dd if=/dev/urandom of="$MNT/$disk.raw" bs=1M count="${1:-64}" \
        seek="${2:-0}" oflag=direct conv=notrunc status=none
}

copy_disk() { # FILE: as it is now
    cp --sparse=always "$MNT/$disk.raw" "$1"
}

#
# Targets
#
new_image() { # NAME…: $T/NAME, empty, as large as the disk
    local name
    for name; do
        rm -f "$T/$name"
        truncate -s $disk_bytes "$T/$name"
    done
}

fresh() { # NAME: a target with nothing in it, and events from now on
    new_image "$1"
    forget_events
}

ends_well() { # ID IMAGE
    job complete "$1"
    await_job "$1" none
    ended_as "$1" completed
    [ -z "$2" ] || assert_same "$MNT/$disk.raw" "$2"
}

differs() { # IMAGE IMAGE
    ! qemu-img compare -q -f raw -F raw "$1" "$2" >"$T/compare" 2>&1
}

# An NBD server NAME on the image $T/NAME that answers EIO while $T/NAME.fault
# is there: to writes, or to flushes.
start_faulty() { # NAME write|flush
    rm -f "$T/$1.fault"
    case $2 in
    write) start_nbdkit "$1" --filter=error file "$T/$1" error=EIO \
        error-pwrite-rate=100% error-zero-rate=100% error-trim-rate=100% \
        error-file="$T/$1.fault" ;;
    flush) start_nbdkit "$1" eval get_size="echo $disk_bytes" \
        pread="dd if=$T/$1 iflag=skip_bytes,count_bytes skip=\$4 count=\$3" \
        pwrite="dd of=$T/$1 oflag=seek_bytes seek=\$4 conv=notrunc" \
        can_extents='exit 0' extents='echo "$4 $3 hole,zero"' \
        flush="test ! -e $T/$1.fault || { echo EIO bad >&2; exit 1; }" ;;
    esac
}
