# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# functions.sh - what the integration tests share; sourced first by each
#
#   requires root fuse fio …       skips (77) what cannot run here
#   new_dir                        $T, a directory of this test's own
#   start_nbdkit / start_qemu_nbd / start_nbd_server NAME …   a target
#   uri NAME                       its NBD URI
#   new_store, mount_store, umount_store      a store in $STORE, seen in $MNT
#   await SECONDS CONDITION…       the one place that waits
#   fail WORDS…                    ends the test
#
# Whatever a test starts or mounts is registered, and undone when the script
# ends, however it ends: by pid, never by name.
set -Eeuo pipefail
tests_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
top_dir=$(dirname "$tests_dir")
test_name=$(basename "$0" .sh)
export LC_ALL=C

# Long tier: all combinations, more rounds.
is_long() {
    [ -n "${WEIR_TEST_LONG:-}" ]
}

say() {
    printf '%s: %s\n' "$test_name" "$*"
}

fail() {
    say "FAILED: $*" >&2
    exit 1
}

skip() {
    say "needs $*"
    [ -z "${MUST_WORK:-}" ] || exit 1
    exit 77
}

trap 'say "FAILED at line $LINENO: $BASH_COMMAND" >&2' ERR

#
# Prerequisites
#
requires() {
    local what
    for what; do
        case $what in
        root) [ "$(id -u)" -eq 0 ] || skip 'root' ;;
        fuse) [ -r /dev/fuse ] && [ -w /dev/fuse ] || skip '/dev/fuse' ;;
        loop) [ -e /dev/loop-control ] || skip 'loop devices' ;;
        kernel-*) kernel_is_at_least "${what#kernel-}" ||
            skip "Linux ${what#kernel-} (this is $(uname -r))" ;;
        weir) find_weir ;;
        *) command -v "$what" >/dev/null || skip "the program $what" ;;
        esac
    done
}

kernel_is_at_least() { # MAJOR.MINOR
    [ "$(printf '%s\n' "$1" "$(uname -r)" | sort -V | head -n 1)" = "$1" ]
}

# $WEIR, or the program that contrib/check or a plain build left.
find_weir() {
    local candidate
    for candidate in "${WEIR:-}" "$top_dir"/build-check/gcc/fs/weir \
        "$top_dir"/build/fs/weir; do
        if [ -n "$candidate" ] && [ -x "$candidate" ]; then
            WEIR=$(readlink -f "$candidate")
            return
        fi
    done
    fail "no weir: set WEIR, or build it"
}

# A program of tests/tools, as built.
tool() { # NAME
    local candidate
    for candidate in "${WEIR_TOOLS:-}" "$top_dir"/build-check/gcc/tests/tools \
        "$top_dir"/build/tests/tools; do
        if [ -x "$candidate/$1" ]; then
            printf '%s\n' "$candidate/$1"
            return
        fi
    done
    fail "no $1: set WEIR_TOOLS, or build it"
}

# As jq -r does; a plain path, which is most of what is waited for, comes cheaper.
pick() { # FILTER
    if [[ $1 =~ ^(\.[a-z_]+(\[[0-9]+\])?)+$ ]]; then
        "$(tool pick)" "$1"
    else
        jq -r "$1"
    fi
}

#
# Waiting, and saying how long something took
#
poll_ms=50

# Succeeds as soon as the condition does; fails after SECONDS. It looks less often
# as time goes by: looks cost what is waited for its CPU time.
becomes_true() { # SECONDS COMMAND…
    local deadline=$((${EPOCHREALTIME/./} + $1 * 1000000))
    local ms=$poll_ms nap
    shift
    while ! "$@" >/dev/null 2>&1; do
        [ "${EPOCHREALTIME/./}" -lt "$deadline" ] || return 1
        printf -v nap '0.%03d' "$ms"
        sleep "$nap"
        ((ms >= 200)) || ms=$((ms * 5 / 4))
    done
}

await() { # SECONDS COMMAND…
    becomes_true "$@" || fail "after $1 s still not so: ${*:2}"
}

# Runs a command, its output to $T/out and $T/err; $took is its milliseconds.
timed() {
    local began=${EPOCHREALTIME/./} status=0
    "$@" >"$T/out" 2>"$T/err" || status=$?
    took=$(((${EPOCHREALTIME/./} - began) / 1000))
    return "$status"
}

