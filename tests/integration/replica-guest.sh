#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The host burns, with a guest at work on ext4, xfs and btrfs: what the far side
# has kept of the last whole cut is a disk that a power cut could have left. Each
# file system mounts, which is its journal's replay, is sound, and holds every
# file whose fsync had returned before the cut. The same load streamed with
# policy=none leaves far sides that fail this: the judge can see. At last the
# steps of contrib/docs/restore.md: a new store from the copy, and a guest on it.
# The long tier has 500 fires, and the one with policy=none.
#
# The times of the fsyncs are those of lines on the guest's console as they
# arrive here, so no earlier than the truth. A seed as argument repeats the
# random part.
. "$(dirname "$0")/functions.sh"
requires root fuse loop weir jq qemu-nbd qemu-img qemu-system-x86_64 busybox \
    cpio stdbuf python3 mkfs.ext4 mkfs.xfs mkfs.btrfs e2fsck \
    xfs_repair btrfs
new_dir
guest=${WEIR_GUEST_DIR:-$T/guest}
seed=${1:-$RANDOM}
RANDOM=$seed
rounds=1
is_long && rounds=500

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
    await 180 has_synced 2
    # So slow that a cut is under way most of the time, on any machine.
    rate=$(status '.rates.dirty_bps // 0 | floor')
    "$WEIR" set "$STORE" bwlimit=$((rate > 400000 ? rate / 4 : 100000))
}

boot_load() { # its console, with the time of each line
    "$tests_dir/guest/run-guest" -t 600 "$guest" "$tests_dir/guest/job-load" \
        "$MNT/vda.raw" 2>"$T/guest.log" |
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

one_fire() { # ROUND
    local kept wrong files place='on its way'
    start_host on-cut="$top_dir/contrib/hooks/reflink-copy '$T/far/cuts' \
        '$T/far/vda' && echo \$WEIR_CUT \$WEIR_TIME >'$T/far/note'"
    await 120 has_kept_load
    await 120 has_synced $((5 + RANDOM % 10))
    read -r -t "0.$((RANDOM % 900))" <> <(:) || true # anywhere in a cut
    burn_host
    stop_server far
    kept=$(last_kept)
    wrong=$(judge "$kept/vda" "$(when_kept "$kept")") ||
        fail "seed $seed, fire $1, ${kept##*/}: $wrong"
    # What the page says of a far side that keeps nothing.
    if [ "$T/far/note" -nt "$T/far/vda" ]; then
        wrong=$(judge "$T/far/vda" "$(when_kept "$kept")") ||
            fail "seed $seed, fire $1, in place by the note: $wrong"
        assert_same "$kept/vda" "$T/far/vda"
        place='at rest'
    fi
    files=$(grep -c 'guest: synced' "$T/guest.stamped")
    say "fire $1: ${kept##*/} is sound, the far side was $place ($files synced)"
}

# Each copy of the far side is what a fire at that instant would have left.
test_judge_sees() {
    local try wrong=''
    start_host policy=none
    for ((try = 1; try <= 60; try++)); do
        cp --reflink=auto "$T/far/vda" "$T/far/then"
        wrong=$(judge "$T/far/then" 0) || break
    done
    burn_host
    stop_server far
    [ -n "$wrong" ] || fail "policy=none: $((try - 1)) far sides were all sound"
    say "policy=none: the far side $try of $try is not usable: $wrong"
}

# contrib/docs/restore.md, from the copy to a guest.
test_restore() {
    local kept
    kept=$(last_kept)
    cp --reflink=auto "$kept/vda" "$T/far/restored"
    start_qemu_nbd far raw "$T/far/vda"
    "$WEIR" create "$STORE/vda" --from "$T/far/restored" \
        --target "$(uri far)" >>"$T/weir.log" 2>&1 || fail 'create'
    "$WEIR" set "$STORE/vda" target-accept=same
    mount_store
    "$tests_dir/guest/run-guest" "$guest" "$tests_dir/guest/job-load-verify" \
        "$MNT/vda.raw" >"$T/verify.log" 2>&1 || fail 'the guest on the copy'
    drain_store
    assert_same "$MNT/vda.raw" "$(uri far)"
    status_is .consistent.in_place true || fail "$(status .consistent)"
    umount_store
    stop_server far
    rm -rf "$STORE"
    say 'a new store from the copy; a guest runs on it, the far side follows'
}

mount_loop xfs 8G "$T/far"
mkdir "$T/look"
for image in "$T/base" "$T/far/judged"; do
    on_exit "losetup -n -O NAME -j '$image' | xargs -r losetup -d"
done
on_exit "umount '$T/look'"
make_base
for ((round = 1; round <= rounds; round++)); do
    one_fire "$round"
done
test_restore
if is_long; then
    test_judge_sees
fi
