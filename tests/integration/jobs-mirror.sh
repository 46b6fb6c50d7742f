#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Mirrors, from the beginning to each of their ends: what is copied, of which
# disk, into which target; what is refused; that a pause is one, and what a
# cancel leaves; writes that race the beginning; the end of the daemon; holes.
# Numbers in brackets: QEMU's tests of the same.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img qemu-nbd qemu-io jq
new_dir
. "$tests_dir/integration/jobs-rig.sh"

"$WEIR" create "$STORE/vdb" --size $((1048576 + 1536)) >>"$T/weir.log"
new_job_store
fill_disk 6
fill_disk 3 40
write_grains 0x55 1023

#
# What is copied (041, 155)
#
fresh far
run_mirror m "$T/far" full
assert_same "$MNT/vda.raw" "$T/far"

fresh far
run_mirror m "$T/far" top
assert_same "$MNT/vda.raw" "$T/far"

# What is written from now on, and nothing else.
fresh far
mirror m "$T/far" none
await_job m ready
write_grains 0x66 77+2 1000
ends_well m ''
for at in 77 78 1000; do
    cmp -i $((at * grain)) -n $grain "$MNT/vda.raw" "$T/far" ||
        fail "sync=none: grain $at is not there"
done
[ "$(du -k "$T/far" | cut -f 1)" -le 200 ] ||
    fail "sync=none: $(du -k "$T/far" | cut -f 1) KiB, not 192"

# What was written before it was ready, and after, before the end.
fresh far
mirror m "$T/far" full speed=$((4 << 20))
write_grains 0x77 1 700
qmp block-job-set-speed device=m speed=0
await_job m ready
write_grains 0x78 2 701
ends_well m "$T/far"

# A disk that ends within a grain, and within a sector of its file system.
disk=vdb
dd if=/dev/urandom of="$MNT/vdb.raw" bs=512 count=2051 conv=notrunc status=none
for granularity in 4096 65536 1048576; do
    for buffer in 4096 2097152; do
        rm -f "$T/odd"
        truncate -s $((1048576 + 1536)) "$T/odd"
        run_mirror odd "$T/odd" full granularity=$granularity buf-size=$buffer
        assert_same "$MNT/vdb.raw" "$T/odd"
    done
done
disk=vda

# Into an image with clusters larger than the grains.
qemu-img create -q -f qcow2 -o cluster_size=2M "$T/far.qcow2" 64M
start_qemu_nbd qcow2 qcow2 "$T/far.qcow2"
run_mirror m "$(uri qcow2)" full granularity=4096 buf-size=65536
stop_server qcow2
qemu-img compare -q -f raw -F qcow2 "$MNT/vda.raw" "$T/far.qcow2" ||
    fail 'qcow2: not the disk'

#
# What is refused
#
words_of_size='*ource and target*different sizes*'
for size in 63M 65M; do
    truncate -s $size "$T/size-$size"
    forget_events
    # At once, or when the target was met.
    talk blockdev-mirror job-id=m device=vda target="$T/size-$size" \
        sync=full >"$T/answer"
    if grep -q '^{"return"' "$T/answer"; then
        await_job m none
        ended_as m "$words_of_size"
    else
        # shellcheck disable=SC2053
        [[ $(jq -r .error.desc "$T/answer") == $words_of_size ]] ||
            fail "another size: $(cat "$T/answer")"
    fi
    [ "$(du "$T/size-$size" | cut -f 1)" = 0 ] || fail 'it was written'
done
for target in "$MNT/vda.raw" "$STORE/vda/disk.raw"; do
    qmp_refused '*' blockdev-mirror job-id=m device=vda target="$target" \
        sync=full
