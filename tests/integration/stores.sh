# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# stores.sh - stores of the tests: $STORE, mounted at $MNT
#
# One test may have more: every function takes a store and a mount point, and
# means these two when it gets none.

new_store() { # SIZE URI [weir-create option…]: the disk vda of $STORE
    "$WEIR" create "$STORE/vda" --size "$1" --target "$2" "${@:3}" \
        >>"$T/weir.log" 2>&1 || fail "create: $(tail -n 1 "$T/weir.log")"
}

is_mounted() { # [MNT]
    mountpoint -q "${1:-$MNT}"
}

mount_store() { # [STORE MNT [weir-mount option…]]
    local store=${1:-$STORE} mnt=${2:-$MNT}
    on_exit_once "unmount_by_force '$mnt'"
    local transport=${WEIR_TEST_TRANSPORT:-}
    "$WEIR" mount "$store" "$mnt" ${transport:+-o "transport=$transport"} \
        "${@:3}" >>"$T/weir.log" 2>&1 </dev/null ||
        fail "mount: $(tail -n 1 "$T/weir.log")"
    is_mounted "$mnt" || fail "weir mount returned and $mnt is not mounted"
    [ -z "$transport" ] || status_is .transport "$transport" "$store" ||
        fail "requests come through $(status .transport "$store")"
}

umount_store() { # [MNT [weir-umount option…]]
    "$WEIR" umount "${1:-$MNT}" "${@:2}" >>"$T/weir.log" 2>&1 ||
        fail "umount: $(tail -n 1 "$T/weir.log")"
    ! is_mounted "${1:-$MNT}" || fail "umount left ${1:-$MNT} mounted"
}

# For the end of a test that went wrong; nothing may stay behind.
unmount_by_force() { # MNT
    local pid
    timeout 2 mountpoint -q "$1" && timeout 10 "$WEIR" umount "$1"
    timeout 2 mountpoint -q "$1" && timeout 5 fusermount3 -u "$1"
    pid=$(holder_pid "$1")
    [ -z "$pid" ] || kill -9 "$pid"
    pid=$(daemon_pid "$1")
    [ -z "$pid" ] || kill -9 "$pid"
    ! grep -qF " $1 " /proc/mounts || umount -l "$1"
}

# The processes of a mount are those whose arguments name the mount point and
# whose program is the weir under test; the holder has another name.
mount_pid() { # =|!= MNT: the holder, or not the holder
    local pid comm
    for pid in $(pgrep -f -- "$2"); do
        read -r comm <"/proc/$pid/comm" && [ "$comm" "$1" weir-holder ] ||
            continue
        # What was replaced by an upgrade is still running.
        [ "/proc/$pid/exe" -ef "$WEIR" ] ||
            [ "$(readlink "/proc/$pid/exe")" = "$WEIR (deleted)" ] || continue
        if tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qxF -- "$2"; then
            echo "$pid"
            return
        fi
    done 2>/dev/null
}

daemon_pid() { # [MNT]
    mount_pid != "${1:-$MNT}"
}

holder_pid() { # [MNT]: keeps the connection, starts the next daemon
    mount_pid = "${1:-$MNT}"
}

kill_daemon() { # [MNT]: kill -9, holder too; then the mount is dead
    local pid holder
    pid=$(daemon_pid "${1:-$MNT}")
    holder=$(holder_pid "${1:-$MNT}")
    [ -n "$pid" ] || fail "no daemon of ${1:-$MNT}"
    # The holder first: it would start another daemon.
    [ -z "$holder" ] || kill -9 "$holder"
    kill -9 "$pid"
    [ -z "$holder" ] || await 10 is_gone "$holder"
    await 10 is_gone "$pid"
}

kill_daemon_only() { # [MNT]: kill -9; the holder starts the next one
    local pid
    pid=$(daemon_pid "${1:-$MNT}")
    [ -n "$pid" ] || fail "no daemon of ${1:-$MNT}"
    kill -9 "$pid"
    await 10 is_gone "$pid"
}

# A field of the status, as jq reads it: status .dirty_bytes
status() { # FILTER [STORE]
    timeout 10 "$WEIR" status "${2:-$STORE}" --json | pick "$1"
}

status_is() { # FILTER VALUE [STORE]
    [ "$(status "$1" "${3:-$STORE}")" = "$2" ]
}

drain_store() { # [STORE]
    "$WEIR" drain "${1:-$STORE}" --wait --timeout 120s >>"$T/weir.log" 2>&1 ||
        fail "drain: exit $?: $(tail -n 1 "$T/weir.log")"
}

# Fails unless the command ends with that exit code and says why on exactly
# one line of stderr, with none of a program's insides in it.
refused() { # CODE COMMAND…
    local code=$1 status=0 lines
    shift
    timeout 20 "$@" >"$T/out" 2>"$T/err" </dev/null || status=$?
    lines=$(wc -l <"$T/err")
    [ "$status" -eq "$code" ] ||
        fail "exit $status, not $code: ${*:2}: $(head -n 1 "$T/err")"
    [ "$lines" -eq 1 ] ||
        fail "$lines lines on stderr: ${*:2}: $(cat "$T/err")"
    [ ! -s "$T/out" ] || fail "prints on stdout too: ${*:2}"
    ! grep -qiE 'assert|core dumped|\(null\)|g_|%s|0x[0-9a-f]{6}' "$T/err" ||
        fail "shows its insides: ${*:2}: $(cat "$T/err")"
}

# What a directory holds: names, kinds, sizes, contents. Sockets come and go,
# and lock tells the pid of whoever held it last.
fingerprint() { # DIR
    (cd "$1" && find . ! -type s ! -name lock -printf '%p %y %m %s\n' | sort &&
        find . -type f ! -name lock -print0 | sort -z | xargs -0 -r sha256sum)
}
