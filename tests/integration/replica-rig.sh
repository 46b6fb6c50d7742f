# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# replica-rig.sh - a guest at work on ext4, xfs and btrfs, a far side that follows
#
# Sourced after functions.sh: the disk that all rounds begin with, a host that
# can be set up and burned, and the judge of a copy of the far side: each file
# system mounts, which is its journal's replay, is sound, and holds every file
# whose fsync had returned before a given time.
#
# The times of the fsyncs are those of lines on the guest's console as they
# arrive here, so no earlier than the truth. The guest boots once: each round
# goes on from its state as it was then.
# Where each file system lies in the disk, MiB.
size=768
declare -A first=([ext4]=16 [xfs]=144 [btrfs]=464)
declare -A length=([ext4]=128 [xfs]=320 [btrfs]=304)
kinds=(ext4 xfs btrfs)

# The same disk for all rounds, made once.
make_base() {
    local kind loop
    truncate -s ${size}M "$T/base"
    for kind in "${kinds[@]}"; do
        echo "${first[$kind]} ${length[$kind]}"
    done | python3 -c '
import struct, sys

table = b"".join(struct.pack("<8B2L", 0, 254, 255, 255, 0x83, 254, 255, 255,
                             *(int(mib) << 11 for mib in line.split()))
                 for line in sys.stdin)
with open(sys.argv[1], "r+b") as disk:
    disk.seek(446)
    disk.write(table.ljust(64, b"\0") + b"\x55\xaa")
' "$T/base"
    for kind in "${kinds[@]}"; do
        loop=$(loop_of "$kind" "$T/base")
        "mkfs.$kind" -q "$loop" >"$T/out" 2>&1 || fail "mkfs.$kind"
        losetup -d "$loop"
    done
}

loop_of() { # KIND IMAGE
    new_loop "$2" --offset $((${first[$1]} << 20)) \
        --sizelimit $((${length[$1]} << 20))
}

#
# The judge
#

# Files are begun one after the other, so all but the last one are whole; and
# so is each on the list of those that must be there.
files_are_whole() { # KIND DIR, "NUMBER" lines on stdin
    python3 -c '
import os, sys

kind, top = sys.argv[1:]
must = [int(line) for line in sys.stdin]
there = [int(name) for name in os.listdir(top) if name.isdigit()]
for n in range(1, max(must + [last - 1 for last in there], default=0) + 1):
    size = 3000 + n % 7 * 20000
    line = f"{kind} {n}\n".encode()
    try:
        with open(f"{top}/{n}", "rb") as file:
            found = file.read()
    except OSError as error:
        sys.exit(f"file {n} of {len(there)}: {error}")
    if found != (line * (size // len(line) + 1))[:size]:
        sys.exit(f"file {n} of {len(there)} is not what was written")
' "$1" "$2"
}

is_sound() { # KIND DEVICE
    case $1 in
    ext4) e2fsck -fn "$2" ;;
    xfs) xfs_repair -n "$2" ;;
    btrfs) btrfs check "$2" ;;
    esac
}

# What was acknowledged before that second.
acknowledged() { # KIND SECONDS
    awk -v kind="$1" -v before="$2" '$2 == "guest:" && $3 == "synced" &&
        $4 == kind && $1 < before && NF == 6 { print $5 }' "$T/guest.stamped"
}

judge_one() { # KIND IMAGE SECONDS: succeeds silently, or says what is wrong
    local loop verdict=''
    loop=$(loop_of "$1" "$2")
    if ! mount -t "$1" "$loop" "$T/look"; then
        verdict='does not mount'
    else
        acknowledged "$1" "$3" |
            files_are_whole "$1" "$T/look" 2>"$T/verdict" ||
            verdict=$(cat "$T/verdict")
        umount "$T/look"
        [ -n "$verdict" ] || is_sound "$1" "$loop" || verdict='is not sound'
    fi >"$T/judge.log" 2>&1
    losetup -d "$loop"
    [ -z "$verdict" ] || { echo "$1: $verdict"; return 1; }
}

judge() { # IMAGE SECONDS
    local kind
    cp --reflink=auto "$1" "$T/far/judged"
    for kind in "${kinds[@]}"; do
        judge_one "$kind" "$T/far/judged" "$2" || return 1
    done
}

