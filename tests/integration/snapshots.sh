#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Snapshots are what the disks were at one instant, whoever writes then, and they
# stay that: under overwrites, discards, deletes of their neighbours, kill -9 at
# any moment, other daemons, a larger disk. What reads disk images reads them,
# and the targets come to be each of them.
#
# Two stamped disks have targets; two more, with pairs in one order, show that
# it is the same instant for all.
. "$(dirname "$0")/functions.sh"
requires root fuse weir loop nbdkit nbdcopy nbdinfo qemu-img losetup jq python3
. "$tests_dir/integration/crashes.sh"
new_dir
disks='vda vdb vdc vdd'
. "$tests_dir/integration/snapshot-rig.sh"

rounds=6
is_long && rounds=200
rounds=${WEIR_TEST_KILLS:-$rounds}

# As many requests, and over.
write_some() { # REQUESTS [stamp-write option…]
    stamp_round=$((stamp_round + 1))
    "$stamp" write -s $((seed * 10000 + stamp_round)) -n "$@" \
        "$MNT/vda.raw" "$T/vda.stamps" >"$T/vda.writer.log" 2>&1 ||
        fail "the writer: $(tail -n 1 "$T/vda.writer.log")"
}

# Whoever reads one again and again sees no change.
begin_reading() { # NAME
    rm -f "$T/read-ends"
    read_again "$1" &
    reader=$!
    on_exit "touch '$T/read-ends'"
}

read_again() { # NAME
    trap - EXIT ERR
    local want
    want=$(<"$T/sums/$1.vda")
    while [ ! -e "$T/read-ends" ]; do
        [ "$(sum_of "$1" vda)" = "$want" ] || return 1
        echo one >>"$T/reads"
    done
}

end_reading() {
    touch "$T/read-ends"
    wait "$reader" || fail "seed $seed: it has changed while it was read"
}

mkdir "$T/pairs"
for disk in vda vdb; do
    truncate -s 12M "$T/$disk.far" # room to grow
done
"$WEIR" create "$STORE/vda" --size 8M --target "$(slow vda)"
"$WEIR" create "$STORE/vdb" --size 3M --cluster-size 16K --target "$(slow vdb)"
for disk in vdc vdd; do
    "$WEIR" create "$STORE/$disk" --size 2M
done
"$WEIR" set "$STORE" cut-interval=1 request-deadline=1 "on-cut=$T/on-cut"
mount_store

#
# One instant of all, while all are written
#
begin_writers
"$tests_dir/tools/pair-history" write "$MNT/vdc.raw" "$MNT/vdd.raw" \
    "$T/progress" >"$T/pairs.log" 2>&1 &
pairs=$!
on_exit "end_pid $pairs"
for i in 1 2 3 4 5 6; do
    take s$i $((i % 3))
    for disk in c d; do
        cp "$shots/s$i/vd$disk.raw" "$T/pairs/$i.vd$(tr cd ab <<<$disk)"
    done
    [ $i -ne 1 ] || begin_reading s1
done
kill $pairs
wait $pairs || fail "the guest: $(cat "$T/pairs.log")"
"$tests_dir/tools/pair-history" check "$T/pairs" >"$T/judged" 2>&1 ||
    fail "not one instant: $(tail -n 1 "$T/judged")"
await 60 is_pinned s6
[ "$(readlink "$shots/uploaded")" = s6 ] || await 10 test -e "$shots/uploaded"
end_writers
all_are_kept
pins_are_snapshots
[ $pinned -ge 6 ] || fail "only $pinned of 6 snapshots were the targets"
say "$(cat "$T/judged"); $pinned snapshots were the targets"

#
# Discards, of all there is; deletes of neighbours in every order
#
write_some 40 -p 100 -b 65536-1048576
fallocate -p -o 0 -l 3M "$MNT/vdb.raw"
rm "$T/vdb.stamps"
all_are_kept
for name in s2 s3 s5; do
    delete $name $((RANDOM % 3))
    forget $name
done
all_are_kept
how=0
for order in '1 2 3' '1 3 2' '2 1 3' '2 3 1' '3 1 2' '3 2 1'; do
    for i in 1 2 3; do
        create o$i 1
        keep_sums o$i
        write_some 30 -p 20 -b 512-262144
    done
    for i in $order; do
        how=$(((how + 1) % 3))
        delete o$i $how
        forget o$i
        all_are_kept
    done
done
end_reading
! "$WEIR" snapshot list "$STORE" | grep -q '^o' || fail 'deleted, and listed'