# The command answers within SECONDS. On a loaded machine one try says little:
# of three one must. So it has to be one that can be repeated.
answers_within() { # SECONDS COMMAND…
    local limit=$1 try
    shift
    for try in 1 2 3; do
        if timeout -k 1 "$limit" "$@" >"$T/out" 2>"$T/err"; then
            return
        fi
    done
    fail "no answer within $limit s ($try tries): $*: $(head -n 1 "$T/err")"
}

#
# Ending
#
cleanup_steps=()

# The last registered runs first. Its failure is nobody's.
on_exit() { # COMMAND, as one word to be evaluated
    cleanup_steps+=("$1")
}

# For what a test does again and again.
on_exit_once() { # COMMAND
    local step
    for step in "${cleanup_steps[@]}"; do
        [ "$step" != "$1" ] || return 0
    done
    on_exit "$1"
}

# It ended by itself.
not_on_exit() { # COMMAND
    local i
    for i in "${!cleanup_steps[@]}"; do
        [ "${cleanup_steps[i]}" != "$1" ] || unset "cleanup_steps[i]"
    done
    cleanup_steps=("${cleanup_steps[@]}")
}

run_cleanup() {
    local status=$? i
    trap - EXIT ERR
    trap '' INT TERM HUP
    set +e
    if [ "$status" -ne 0 ] && [ "$status" -ne 77 ]; then
        show_logs
    fi
    for ((i = ${#cleanup_steps[@]} - 1; i >= 0; i--)); do
        eval "${cleanup_steps[i]}" >/dev/null 2>&1
    done
    exit "$status"
}
trap run_cleanup EXIT
trap 'exit 130' INT TERM HUP

# The last lines of every log of the test, so that a failure explains itself.
show_logs() {
    local log
    [ -n "${T:-}" ] || return 0
    for log in "$T"/*.log "$T"/out "$T"/err; do
        [ -s "$log" ] || continue
        echo "--- ${log##*/}"
        tail -n 8 "$log"
    done >&2
}

is_gone() { # PID
    ! kill -0 "$1" 2>/dev/null || [[ $(ps -o stat= -p "$1") == Z* ]]
}

# A process that this test started has the test's directory in its arguments;
# the number alone may be somebody else's by now.
is_ours() { # PID
    grep -qsF "$T/" "/proc/$1/cmdline"
}

end_pid() { # PID: asks, insists after 5 s, returns when it is gone
    is_ours "$1" || return 0
    kill "$1" 2>/dev/null || return 0
    becomes_true 5 is_gone "$1" || kill_pid "$1"
    wait "$1" 2>/dev/null || true
}

kill_pid() { # PID: kill -9, also its children; returns when they are gone
    local pid
    is_ours "$1" || return 0
    for pid in "$1" $(pgrep -P "$1" || true); do
        kill -9 "$pid" 2>/dev/null || continue
        wait "$pid" 2>/dev/null || true
        await 10 is_gone "$pid"
    done
}

#
# A place to work in; on a file system that has O_DIRECT
#
new_dir() {
    T=$(mktemp -d "${WEIR_TEST_DIR:-/var/tmp}/weir-$test_name.XXXX")
    on_exit "rm -rf --one-file-system '$T'"
    STORE=$T/store
    MNT=$T/mnt
    mkdir "$MNT"
}

new_loop() { # FILE [losetup option…]: prints the device
    local device
    device=$(losetup --find --show "${@:2}" "$1")
    printf '%s\n' "$device"
}

# A file system of its own in a loop file, mounted at DIR.
mount_loop() { # TYPE SIZE DIR [losetup option…]
    local image=$3.img device
    truncate -s "$2" "$image"
    device=$(new_loop "$image" "${@:4}")
    on_exit "losetup -d $device"
    case $1 in
    xfs) mkfs.xfs -q "$device" ;;
    ext4) mkfs.ext4 -q "$device" ;;
    esac
    mkdir -p "$3"
    mount "$device" "$3"
    on_exit "umount '$3' || umount -l '$3'"
}

# shellcheck source=tests/integration/servers.sh
. "$tests_dir/integration/servers.sh"
# shellcheck source=tests/integration/stores.sh
. "$tests_dir/integration/stores.sh"
