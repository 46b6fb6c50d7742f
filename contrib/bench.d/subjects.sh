# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2154,SC2034
#
# What is measured, and how each of them is started and stopped. Every
# process is a child of this shell and is ended by its own pid; every mount
# and every file is below $work. Whatever way the script ends, stop_all puts
# away what is left.

declare -A pid_of=()    # name of a running thing -> pid
declare -A file_of=()   # subject -> the file that fio opens
declare -a mounts=()    # mount points that may be in use
work='' results='' uring_was=''
poll_interval=0.02

figures() {
    python3 "$here/figures.py" "$@"
}

say() {
    printf '%s\n' "$*" >&2
}

die() {
    say "bench: $*"
    exit 1
}

# The terminal shows where a long run is; a log keeps only the headings.
progress() {
    if [ -t 2 ]; then
        printf '\r\033[K  %.70s' "$*" >&2
    fi
}

record() { # section, case, round, subject, metric, value
    local IFS=$'\t'
    printf '%s\n' "$*" >>"$results"
}

#
# Start and end of a run
#
bench_start() {
    local tool
    for tool in fio python3 nbdkit fusermount3 mountpoint; do
        command -v "$tool" >/dev/null || die "$tool is missing (contrib/deps)"
    done
    [ -c /dev/fuse ] || die "no /dev/fuse here (modprobe fuse?)"
    trap stop_all EXIT
    trap 'say "bench: failed at ${BASH_SOURCE[0]##*/}:$LINENO"' ERR
    trap 'exit 130' INT
    trap 'exit 143' TERM
    work=$(mktemp -d "$dir/weir-bench.XXXXXX")
    results=$work/results
    : >"$results"
    dd if=/dev/zero of="$work/probe" bs=4096 count=1 oflag=direct \
        status=none 2>/dev/null ||
        die "no O_DIRECT on $dir: choose another one with --dir"
    need_room
    find_weir
    machine
}

need_room() {
    local free
    free=$(df --output=avail -B1M "$work" | tail -1)
    [ "$free" -ge 10240 ] ||
        die "$dir has $free MiB free, the images take up to 10 GiB (--dir)"
}

find_weir() {
    if [ -n "$weir" ]; then
        weir=$(command -v "$weir") || die "no program $weir"
        return
    fi
    case ${sections[*]},$subjects in
    mount,*weir* | *guest* | *bitmaps* | *cuts* | *snapshots* | *drain*) ;;
    *) return ;;
    esac
    say "building into build-bench"
    {
        [ -d "$top/build-bench" ] ||
            meson setup "$top/build-bench" "$top" -Dtests=disabled
        ninja -C "$top/build-bench"
    } >"$work/build.log" 2>&1 || {
        tail -20 "$work/build.log" >&2
        die "the build failed"
    }
    weir=$(find "$top/build-bench" -type f -name weir -perm -u+x | head -1)
    [ -n "$weir" ] || die "the build made no program weir"
}

machine() {
    record head 0 0 cpu text "$(nproc) x $(sed -n \
        's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"
    record head 0 0 kernel text "$(uname -sr)"
    record head 0 0 disk text "$(df --output=fstype,source "$work" |
        tail -1 | tr -s ' ')"
    record head 0 0 load text "$(cut -d' ' -f1-3 /proc/loadavg)"
    record head 0 0 with text "$(fio --version), nbdkit $(nbdkit \
        --version | cut -d' ' -f2)"
}

#
# Processes and mounts
#
start() { # name, command ...
    local name=$1
    shift
    "$@" >"$work/$name.log" 2>&1 </dev/null &
    pid_of[$name]=$!
}

stop() { # name
    local pid=${pid_of[$1]:-}
    [ -n "$pid" ] || return 0
    unset "pid_of[$1]"
    kill -TERM "$pid" 2>/dev/null || :
    if ! await 10 gone "$pid"; then
        say "bench: $1 ($pid) does not end, killing it"
        kill -KILL "$pid" 2>/dev/null || :
    fi
    wait "$pid" 2>/dev/null || :
}

gone() { # pid: ended, or ended and not waited for yet
    local state
    state=$(ps -o stat= -p "$1") || return 0
    [ "${state#Z}" != "$state" ]
}