done
is_no_job m || fail 'a mirror to itself began'
fresh far
for argument in granularity=3000 granularity=256 granularity=134217728 \
    speed=-1 sync=nothing on-target-error=perhaps buf-size=-1 unknown=1; do
    qmp_refused '*' blockdev-mirror "$(jq -cn --arg far "$T/far" \
        --arg name "${argument%=*}" --arg value "${argument#*=}" '
        {"job-id": "m", device: "vda", target: $far, sync: "full"} +
        {($name): ($value | tonumber? // $value)}')"
done
for id in 1m '' m/n 'm n' m..; do
    [ "$id" = m.. ] || qmp_refused '*' blockdev-mirror job-id="$id" device=vda \
        target="$T/far" sync=full
done
qmp_refused '*nodisk*' blockdev-mirror job-id=m device=nodisk target="$T/far" \
    sync=full

# What weir has no need of is said to be no part of it, with why.
qmp_refused '*write-blocking*' blockdev-mirror job-id=m device=vda \
    target="$T/far" sync=full copy-mode=write-blocking
for policy in break-guest-write break-snapshot; do
    qmp_refused '*on-cbw-error*' blockdev-backup job-id=m device=vda \
        target="$T/far" sync=full on-cbw-error=$policy
done
qmp_refused '*cbw-timeout*' blockdev-backup job-id=m device=vda \
    target="$T/far" sync=full cbw-timeout=45

#
# Paused, it stands still (041)
#
fresh far
fill_disk 16
mirror m "$T/far" full speed=$((2 << 20))
await 10 offset_is_beyond 0
job pause m
await_job m paused
# What was sent before is still answered, and flushed.
at=$(block_field .offset m)
! becomes_true 1 offset_is_beyond "$at" || at=$(block_field .offset m)
! becomes_true 1 offset_is_beyond "$at" || fail 'paused, and goes on'
[ "$(block_field .paused m)" = true ] || fail "paused: $(block_field tojson m)"
job resume m
await 10 offset_is_beyond "$at"
qmp block-job-set-speed device=m speed=0
await_job m ready
ends_well m "$T/far"

#
# Cancel, by when and how (218)
#
for how in 'block-job-cancel device=m force=false' \
    'block-job-cancel device=m force=true' 'job-cancel id=m'; do
    # shellcheck disable=SC2086
    {
        fresh far
        mirror m "$T/far" full speed=65536
        await_job m running
        cancel_is cancelled $how
        [ "$(last_event '.offset < .len')" = true ] ||
            fail "before it was ready: $(last_event .)"
        fresh far
        mirror m "$T/far" full
        await_job m ready
        case $how in
        *force=false)
            write_grains 0x12 5
            cancel_is completed $how
            [ "$(last_event '.offset == .len')" = true ] ||
                fail "ready, and let end: $(last_event .)"
            assert_same "$MNT/vda.raw" "$T/far"
            ;;
        *) cancel_is cancelled $how ;;
        esac
    }
done

#
# A write that begins before the job and ends after it (gitlab 3273), and zeroes
# shorter than a grain (Proxmox 7222)
#
start_load() {
    fio --name=load --filename="$MNT/vda.raw" --rw=randwrite --bs=4k-256k \
        --ioengine=libaio --iodepth=32 --direct=1 --time_based --runtime=60 \
        --size=16M --randrepeat=0 >"$T/fio.log" 2>&1 &
    load=$!
    on_exit "kill $load"
}
end_load() {
    kill $load
    wait $load || true
}
for round in 1 2 3; do
    fresh far
    start_load
    await 10 eval '[ "$(status .rates.guest_write_bps)" -gt 0 ]'
    mirror m "$T/far" full
    await_job m ready
    end_load
    ends_well m "$T/far"
done

fresh far
mirror m "$T/far" full
await_job m ready
disk_io 'write -z 852480 4k' 'write -z 2100224 512' 'discard 4194304 100k'
ends_well m "$T/far"

#
# Ends of the daemon (185), and a drain (129)
#
fresh far
mirror m "$T/far" full speed=$((2 << 20))
await_job m running
timed timeout 20 "$WEIR" umount "$MNT" || fail "umount: $(cat "$T/err")"
[ "$took" -lt 5000 ] || fail "umount with a job took $took ms"
mount_store
await_job m running
[ "$(block_field .speed m)" = $((2 << 20)) ] || fail 'its speed is lost'
"$WEIR" drain "$STORE" --wait >"$T/out" 2>&1 || true
job_is m running || fail "a drain ended it: $(job_field .status m)"
qmp block-job-set-speed device=m speed=0
await_job m ready
ends_well m "$T/far"

#
# What is a hole stays one (mirror-sparse)
#
allocated() { # FILE; in KiB
    sync "$1"
    du -k "$1" | cut -f 1
}
fallocate -p -o $((20 << 20)) -l $((44 << 20)) "$MNT/vda.raw"
write_grains 0x41 900
has=$(allocated "$MNT/vda.raw")
for how in target-is-zero=true target-is-zero=false; do
    fresh far
    run_mirror m "$T/far" full $how
    assert_same "$MNT/vda.raw" "$T/far"
    [ "$(allocated "$T/far")" -le $((has + 256)) ] ||
        fail "$how: $(allocated "$T/far") KiB for $has"
done
# Where nobody can ask what it has, it is written zeroes, unless its user says
# that it has nothing else.
fresh zeroes
start_nbdkit zeroes --filter=log --filter=noextents file "$T/zeroes" \
    logfile="$T/zeroes.requests"
for how in target-is-zero=true target-is-zero=false; do
    : >"$T/zeroes.requests"
    run_mirror m "$(uri zeroes)" full $how target-accept=overwrite
    assert_same "$MNT/vda.raw" "$T/zeroes"
    zeroes=$(grep -cE ' (Zero|Trim) .*\.\.\.$' "$T/zeroes.requests" || true)
    if [ $how = target-is-zero=true ]; then
        [ "$zeroes" -eq 0 ] || fail "$how: $zeroes requests for zeroes"
    else
        [ "$zeroes" -gt 0 ] || fail "$how: no request for zeroes"
    fi
done
# An image that has all its blocks is the disk as well.
head -c $disk_bytes /dev/urandom >"$T/old"
run_mirror m "$T/old" full target-accept=overwrite
assert_same "$MNT/vda.raw" "$T/old"
umount_store
