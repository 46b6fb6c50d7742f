#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Two disks, cut every second while a guest writes to them in an order: every
# pair of images that the hook put aside is one instant of both. Then what may
# come in between: the hook fails, another daemon takes over, all is killed in the
# middle of a cut, the room for old content ends, a disk leaves the group and
# comes back, discards. (That with policy=none the far side is no instant is seen by
# replica-none.sh, and by cut-truth: here both disks are read at about the same time.)
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit nbdinfo qemu-img jq python3
new_dir

pins=$T/pins
mkdir "$pins"

# How fast both targets are, in bits per second; live.
set_rate() {
    echo "$1" >"$T/rate.new"
    mv "$T/rate.new" "$T/rate"
}

# Pairs only: of a disk that is cut alone there is nothing to compare.
make_hook() {
    cat >"$T/on-cut" <<END
#!/bin/sh
if [ -e $T/hook-fails ]; then
    echo 'no room for a snapshot' >&2
    exit 1
fi
[ "\$WEIR_DISKS" = 'vda vdb' ] || exit 0
for disk in vda vdb; do
    cp --reflink=auto --sparse=always $T/\$disk.far \\
        $pins/\$WEIR_CUT.\$disk || exit 1
done
END
    chmod +x "$T/on-cut"
}

start_writer() {
    "$tests_dir/tools/pair-history" write "$MNT/vda.raw" "$MNT/vdb.raw" \
        "$T/progress" >>"$T/writer.log" 2>&1 &
    writer=$!
    on_exit "end_pid $writer"
}

# It ends by itself only on an error.
stop_writer() {
    kill "$writer" || true
    wait "$writer" || fail 'the guest had an error'
}

records() { # how many pairs are acknowledged
    local count
    read -r count <"$T/progress"
    echo "$count"
}

has_records() { # COUNT
    [ "$(records)" -ge "$1" ]
}

n_pins() {
    find "$pins" -name '*.vdb' | wc -l
}

has_pins() { # COUNT
    [ "$(n_pins)" -ge "$1" ]
}

judge() { # DIR
    "$tests_dir/tools/pair-history" check "$1" >"$T/judged" 2>&1
}

assert_pins() {
    judge "$pins" || fail "$(tail -n 1 "$T/judged")"
}

status_says() { # FILTER that is true
    status_is "$1" true
}

n_writes() {
    echo $(($(logged_writes "$T/vda.nbd") + $(logged_writes "$T/vdb.nbd")))
}

both_are_equal() {
    for disk in vda vdb; do
        assert_same "$MNT/$disk.raw" "$T/$disk.far"
    done
}

#
# One instant of both disks, again and again
#
set_rate 400M
make_hook
for disk in vda vdb; do
    truncate -s 32M "$T/$disk.far"
    start_nbdkit $disk --filter=log --filter=rate --filter=delay \
        file "$T/$disk.far" "logfile=$T/$disk.nbd" "rate-file=$T/rate" \
        wdelay=20ms
    "$WEIR" create "$STORE/$disk" --size 32M --target "$(uri $disk)"
done
"$WEIR" set "$STORE" cut-interval=1 request-deadline=1 "on-cut=$T/on-cut"
mount_store
start_writer
await 30 has_pins 9
aside=$("$WEIR" metrics "$STORE" |
    awk '/^weir_aside_clusters_total/ { printf "%d", $2 }')
[ "$aside" -gt 0 ] || fail 'nothing was kept aside'
assert_pins
say "$(cat "$T/judged"), $aside clusters kept aside"
# What the relay was told of was taken before its turn.
ahead=$("$WEIR" metrics "$STORE" |
    awk '/^weir_upload_ahead_bytes_total/ { n += $2 } END { printf "%d", n }')
[ "$ahead" -gt 0 ] || fail 'nothing was taken before its turn'
grown=$(sed 's/.*pairs, \([0-9]*\) newer.*/\1/' "$T/judged")
[ "$grown" -ge 8 ] || fail "only $grown pairs that are newer than another"
# The judge sees that two instants are not one.
mkdir "$T/crossed"
find "$pins" -name '*.vdb' -printf '%f\n' | sort -n >"$T/cuts"
cp --sparse=always "$pins/$(head -n 1 "$T/cuts" | cut -d. -f1).vda" \
    "$T/crossed/1.vda"
