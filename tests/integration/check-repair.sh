#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Each metadata file of a store at rest is cut, changed and removed in turn, and
# those that a crash needs after one. check names what is damage, --repair mends
# it, and then the disk is what it was, and a drain makes the target equal.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq
new_dir

truncate -s 16M "$T/far.img"
start_nbdkit far file "$T/far.img"
new_store 16M "$(uri far)"
"$WEIR" set "$STORE" request-deadline=1
mount_store
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=8 conv=notrunc,fsync \
    status=none
drain_store

# One bit of the byte at each OFFSET.
flip() { # FILE OFFSET…
    local at byte
    for at in "${@:2}"; do
        byte=$(od -An -tu1 -j "$at" -N 1 "$1")
        # shellcheck disable=SC2059
        printf "\\x$(printf %x $((byte ^ 4)))" |
            dd of="$1" bs=1 seek="$at" conv=notrunc status=none
    done
}

# Of what has two slots both are flipped: one may be the one not in use.
damage() { # HOW FILE
    case $1-$2 in
    cut-*) truncate -s 100 "$STORE/$2" ;;
    removed-*) rm "$STORE/$2" ;;
    flipped-*/dirty) flip "$STORE/$2" 8242 12338 ;;
    flipped-*/zeroes) flip "$STORE/$2" 50 4146 ;;
    flipped-*) flip "$STORE/$2" 50 ;;
    esac
}

# Two files have to be there only if something relies on them.
is_damage() { # WHEN HOW FILE
    case $1-$2-$3 in
    *-removed-vda/zeroes | *-removed-vda/remote-sums) return 1 ;;
    rest-removed-vda/intent) return 1 ;;
    esac
}

# Of a drained store, every file is in use: something is dirty, something was
# discarded.
use_store() { # WHEN ROUND
    "$WEIR" pause "$STORE"
    fallocate -p -o 10M -l 1M "$MNT/vda.raw"
    dd if=/dev/urandom of="$MNT/vda.raw" bs=64k count=8 seek=$(($2 * 4)) \
        conv=notrunc,fsync status=none
    cp "$MNT/vda.raw" "$T/image"
    case $1 in
    rest) umount_store ;;
    crash) kill_daemon ;;
    esac
}

expect_check() { # CODE CASE [option…]
    local status=0
    "$WEIR" check "$STORE" "${@:3}" >"$T/out" 2>"$T/err" || status=$?
    [ "$status" -eq "$1" ] ||
        fail "$2: check ${*:3}: exit $status, not $1: $(cat "$T/out")"
}

round=0
mends() { # WHEN HOW FILE…
    local case="$2 ($1): ${*:3}" file
    use_store "$1" $((round++))
    for file in "${@:3}"; do
        damage "$2" "$file"
    done
    if is_damage "$@"; then
        expect_check 4 "$case"
        for file in "${@:3}"; do
            grep -q "^damaged: .*${file##*/}" "$T/out" ||
                fail "$case: $file is not named: $(cat "$T/out")"
        done
    else
        expect_check 0 "$case"
    fi
    expect_check 0 "$case" --repair
    expect_check 0 "$case"
    mount_store
    dd if="$MNT/vda.raw" bs=1M status=none | cmp "$T/image" - ||
        fail "$case: the disk is another one"
    drain_store
    assert_same "$T/image" "$(uri far)"
}

# The state first: without it, it is the sums that know the target.
for file in state vda/dirty vda/intent vda/zeroes vda/sent-log \
    vda/remote-sums; do
    for how in cut flipped removed; do
        mends rest $how $file
    done
done
# Few: each waits four times the request deadline for uploads of before.
mends crash cut vda/intent
mends crash flipped vda/intent vda/sent-log
mends crash removed vda/intent vda/dirty
umount_store
say "$round times damaged, mended, and drained"