await() { # seconds, command ...: until it is true
    local end=$((SECONDS + $1 + 1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep "$poll_interval"
    done
}

up() { # name, command ...: a started thing is ready, or the end
    local name=$1
    shift
    await 15 ready_or_dead "${pid_of[$name]}" "$@"
    "$@" >/dev/null 2>&1 || {
        tail -5 "$work/$name.log" >&2
        die "$name did not start"
    }
}

ready_or_dead() { # pid, command ...
    local pid=$1
    shift
    "$@" || gone "$pid"
}

is_mounted() {
    grep -q " $1 " /proc/self/mountinfo
}

unmount() { # mount point
    ! is_mounted "$1" || fusermount3 -u "$1" 2>/dev/null ||
        fusermount3 -uz "$1" 2>/dev/null || umount -l "$1" || :
}

stop_all() {
    local status=$? name m
    trap - EXIT ERR
    set +e
    progress ''
    if [ $status -eq 1 ] && [ -n "$work" ]; then
        find "$work" -name '*.log' -size +0 -exec tail -vn 3 {} + >&2
    fi
    if [ -n "$out" ] && [ -s "$results" ]; then
        cp "$results" "$out"
    fi
    for m in "${mounts[@]}"; do
        unmount "$m"
    done
    for name in "${!pid_of[@]}"; do
        stop "$name"
    done
    [ -z "$uring_was" ] || echo "$uring_was" >"$uring_switch"
    # Below a mount that would not go there is somebody's data, not ours.
    [ -z "$work" ] || rm -rf --one-file-system "$work"
    exit $status
}

#
# Servers that are targets
#
server_up() { # name, nbdkit arguments ...: listens on $work/NAME.sock
    local name=$1
    shift
    rm -f "$work/$name.sock" "$work/$name.pid"
    start "$name" nbdkit -f -P "$work/$name.pid" -U "$work/$name.sock" "$@"
    up "$name" test -s "$work/$name.pid"
}

uri() { # name of a server
    printf 'nbd+unix:///?socket=%s' "$work/$1.sock"
}

#
# weir
#
store_up() { # name, arguments of create ...: $work/NAME.store on $work/NAME
    local name=$1
    shift
    mkdir -p "$work/$name"
    local transport=dev
    [ "$name" != weir-uring ] || transport=uring
    "$weir" create "$work/$name.store/vda" "$@" >"$work/create.log" 2>&1 || {
        cat "$work/create.log" >&2
        die "weir create failed"
    }
    mounts+=("$work/$name")
    start "$name" "$weir" mount "$work/$name.store" "$work/$name" -f \
        -o transport=$transport
    up "$name" test -e "$work/$name/vda.raw"
    [ "$(figure_of_status "$name" transport)" = $transport ] ||
        die "$name does not take requests through $transport"
}

store_down() { # name
    local pid=${pid_of[$1]:-}
    [ -n "$pid" ] || return 0
    "$weir" umount "$work/$1" >"$work/umount.log" 2>&1 || {
        cat "$work/umount.log" >&2
        die "weir umount failed"
    }
    await 10 gone "$pid" || die "weir is still there after umount"
    wait "$pid" || die "weir ended with an error: $(tail -1 "$work/$1.log")"
    unset "pid_of[$1]"
    rm -rf --one-file-system "${work:?}/$1.store" "${work:?}/$1"
}

figure_of_status() { # name of a store, a field of status.json
    "$weir" status "$work/$1.store" --json | figures field "$2"
}

#
# The subjects: the same size, on the same file system
#
uring_switch=/sys/module/fuse/parameters/enable_uring

# FUSE over io_uring is off by default; stop_all puts it back.
switch_uring_on() {
    [ -w "$uring_switch" ] || return 1
    [ -z "$uring_was" ] || return 0
    uring_was=$(<"$uring_switch")
    echo Y >"$uring_switch"
}

subject_up() { # subject, bytes
    local file=$work/$1.img
    truncate -s "$2" "$file"
    case $1 in
    raw) file_of[raw]=$file ;;
    weir | weir-uring)
        rm "$file"
        server_up "$1-paused" memory "$2"
        store_up "$1" --size "$2" --target "$(uri "$1-paused")"
        "$weir" pause "$work/$1.store" >/dev/null
        file_of[$1]=$work/$1/vda.raw
        ;;
    qsd)
        : >"$work/qsd.raw"
        mounts+=("$work/qsd.raw")
        start qsd qemu-storage-daemon --blockdev \
            "driver=file,node-name=d,filename=$file,cache.direct=on,$(
            )aio=io_uring,discard=unmap" --export "type=fuse,id=e,$(
            )node-name=d,mountpoint=$work/qsd.raw,writable=on,growable=off"
        up qsd is_mounted "$work/qsd.raw"
        file_of[qsd]=$work/qsd.raw
        ;;
    nbdfuse)
        server_up nbdfuse-server file "$file"
        mkdir -p "$work/nbdfuse"
        mounts+=("$work/nbdfuse")
        start nbdfuse nbdfuse "$work/nbdfuse/disk.raw" \
            "$(uri nbdfuse-server)"
        up nbdfuse test -e "$work/nbdfuse/disk.raw"
        file_of[nbdfuse]=$work/nbdfuse/disk.raw
        ;;
    esac
}

subject_down() { # subject
    case $1 in
    weir | weir-uring)
        store_down "$1"
        stop "$1-paused"
        ;;
    qsd) stop qsd ;;
    nbdfuse)
        unmount "$work/nbdfuse"
        stop nbdfuse
        stop nbdfuse-server
        ;;
    esac
    rm -f "$work/$1.img" "$work/$1.raw"
}

#
# One run of fio
#
run_fio() { # results' key (4 words), file, fio options ...
    local section=$1 case=$2 round=$3 subject=$4 file=$5
    shift 5
    progress "$section: $case, round $round, $subject"
    fio --name=run --filename="$file" --ioengine=io_uring --direct=1 \
        --allow_file_create=0 --fallocate=none --norandommap \
        --output-format=json --output="$work/fio.json" \
        "$@" >"$work/fio.log" 2>&1 ||
        die "fio failed on $subject ($case): $(tail -1 "$work/fio.log")"
    figures fio "$work/fio.json" "$section" "$case" "$round" "$subject" \
        >>"$results" || die "fio did nothing on $subject ($case)"
}

fill() { # file: every block written once
    fio --name=fill --filename="$1" --ioengine=io_uring --direct=1 \
        --allow_file_create=0 --fallocate=none --rw=write --bs=1M \
        --iodepth=8 >"$work/fio.log" 2>&1 ||
        die "fio cannot fill $1: $(tail -1 "$work/fio.log")"
}
