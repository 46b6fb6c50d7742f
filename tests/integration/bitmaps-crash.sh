#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The store's file system loses its power, or the daemon is killed, under stamped
# writers, with bitmaps being added, cleared and removed. Afterwards each is there
# if its adding had returned and away if its removal had, records, says all that
# the disk has changed since it was cleared, and not that all of it did; and is
# the same after a clean end. One disk has a target, the other one has none.
. "$(dirname "$0")/functions.sh"
requires root fuse weir loop nbdkit qemu-img jq python3 mkfs.ext4 mkfs.xfs \
    mkfs.btrfs
. "$tests_dir/integration/crashes.sh"
new_dir

types=${WEIR_TEST_FS:-ext4 xfs btrfs}
cuts=4
is_long && cuts=300
cuts=${WEIR_TEST_CUTS:-$cuts}
disk_bytes=$((64 << 20))
written_bytes=$((9 << 20)) # of each disk, from its start
heated=$((32 << 20)) # what is hot is more than what was written
judged=0

ask_json() { # COMMAND…: of the store
    "$WEIR" "$@" --json >"$T/answer" 2>"$T/err" ||
        fail "seed $seed: $*: $(cat "$T/err")"
}

list_names() { # DISK
    ask_json bitmap list "$STORE/$1"
    jq -r '.. | .name? // empty' "$T/answer" | sort
}

has_bitmap() { # DISK NAME
    list_names "$1" | grep -qx "$2"
}

clear_bitmaps() {
    local disk name
    for disk in vda vdb; do
        for name in fine coarse; do
            "$WEIR" bitmap clear "$STORE/$disk" $name >>"$T/weir.log"
        done
        cp --sparse=always "$MNT/$disk.raw" "$T/$disk.base"
    done
}

qmp() { # COMMAND NAME [MEMBERS]: about a bitmap of vdb, to the daemon alone
    "$tests_dir/tools/qmp" "$STORE/control.sock" "block-dirty-bitmap-$1" \
        "{\"node\": \"vdb\", \"name\": \"$2\"${3:-}}"
}

# Bitmaps that come and go while the power fails: who returned is remembered.
come_and_go() {
    local i
    for ((i = 1; ; i++)); do
        echo "adding n$i" >>"$T/comings"
        qmp add "n$i" ', "granularity": 4096, "persistent": true' || return 0
        echo "added n$i" >>"$T/comings"
        qmp clear "n$i" || return 0
        ((i % 3 == 0)) || continue
        echo "removing n$i" >>"$T/comings"
        qmp remove "n$i" || return 0
        echo "removed n$i" >>"$T/comings"
    done >>"$T/comings.log" 2>&1
}

# One at least has come, or, in every second round, gone.
await_comings() {
    if ((round % 2)); then
        await 20 grep -q '^added' "$T/comings"
    else
        await 20 grep -q '^removed' "$T/comings"
    fi
}

judge_comings() {
    local word name seen=0
    list_names vdb >"$T/names"
    # The last word about each.
    awk '{ last[$2] = $1 } END { for (n in last) print last[n], n }' \
        "$T/comings" >"$T/last"
    while read -r word name; do
        [[ $word != *ed ]] || seen=$((seen + 1))
        case $word in
        added) grep -qx "$name" "$T/names" ||
            fail "seed $seed: $name was added, and is not there" ;;
        removed) ! grep -qx "$name" "$T/names" ||
            fail "seed $seed: $name was removed, and is there" ;;
        esac
    done <"$T/last"
    [ "$seen" -gt 0 ] || fail "seed $seed: nothing came or went:" \
        "$(tail -n 1 "$T/comings.log")"
    while read -r name; do
        [[ $name != n* ]] ||
            "$WEIR" bitmap remove "$STORE/vdb" "$name" >>"$T/weir.log"
    done <"$T/names"
    : >"$T/comings"
}