#
# kill -9: of the daemon, of all, with a snapshot being made and one deleted
#
for ((round = 1; round <= rounds; round++)); do
    begin_round
    if ((round % 2)) && status_is .takeover resend; then
        kill_daemon_only
        wait $creator $deleter || true
        await 20 timeout 10 "$WEIR" snapshot list "$STORE"
        end_writers
    else
        kill_daemon
        wait $creator $deleter || true
        await_writer vda
        await_writer vdb
        is_sound
        mount_store
    fi
    # While its writers' logs are those of the moment.
    judge_round
    for disk in vda vdb; do
        verify_stamps $disk "$MNT/$disk.raw" -a -A
    done
    end_round
done
umount_store
is_sound
mount_store
all_are_kept

#
# Another daemon, with a file held open; a larger disk
#
begin_writers
begin_reading s4
exec 5<"$shots/s4/vda.raw"
head -c 1M <&5 >"$T/first"
"$WEIR" upgrade "$STORE" >"$T/out" || fail "upgrade: $(cat "$T/out")"
cat "$T/first" - <&5 | cmp - "$shots/s4/vda.raw" ||
    fail 'not the same through an upgrade'
exec 5<&-
await 20 "$WEIR" is connected "$STORE"
"$WEIR" resize "$STORE/vda" 12M
take large 2
end_writers
end_reading
all_are_kept

#
# Who reads them
#
file=$shots/large/vda.raw
start_nbdkit shot -r file "$file"
nbdcopy "$(uri shot)" "$T/nbdcopy"
cmp "$file" "$T/nbdcopy" || fail 'nbdcopy'
stop_server shot
cp --sparse=always "$file" "$T/sparse"
cmp "$file" "$T/sparse" || fail 'cp'
assert_same "$file" "$T/sparse"
qemu-img map --output=json -f raw "$file" |
    jq -e '([.[].length] | add) == 12 * 1048576' >"$T/out" ||
    fail 'qemu-img map does not show all of it'
device=$(new_loop "$file" -r)
on_exit_once "losetup -d $device"
dd if="$device" of="$T/loop" bs=1M status=none
losetup -d "$device"
not_on_exit "losetup -d $device"
cmp "$T/sparse" "$T/loop" || fail 'a loop device'

# At rest it takes what the disk takes. Clusters that were written in between
# are those that a map of the differences has.
create c1 0
blocks=$(stat -c %b "$MNT/vda.raw")
for range in '4 1' '7 2' '60 3'; do
    dd if=/dev/urandom of="$MNT/vda.raw" bs=64K seek="${range% *}" \
        count="${range#* }" conv=notrunc oflag=direct status=none
done
fallocate -p -o $((20 << 16)) -l $((2 << 16)) "$MNT/vda.raw"
printf x | dd of="$MNT/vda.raw" bs=1 seek=$(((100 << 16) - 1)) conv=notrunc \
    status=none
create c2 1
dd if=/dev/urandom of="$MNT/vda.raw" bs=64K seek=30 count=9 conv=notrunc \
    oflag=direct status=none
[ "$(stat -c %b "$shots/c1/vda.raw")" -eq "$blocks" ] ||
    fail "c1 takes $(stat -c %b "$shots/c1/vda.raw") blocks, not $blocks"
qemu-img map --output=json -f raw "$shots/c2/changed-since/c1/vda.raw" |
    jq -c '[.[] | select(.data) | [.start / 65536, .length / 65536]]' >"$T/out"
[ "$(cat "$T/out")" = '[[4,1],[7,2],[20,2],[60,3],[99,1]]' ] ||
    fail "changed: $(cat "$T/out")"
# On top of the older one it makes the younger one.
cp "$shots/c1/vda.raw" "$T/on-top"
for range in '4 1' '7 2' '20 2' '60 3' '99 1'; do
    dd if="$shots/c2/changed-since/c1/vda.raw" of="$T/on-top" bs=64K \
        skip="${range% *}" seek="${range% *}" count="${range#* }" \
        conv=notrunc status=none
done
cmp "$T/on-top" "$shots/c2/vda.raw" || fail 'the differences are not all'

#
# In the end
#
await 90 is_pinned c2
pins_are_snapshots
all_are_kept
drain_store
for disk in vda vdb; do
    cmp -n "$(stat -c %s "$MNT/$disk.raw")" "$MNT/$disk.raw" "$T/$disk.far" ||
        fail "$disk.far is not the disk"
done
while read -r name; do
    delete "$name" 0
    forget "$name"
    all_are_kept
done < <("$WEIR" snapshot list "$STORE" --json | jq -r '.snapshots[].name' |
    shuf)
nothing_is_left() {
    [ -z "$(find "$STORE/snapshots" "$STORE"/vd?/points -type f)" ]
}
await 30 nothing_is_left
umount_store
is_sound
say "seed $seed: $judged snapshots under writes are one instant of each disk," \
    "$pinned were the targets; $compared sums and $(wc -l <"$T/reads") reads" \
    "through $rounds kills, 0 changed"
