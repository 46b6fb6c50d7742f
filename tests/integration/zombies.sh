#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Targets that are not what they seem. A write whose connection died is
# executed seconds later; what was not flushed is gone after a restart; a
# flush was a lie; another target of the same size, or a smaller one, answers
# at the same address. Each is survived, or refused in words with the target
# untouched.
#   zombies.sh CASE…  only these
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit nbdinfo qemu-img jq python3
new_dir
poll_ms=200
hostile=$tests_dir/tools/hostile-server
size=$((4 << 20))

start_hostile() { # KIND
    remember far hostile "$@"
    server_uri[far]="nbd+unix:///?socket=$T/far.sock"
    run_server far "$hostile" "$1" "$T/far.sock" "$T/image"
    await 20 server_answers far
}

has_hit() { # TIMES
    [ "$(cut -d ' ' -f 1 "$T/far.sock.told")" -ge "$1" ]
}

write_block() { # MEGABYTE
    dd if=/dev/urandom of="$MNT/vda.raw" bs=64k count=1 seek=$(($1 * 16)) \
        conv=notrunc,fsync status=none
}

# A store that is drained to a server of that kind, which is then armed.
new_pair() { # KIND
    truncate -s $size "$T/image"
    start_hostile "$1"
    new_store $size "$(uri far)"
    "$WEIR" set "$STORE" request-deadline=1
    mount_store
    for megabyte in 0 1 2 3; do
        write_block $megabyte
    done
    drain_store
    assert_same "$MNT/vda.raw" "$T/image"
    touch "$T/far.sock.arm"
}

# The old content is on its way, its connection dies, the new content follows
# on another; then the old one is executed.
case_zombie() {
    new_pair zombie
    write_block 2
    await 20 has_hit 1
    write_block 2
    drain_store
    await 20 has_hit 2
    assert_same "$MNT/vda.raw" "$T/image"
    # Nothing of it was left to the next drain.
    status_is .dirty_bytes 0 || fail 'dirty again'
}

# Killed between the acknowledgement of a write and its flush.
case_volatile() {
    new_pair volatile
    write_block 1
    await 20 has_hit 1
    kill_server far
    rm "$T/far.sock.arm"
    start_hostile volatile
    drain_store
    assert_same "$MNT/vda.raw" "$T/image"
}

is_refused() {
    status_is '.disks[0].target_state' refused
}

refused_untouched() { # WORDS
    local before
    before=$(sha256sum <"$T/image")
    await 30 is_refused
    write_block 3
    refused 5 "$WEIR" drain "$STORE" --wait --timeout 30s
    grep -q "$1" "$T/err" || fail "said: $(cat "$T/err")"
    [ "$(sha256sum <"$T/image")" = "$before" ] || fail 'was written'
    status '.disks[0].target_error' | grep -q 'weir set STORE target' ||
        fail 'no way on is told'
}

# Success was said of a flush, and at the restart nothing of it is there.
case_liar() {
    new_pair liar
    dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=4 conv=notrunc,fsync \
        status=none
    drain_store
    kill_server far
    rm "$T/far.sock.arm"
    start_hostile liar
    refused_untouched 'not what was written'
    "$WEIR" set "$STORE/vda" target-accept=overwrite
    drain_store
    assert_same "$MNT/vda.raw" "$T/image"
}

# One cluster only: the look at a few clusters on connect may miss it. What
# cannot miss it is a comparison of all of them.
case_liar_once() {
    new_pair liar
    write_block 2
    drain_store
    kill_server far
    rm "$T/far.sock.arm"
    start_hostile liar
    if becomes_true 10 is_refused; then
        say 'one cluster lost by a lie: seen on connect'
    elif ! "$WEIR" verify --help >/dev/null 2>&1; then
        say 'one cluster lost by a lie: not seen on connect, as may be'
    else
        ! "$WEIR" verify "$STORE" >"$T/out" 2>&1 ||
            fail "verify found nothing: $(cat "$T/out")"
        "$WEIR" verify "$STORE" --repair >"$T/out" 2>&1 || true
        drain_store
        assert_same "$MNT/vda.raw" "$T/image"
    fi
}

case_swapped() {
    new_pair volatile
    rm "$T/far.sock.arm"
    kill_server far
    dd if=/dev/urandom of="$T/image" bs=1M count=4 conv=notrunc status=none
    start_hostile volatile
    refused_untouched 'not what was written'
    "$WEIR" set "$STORE/vda" target-accept=overwrite
    drain_store
    assert_same "$MNT/vda.raw" "$T/image"
}

# ... by a blank one, which agrees with every hole of the disk.
case_blank() {
    new_pair volatile
    rm "$T/far.sock.arm"
    kill_server far
    truncate -s 0 "$T/image"
    truncate -s $size "$T/image"
    start_hostile volatile
    refused_untouched 'not what was written'
}

case_shrunk() {
    new_pair volatile
    rm "$T/far.sock.arm"
    kill_server far
    truncate -s $((size - 65536)) "$T/image"
    start_hostile volatile
    refused_untouched 'enlarge it'
}

isolated() { # NAME
    cleanup_steps=()
    trap run_cleanup EXIT
    T=$T/$1 STORE=$T/$1/store MNT=$T/$1/mnt
    mkdir -p "$MNT"
    "case_$1"
    umount_store
    touch "$T/done"
}

cases=("$@")
[ $# -gt 0 ] || cases=(zombie volatile liar liar_once swapped blank shrunk)
began=$SECONDS
for name in "${cases[@]}"; do
    isolated "$name" &
done
wait || true
for name in "${cases[@]}"; do
    [ -e "$T/$name/done" ] || fail "$name"
done
say "survived or refused: ${cases[*]} ($((SECONDS - began)) s)"