# Whatever the disk has that its base has not is dirty, and what nobody wrote
# to is clean.
judge_bitmap() { # DISK NAME
    ask_json bitmap export "$STORE/$1" "$2"
    python3 - "$T/answer" "$T/$1.base" "$MNT/$1.raw" \
        $heated >"$T/out" 2>&1 <<'END' ||
import json, sys
answer = json.load(open(sys.argv[1]))
most = int(sys.argv[4])
if not answer['recording'] or answer['busy'] or answer.get('inconsistent'):
    sys.exit('it is not of use: %s' % answer)
if 'next' in answer:
    sys.exit('it goes on')
dirty = bytearray(most // 512)
for extent in answer['extents']:
    if extent['offset'] + extent['length'] > most:
        sys.exit('dirty where nobody wrote: %s' % extent)
    first = extent['offset'] // 512
    count = (extent['length'] + 511) // 512
    dirty[first:first + count] = b'\1' * count
base, now = (open(name, 'rb').read(most) for name in sys.argv[2:4])
for sector in range(most // 512):
    at = sector * 512
    if base[at:at + 512] != now[at:at + 512] and not dirty[sector]:
        sys.exit('sector %d was changed, and is clean' % sector)
END
        fail "seed $seed, round $round: $1: $2: $(cat "$T/out")"
    judged=$((judged + 1))
}

judge_all() {
    local disk name
    for disk in vda vdb; do
        for name in fine coarse; do
            judge_bitmap $disk $name
        done
    done
}

exports() { # FILE
    local disk name
    for disk in vda vdb; do
        for name in fine coarse; do
            ask_json bitmap export "$STORE/$disk" $name
            jq -c . "$T/answer"
        done
    done >"$1"
}

crash() {
    if ((round % 3 == 0)); then
        kill_daemon
    else
        cut_power
    fi
}

one_round() {
    local comer
    clear_bitmaps
    start_writer vda "$MNT/vda.raw" -t 4 -b 512-65536 -p 8 \
        -r "0+$written_bytes"
    start_writer vdb "$MNT/vdb.raw" -t 4 -b 512-65536 -p 8 \
        -r "0+$written_bytes"
    come_and_go &
    comer=$!
    on_exit "kill $comer"
    await_comings
    random_wait 1000
    crash
    wait "$comer" || true
    not_on_exit "kill $comer"
    await_writer vda
    await_writer vdb
    "$WEIR" check "$STORE" >"$T/out" 2>&1 ||
        fail "seed $seed: check: $(cat "$T/out")"
    mount_store
    verify_stamps vda "$MNT/vda.raw"
    verify_stamps vdb "$MNT/vdb.raw"
    judge_all
    judge_comings
    exports "$T/before"
    umount_store
    exports "$T/at-rest"
    mount_store
    exports "$T/after"
    cmp -s "$T/before" "$T/after" && cmp -s "$T/before" "$T/at-rest" ||
        fail "seed $seed: not the same after a clean end"
}

run_fs() { # TYPE
    local disk
    new_fs "$1" 512M
    STORE=$FS/store
    : >"$T/comings"
    "$WEIR" create "$STORE/vda" --size $disk_bytes >>"$T/weir.log"
    "$WEIR" create "$STORE/vdb" --size $disk_bytes \
        --target "$(logged_target "$T/far" 2ms)" >>"$T/weir.log"
    "$WEIR" set "$STORE" request-deadline=1 >>"$T/weir.log"
    for disk in vda vdb; do
        "$WEIR" bitmap add "$STORE/$disk" fine --granularity 512
        "$WEIR" bitmap add "$STORE/$disk" coarse
    done >>"$T/weir.log"
    mount_store
    for ((round = 1; round <= cuts; round++)); do
        one_round
    done
    umount_store
    detach_fs
    rm -f "$T"/*.stamps "$T/far" "$fs_image"
}

for type in $types; do
    began=$SECONDS
    run_fs "$type"
    say "seed $seed: $type: $cuts crashes in $((SECONDS - began)) s;" \
        "so far $judged bitmaps held against their disks"
done
