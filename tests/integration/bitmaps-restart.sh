#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Persistent bitmaps over the end of a daemon: the same, to the bit, after a
# clean one, an upgrade, a read-only mount; after kill -9, of the daemon or of all,
# there, usable, and all that was written is in them. One that is not persistent
# ends with its daemon.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img qemu-io jq python3
. "$tests_dir/integration/crashes.sh"
new_dir
. "$tests_dir/integration/jobs-rig.sh"

names='on off fine wide'
rounds=4
is_long && rounds=100
rounds=${WEIR_TEST_KILLS:-$rounds}

sums() {
    local name
    for name in $names; do
        echo "$name $(sum_of_bitmap $name)" \
            "$(bitmap_field '[.count, .recording, .granularity] | tojson' $name)"
    done
}

stays_the_same() { # WHAT
    sums >"$T/sums.now"
    diff "$T/sums" "$T/sums.now" >"$T/out" || fail "$1: $(cat "$T/out")"
}

# What the guest wrote since the bitmaps were cleared, in ranges of bytes.
write_some() { # NUMBER
    local i at length words=()
    for ((i = 0; i < $1; i++)); do
        at=$((RANDOM * 32768 % disk_bytes / 512 * 512 + RANDOM % 64 * 512))
        length=$(((RANDOM % 64 + 1) * 512))
        ((at + length <= disk_bytes)) || continue
        words+=("write -P 0x$((RANDOM % 90 + 10)) $at $length")
        echo "$at $length" >>"$T/written"
    done
    disk_io "${words[@]}"
}

# Each range lies within ranges of the bitmap.
covers_what_was_written() { # NAME
    "$WEIR" bitmap export "$STORE/vda" "$1" --json >"$T/extents" ||
        fail "export of $1"
    jq -r '.extents[] | "\(.offset) \(.length)"' "$T/extents" |
        sort -n >"$T/dirty"
    awk 'FILENAME == ARGV[1] { from[FNR] = $1; to[FNR] = $1 + $2; n = FNR; next }
        { at = $1
          while (i > 1 && from[i] > at) i--
          while (i < n && (i == 0 || to[i] <= at)) i++
          for (j = i; j <= n && from[j] <= at && to[j] > at; j++) at = to[j]
          if (at < $1 + $2) { print "lost: " $0; exit 1 } }' \
        "$T/dirty" "$T/written" >"$T/out" || fail "seed $seed: $1: $(cat "$T/out")"
}

all_cover() {
    local name
    for name in on fine wide; do
        covers_what_was_written $name
    done
}

clear_all() {
    local name
    for name in on fine wide; do
        bitmap clear $name
    done
    : >"$T/written"
    copy_disk "$T/cleared"
}

# In which sectors is the disk another one than it was then?
find_changes() {
    python3 - "$T/cleared" "$MNT/vda.raw" >>"$T/written" <<'END'
import sys
before, after = (open(name, 'rb') for name in sys.argv[1:])
at = 0
while piece := before.read(1 << 20):
    other = after.read(len(piece))
    if piece != other:
        for i in range(0, len(piece), 512):
            if piece[i:i + 512] != other[i:i + 512]:
                print(at + i, 512)
    at += len(piece)
END
}

new_job_store
write_on 5 # its log begins with a disk of zeroes
add_bitmap on
add_bitmap off
add_bitmap fine granularity=512
add_bitmap wide granularity=2097152
qmp block-dirty-bitmap-add node=vda name=passing persistent=false
: >"$T/written"
write_some 40
bitmap disable off
has_off=$(grains_of off)
write_some 40
all_cover

#
# Clean ends
#
sums >"$T/sums"
umount_store
mount_store
stays_the_same 'a restart'
[ -z "$(bitmap_field .name passing)" ] || fail 'it was not to be persistent'
umount_store
mount_store "$STORE" "$MNT" -o ro
stays_the_same 'read-only'
umount_store
mount_store
stays_the_same 'after a read-only mount'
"$WEIR" upgrade "$STORE" >>"$T/weir.log" || fail 'upgrade'
stays_the_same 'an upgrade'
"$WEIR" umount "$MNT" >>"$T/weir.log"
"$WEIR" bitmap list "$STORE/vda" --json >"$T/out" ||
    fail "bitmap list with no daemon: $(cat "$T/out")"
mount_store
stays_the_same 'a list with no daemon'

#
# kill -9 of the daemon alone, and of all
#
for ((round = 1; round <= rounds; round++)); do
    clear_all
    write_some 20
    start_writer vda "$MNT/vda.raw" -t 4 -b 512-65536 -p 8 -d 2 -r 0+8388608
    random_wait 300
    if ((round % 2)) && status_is .takeover resend; then
        kill_daemon_only
        await 20 timeout 10 "$WEIR" status "$STORE" --json
        kill "${writer_pid[vda]}"
        wait "${writer_pid[vda]}" || fail "seed $seed: the guest saw an error"
        not_on_exit "kill -9 ${writer_pid[vda]}"
    else
        kill_daemon
        await_writer vda
        "$WEIR" check "$STORE" >"$T/out" 2>&1 ||
            fail "seed $seed: check: $(cat "$T/out")"
        mount_store
    fi
    find_changes
    all_cover
    [ "$(grains_of off)" = "$has_off" ] ||
        fail "disabled, and has $(grains_of off) grains, not $has_off"
    [ "$(bitmap_field .inconsistent on)" != true ] || fail 'inconsistent'
done

#
# ... and it is of use: what differs from a copy is in it
#
new_image far
run_backup whole "$T/far" full bitmap=on bitmap-mode=on-success
write_some 30
kill_daemon
mount_store
await 10 qmp query-jobs
run_backup part "$T/far" incremental bitmap=on
assert_same "$MNT/vda.raw" "$T/far"
has_grains on 0
for name in $names; do
    bitmap remove $name
done
umount_store
say "seed $seed: the same over clean ends, all that was written after $rounds" \
    "kill -9"
