#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Named bitmaps by QEMU's rules: what cannot be is refused and changes nothing,
# a transaction happens or does not, merging is the exact union (coarser grains
# are widened), what is disabled collects nothing, one that a job has is nobody
# else's. They follow a disk that grows. Backups with grains smaller and larger
# than the target's clusters, and of a disk that ends within a grain.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img qemu-nbd qemu-io jq
new_dir
. "$tests_dir/integration/jobs-rig.sh"

n_bitmaps() {
    ask "[.[] | select(.[\"node-name\"] == \"vda\") | .[\"dirty-bitmaps\"] //
        [] | .[]] | length" query-named-block-nodes
}

transaction() { # ACTION…: TYPE:JSON
    local actions
    actions=$(printf '%s\n' "$@" | jq -cR 'split(":")[0] as $type |
        {type: $type, data: (.[($type | length) + 1:] | fromjson)}' | jq -cs .)
    echo "{\"actions\": $actions}"
}

"$WEIR" create "$STORE/vdb" --size 4608 >>"$T/weir.log"
"$WEIR" create "$STORE/large" --size 80G >>"$T/weir.log"
new_job_store

#
# What cannot be
#
add_bitmap b
for granularity in 64000 0 256 4294967296; do
    qmp_refused '*' block-dirty-bitmap-add node=vda name=g \
        granularity=$granularity
done
qmp_refused '*ranularity*power of 2*' block-dirty-bitmap-add node=vda name=g \
    granularity=64000
qmp_refused '*b*' block-dirty-bitmap-add node=vda name=b
qmp_refused '*' block-dirty-bitmap-add node=vda name=
qmp_refused '*' block-dirty-bitmap-add node=vda name=../b
qmp_refused '*nodisk*' block-dirty-bitmap-add node=nodisk name=c
for verb in remove clear enable disable; do
    qmp_refused "*'unknown'*" block-dirty-bitmap-$verb node=vda name=unknown
done
qmp_refused "*'unknown'*" block-dirty-bitmap-merge node=vda target=b \
    bitmaps='["unknown"]'
qmp_refused "*'unknown'*" block-dirty-bitmap-merge node=vda target=unknown \
    bitmaps='["b"]'
[ "$(n_bitmaps)" = 1 ] || fail "$(n_bitmaps) bitmaps, not 1"
has_grains b 0
bitmap remove b

# A digest is made while everybody waits: not of any size.
for granularity in 512 1024; do
    qmp block-dirty-bitmap-add node=large name=g$granularity persistent=false \
        granularity=$granularity
done
qmp_refused "*'g512' has more than 134217728 bits*" \
    x-debug-block-dirty-bitmap-sha256 node=large name=g512
[[ $(ask .sha256 x-debug-block-dirty-bitmap-sha256 node=large name=g1024) =~ \
    ^[0-9a-f]{64}$ ]] || fail 'no digest of 80 Mi bits'

#
# All or nothing: A10
#
qmp_refused "*'unknown'*" transaction "$(transaction \
    'block-dirty-bitmap-add:{"node": "vda", "name": "a"}' \
    'block-dirty-bitmap-add:{"node": "vda", "name": "b", "granularity": 4096}' \
    'block-dirty-bitmap-remove:{"node": "vda", "name": "unknown"}')"
[ "$(n_bitmaps)" = 0 ] || fail 'a transaction that was refused added something'

qmp transaction "$(transaction \
    'block-dirty-bitmap-add:{"node": "vda", "name": "a", "persistent": true}' \
    'block-dirty-bitmap-add:{"node": "vda", "name": "b"}')"
write_grains 0x11 3+2 100
bitmap disable a
write_grains 0x12 50
qmp transaction "$(transaction \
    'block-dirty-bitmap-disable:{"node": "vda", "name": "b"}' \
    'block-dirty-bitmap-add:{"node": "vda", "name": "c"}')"
write_grains 0x13 4+3 200.5
has_grains a 3
has_grains b 4
has_grains c 5
[ "$(bitmap_field .recording a)" = false ] || fail 'disabled, and records'
[ "$(extents_of b)" = '[[3,2],[50,1],[100,1]]' ] || fail "b: $(extents_of b)"
[ "$(extents_of c)" = '[[4,3],[200,2]]' ] || fail "c: $(extents_of c)"

add_bitmap d disabled=true
write_grains 0x14 700
has_grains d 0
qmp block-dirty-bitmap-merge node=vda target=d bitmaps='["b", "c"]'
# c records the write to 700.
[ "$(extents_of d)" = '[[3,4],[50,1],[100,1],[200,2],[700,1]]' ] ||
    fail "b and c: $(extents_of d)"
before=$(sum_of_bitmap d)
add_bitmap e
qmp_refused "*'unknown'*" block-dirty-bitmap-merge node=vda target=d \
    bitmaps='["e", "unknown"]'
write_grains 0x15 900
qmp_refused "*'unknown'*" transaction "$(transaction \
    'block-dirty-bitmap-merge:{"node": "vda", "target": "d", "bitmaps": ["e"]}' \
    'block-dirty-bitmap-clear:{"node": "vda", "name": "b"}' \
    'block-dirty-bitmap-clear:{"node": "vda", "name": "unknown"}')"
[ "$(sum_of_bitmap d)" = "$before" ] || fail 'a merge that was refused changed d'
has_grains b 4

# A clear that is undone loses nothing that is written meanwhile, one that is
# done leaves nothing.
bitmap enable b
write_grains 0x16 901
has_grains b 5
bitmap clear b
has_grains b 0

#
# Other grains: what is coarser is widened
#
add_bitmap fine granularity=512
add_bitmap wide granularity=1048576
disk_io 'write -P 0x17 1048576 512' 'write -P 0x17 20971008 1024'
[ "$(bitmap_field .count fine)" = 1536 ] ||
    fail "fine has $(bitmap_field .count fine) bytes"
[ "$(bitmap_field .count wide)" = $((3 << 20)) ] ||
    fail "wide has $(bitmap_field .count wide) bytes"
bitmap clear wide
qmp block-dirty-bitmap-merge node=vda target=wide bitmaps='["fine"]'
[ "$(bitmap_field .count wide)" = $((3 << 20)) ] ||
    fail "merged: wide has $(bitmap_field .count wide) bytes"
bitmap clear fine
qmp block-dirty-bitmap-merge node=vda target=fine bitmaps='["wide"]'
[ "$(bitmap_field .count fine)" = $((3 << 20)) ] ||
    fail "merged: fine has $(bitmap_field .count fine) bytes"
# A discard is a change.
bitmap clear fine
fallocate -p -o $((5 << 20)) -l $((2 << 20)) "$MNT/vda.raw"
[ "$(bitmap_field .count fine)" = $((2 << 20)) ] ||
    fail "a discard of 2 MiB: $(bitmap_field .count fine) bytes"

# The mount shows what is dirty, with the disk's data.
qemu-img map --output=json -f raw "$MNT/.bitmaps/vda/d.raw" |
    jq -c "[.[] | select(.data) | [.start / $grain, .length / $grain]]" \
        >"$T/out"
[ "$(cat "$T/out")" = "$(extents_of d)" ] ||
    fail "d.raw: $(cat "$T/out"), not $(extents_of d)"
cmp -i $((3 * grain)) -n $((4 * grain)) "$MNT/.bitmaps/vda/d.raw" \
    "$MNT/vda.raw" || fail "d.raw has other data"

#
# A job's is nobody else's: A12
#
is_busy_for_all() {
    local verb words="Bitmap 'busy' is currently in use by another operation"
    words+=' and cannot be used*'
    for verb in remove clear enable disable; do
        qmp_refused "$words" block-dirty-bitmap-$verb node=vda name=busy
    done
    qmp_refused "$words" block-dirty-bitmap-merge node=vda target=busy \
        bitmaps='["a"]'
    qmp_refused "$words" block-dirty-bitmap-merge node=vda target=d \
        bitmaps='["a", "busy"]'
    qmp_refused "$words" blockdev-backup job-id=k device=vda target="$T/far2" \
        sync=bitmap bitmap=busy bitmap-mode=always
    qmp_refused "$words" blockdev-mirror job-id=k device=vda target="$T/far2" \
        sync=incremental bitmap=busy
    [ "$(sum_of_bitmap d)" = "$before" ] || fail 'd has changed'
}

before=$(sum_of_bitmap d)
add_bitmap busy
write_grains 0x18 8+2
new_image far far2
backup j "$T/far" bitmap bitmap=busy bitmap-mode=never auto-finalize=false
await_job j pending
is_busy_for_all
job cancel j
await_job j none
mirror m "$T/far" incremental bitmap=busy
is_busy_for_all
await_job m ready
is_busy_for_all
job cancel m
await_job m none
for verb in disable enable clear remove; do
    bitmap $verb busy
done

#
# Grains and the target's clusters: A9
#
for granularity in 32768 131072; do
    qemu-img create -q -f qcow2 -o cluster_size=128K "$T/base.qcow2" 64M
    qemu-img create -q -f qcow2 -o cluster_size=128K -b "$T/base.qcow2" -F qcow2 \
        "$T/top.qcow2"
    start_qemu_nbd base qcow2 "$T/base.qcow2"
    qmp block-dirty-bitmap-add node=vda name=grainy granularity=$granularity
    run_backup whole "$(uri base)" full
    stop_server base
    disk_io 'write -P 0x19 98304 4096' "write -P 0x1a $((40 << 20)) 200k" \
        'write -P 0x1b 66977792 131072'
    start_qemu_nbd top qcow2 "$T/top.qcow2"
    run_backup part "$(uri top)" incremental bitmap=grainy
    stop_server top
    qemu-img compare -q -f raw -F qcow2 "$MNT/vda.raw" "$T/top.qcow2" ||
        fail "grains of $granularity: not the disk"
    [ "$(bitmap_field .count grainy)" = 0 ] || fail 'not clean after it'
    bitmap remove grainy
done

# A disk that ends within a grain.
disk=vdb
printf 'the end' | dd of="$MNT/vdb.raw" bs=1 seek=4601 conv=notrunc status=none
truncate -s 4608 "$T/small"
add_bitmap b granularity=4096
printf 'THE END' | dd of="$MNT/vdb.raw" bs=1 seek=4601 conv=notrunc status=none
[ "$(bitmap_field .count b)" = 512 ] || fail "vdb: $(bitmap_field .count b)"
run_backup small "$T/small" bitmap bitmap=b bitmap-mode=on-success
assert_same "$MNT/vdb.raw" "$T/small"
disk=vda

#
# The disk grows: what is new is clean until it is written
#
for name in fine wide a; do
    bitmap clear $name
done
bitmap enable a
write_grains 0x1c 1023
for size in 65 66; do
    [ $size = 65 ] || { umount_store && mount_store; }
    before=$(bitmap_field .count fine)
    qmp block_resize node-name=vda size=$((size << 20))
    [ "$(bitmap_field .count fine)" = "$before" ] ||
        fail "grown: fine has $(bitmap_field .count fine), not $before"
    disk_io "write -P 0x1d $(((size - 1) << 20)) 64k"
    [ "$(bitmap_field .count fine)" = $((before + grain)) ] ||
        fail "behind the old end: $(bitmap_field .count fine)"
done
has_grains a 3
new_image far
truncate -s 66M "$T/far"
dd if="$MNT/vda.raw" of="$T/far" bs=1M count=60 conv=notrunc status=none
run_backup grown "$T/far" incremental bitmap=wide
assert_same "$MNT/vda.raw" "$T/far"
umount_store
"$WEIR" check "$STORE" >"$T/out" || fail "check: $(cat "$T/out")"