cp --sparse=always "$pins/$(tail -n 1 "$T/cuts")" "$T/crossed/1.vdb"
! judge "$T/crossed" || fail 'two instants were taken for one'

#
# The hook fails: the far side stays what it is, the guest goes on
#
touch "$T/hook-fails"
await 10 status_says '.hook.failures >= 1'
[[ $(status .hook.error) == *'no room for a snapshot'* ]] ||
    fail "the hook's error: $(status .hook.error)"
sent=$(n_writes)
await 10 has_records $(($(records) + 500))
code=0
"$WEIR" drain "$STORE" --wait --timeout 1s >"$T/out" 2>"$T/err" || code=$?
[ "$code" -eq 124 ] || fail "drain with a failing hook: exit $code"
await 10 status_says '.hook.failures >= 2'
[ "$(n_writes)" -eq "$sent" ] || fail 'sent while the hook failed'
pinned=$(status .consistent.pinned)
rm "$T/hook-fails"
await 15 status_says ".hook.failures == 0 and .consistent.pinned > $pinned"
drain_store

#
# The daemon dies and another one takes over: of the guest, and of the cuts
#
if status_is .takeover resend; then
    kill_daemon_only
    count=$(n_pins)
    await 20 has_pins $((count + 1))
fi

#
# A disk leaves the group and comes back, discards in the midst of cuts
#
"$WEIR" set "$STORE/vdb" group=no
drain_store
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M seek=8 count=16 conv=notrunc \
    oflag=direct status=none
"$WEIR" set "$STORE/vdb" group=yes
fallocate -p -o 8M -l 8M "$MNT/vda.raw"
drain_store
count=$(n_pins)
fallocate -p -o 12M -l 10M "$MNT/vda.raw"
await 10 has_pins $((count + 2))
stop_writer
drain_store
both_are_equal

#
# No room for old content: no whole cut until the load is over
#
set_rate 4M
"$WEIR" set "$STORE" buffer-size=1M
start_writer
await 30 status_is .state degraded
# With a guest that is held up by the machine some cut may be whole: once more.
for try in 1 2 3 4; do
    read -r cut whole degraded < <(status \
        '"\(.consistent.cut) \(.cuts.whole) \(.cuts.degraded)"')
    await 60 status_says ".cuts.degraded > $degraded"
    status '"\(.consistent.cut) \(.cuts.whole) \(.state)"' >"$T/degraded"
    read -r now_cut now_whole state <"$T/degraded"
    [ "$now_whole" -eq "$whole" ] || continue
    [ "$now_cut $state" = "$cut degraded" ] ||
        fail "advanced from $cut while degraded: $(cat "$T/degraded")"
    break
done
[ "$now_whole" -eq "$whole" ] || fail "cuts are whole, $try times of $try"
stop_writer
await 60 status_says \
    ".consistent.cut > $cut and .consistent.in_place and .state == \"idle\""
both_are_equal
"$WEIR" set "$STORE" buffer-size=0

#
# Everything killed in the middle of a cut, and again
#
set_rate 2M
for round in 1 2; do
    cut=$(status .consistent.cut)
    start_writer
    # 4 s before it would be whole.
    await 15 status_says '.cuts.state == "sending" and .sealed_bytes > 2097152'
    kill_daemon
    wait "$writer" || true
    mount_store
    status_says "(.consistent.in_place | not) and .consistent.cut >= $cut" ||
        fail "after kill -9, round $round: $(status '.consistent | tojson')"
done
# At rest, and with the daemon ending: who waits for the cut is told.
"$WEIR" drain "$STORE" --wait >"$T/out" 2>"$T/waiter" &
waiter=$!
await 10 status_says '.cuts.state == "sending"'
umount_store
! wait "$waiter" || fail 'a drain that was ended says that all is there'
grep -q 'is stopping' "$T/waiter" || fail "the drain: $(cat "$T/waiter")"
refused 124 "$WEIR" drain "$STORE" --timeout 1s
mount_store
set_rate 400M
await 30 status_says ".consistent.in_place and .consistent.cut > $cut"
start_writer
count=$(n_pins)
await 20 has_pins $((count + 2))
stop_writer
drain_store
both_are_equal
assert_pins
say "in all: $(cat "$T/judged")"
umount_store