#
# The host, its guest and its end
#
start_host() { # SETTINGS…
    local rate
    rm -rf "$T/far/cuts" "$T/far/vda"
    truncate -s ${size}M "$T/far/vda"
    start_qemu_nbd far raw "$T/far/vda"
    "$WEIR" create "$STORE/vda" --from "$T/base" --target "$(uri far)" \
        >>"$T/weir.log" 2>&1 || fail 'create'
    "$WEIR" set "$STORE" cut-interval=1 "$@"
    mount_store
    : >"$T/guest.stamped"
    boot_load &
    guest_job=$!
    on_exit_once 'kill -9 "$(qemu_pid)"'
    # It was paused when it was saved, and is so when all of it is there.
    await 60 qmp_says query-status '.status == "paused"'
    qmp block_resize '{"node-name": "signal", "size": 2097152}' && qmp cont ||
        fail "the guest does not go on: $(cat "$T/qmp.out")"
    await 180 has_synced 2
    # So slow that a cut is under way most of the time, on any machine.
    rate=$(status '.rates.dirty_bps // 0 | floor')
    "$WEIR" set "$STORE" bwlimit=$((rate > 400000 ? rate / 4 : 100000))
}

# The guest, booted and with nothing done to the disk yet, in $T/guest.state.
save_guest() {
    local booting
    "$tests_dir/guest/run-guest" -q "$T/qmp" "$guest" \
        "$tests_dir/guest/job-load" "$T/base" >"$T/boot.log" 2>&1 &
    booting=$!
    on_exit "end_pid $booting"
    await 200 grep -q '^guest: ready' "$T/boot.log"
    qmp stop && qmp migrate '{"uri": "exec:cat >'"'$T/guest.state'"'"}' ||
        fail "the guest's state: $(cat "$T/qmp.out")"
    await 100 qmp_says query-migrate '.status == "completed"'
    qmp quit || true
    wait "$booting" || true # its job is not done
}

qmp() { # COMMAND [JSON]
    "$tests_dir/tools/qmp" "$T/qmp" "$@" >"$T/qmp.out" 2>>"$T/qmp.log"
}

qmp_says() { # COMMAND FILTER that is true
    qmp "$1" && [ "$(jq "$2" "$T/qmp.out")" = true ]
}

boot_load() { # its console, with the time of each line
    "$tests_dir/guest/run-guest" -t 600 -q "$T/qmp" -s "$T/guest.state" \
        "$guest" "$tests_dir/guest/job-load" "$MNT/vda.raw" 2>"$T/guest.log" |
        while IFS= read -r line; do
            printf '%s %s\n' "$EPOCHREALTIME" "$line"
        done >>"$T/guest.stamped" || true # it never ends well
}

has_synced() { # NUMBER, on each file system
    local kind
    for kind in "${kinds[@]}"; do
        [ "$(acknowledged "$kind" inf | wc -l)" -ge "$1" ] || return 1
    done
}

qemu_pid() {
    pgrep -f "^qemu-system-x86_64 .*file=$MNT/vda.raw,"
}

burn_host() { # all at one instant, or the relay would finish its cut
    local pid pids
    pids=("$(holder_pid)" "$(daemon_pid)" "$(qemu_pid)")
    kill -9 "${pids[@]}"
    for pid in "${pids[@]}"; do
        await 10 is_gone "$pid"
    done
    umount -l "$MNT"
    rm -rf "$STORE"
    wait "$guest_job" || true
}

last_kept() { # prints its folder
    find "$T/far/cuts" -maxdepth 1 -name 'weir-*Z-*' ! -name '*.part' | sort |
        tail -n 1
}

when_kept() { # FOLDER: seconds since the epoch
    date -d "$(sed -n 's/^time=//p' "$1/cut")" +%s
}

has_kept_load() { # a cut with something acknowledged in it
    local kept
    kept=$(last_kept)
    [ -n "$kept" ] && [ -n "$(acknowledged btrfs "$(when_kept "$kept")")" ]
}

#
# At the start of each test
#
guest=${WEIR_GUEST_DIR:-$T/guest}
mount_loop xfs 8G "$T/far"
mkdir "$T/look"
for image in "$T/base" "$T/far/judged"; do
    on_exit "losetup -n -O NAME -j '$image' | xargs -r losetup -d"
done
on_exit "umount '$T/look'"
make_base
save_guest
