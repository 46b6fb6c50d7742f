#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A server that misbehaves harms nobody but itself, in a hundred ways
# (tests/tools/hostile-server --list). With each of them as the target: the
# guest's writes, syncs and reads go on, status answers, the daemon lives on,
# nothing is called clean that the server did not honestly take. When a good
# server takes over the same socket and image, the drain ends identical.
#   hostile-servers.sh CASE…  only these
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit nbdinfo qemu-img jq python3
connect_once=$(tool connect-once)
new_dir
poll_ms=200

hostile=$tests_dir/tools/hostile-server
at_once=$((4 * $(nproc)))
size=$((4 << 20))
patience=1 # seconds that the guest works beside it
is_long && patience=10

# What the server says of itself: hits, honestly answered flushes.
told() { # 1|2
    cut -d ' ' -f "$1" "$T/far.sock.told" 2>/dev/null || echo 0
}

was_met() {
    [ "$(told 1)" -gt 0 ]
}

takes_all() {
    # A target that was refused is tried again when the user says something.
    "$WEIR" set "$STORE" max-connections=$((++tries % 4 + 1)) &&
        "$WEIR" drain "$STORE" --wait --timeout 20s >>"$T/weir.log" 2>&1
}

run_case() { # NAME: in a subshell and a directory of its own
    local name=$1 pid probed dirty tries=0
    T=$T/$name STORE=$T/$name/store MNT=$T/$name/mnt
    mkdir -p "$MNT"
    truncate -s $size "$T/image"
    server_uri[far]="nbd+unix:///?socket=$T/far.sock"
    run_server far "$hostile" "$name" "$T/far.sock" "$T/image"
    await 20 test -S "$T/far.sock"
    new_store $size "$(uri far)"
    "$WEIR" set "$STORE" request-deadline=1 cut-interval=1
    mount_store
    pid=$(cat "$STORE/lock") # cheaper than daemon_pid, a hundred times
    # The first MiB is written once, so that a bit lost is not set again.
    dd if=/dev/urandom of="$MNT/vda.raw" bs=64k count=16 conv=notrunc,fsync \
        status=none || fail "$name: the guest's write failed"
    await 120 was_met
    probed=$("$tests_dir/tools/guest-probe" "$MNT/vda.raw" 3145728 262144 \
        "$patience" 2>&1) || fail "$name: the guest met an error: $probed"
    status_is .mounted true || fail "$name: no status"
    # In this order: one may be honest just now.
    dirty=$(status .dirty_bytes)
    [ "$(told 2)" -gt 0 ] || [ "$dirty" -eq $size ] ||
        fail "$name: $dirty dirty, and no flush was honest"
    case $name in
    read-half | read-nothing | read-overlaps)
        [ "$(told 2)" -eq 0 ] || fail "$name: what was not read was believed"
        ;;
    esac
    echo "$name ${probed#* } $(told 1) $(status '.disks[0].target_error')" \
        >"$T/line"
    end_pid "${server_pid[far]}"
    start_nbdkit far file "$T/image"
    await 120 takes_all
    status_is .dirty_bytes 0 || fail "$name: dirty after the drain"
    assert_same "$MNT/vda.raw" "$T/image"
    [ "$(cat "$STORE/lock")" = "$pid" ] || fail "$name: another daemon"
    umount_store
    end_pid "${server_pid[far]}"
    cleanup_steps=()
    echo yes >"$T/done"
}

isolated() { # NAME
    cleanup_steps=()
    trap run_cleanup EXIT
    run_case "$1"
}

# Closing at every byte of the handshake: the relay's own connect, one by one.
cut_handshakes() {
    local said count=0
    truncate -s $size "$T/cut-image"
    run_server cut "$hostile" cut "$T/cut.sock" "$T/cut-image"
    await 20 test -S "$T/cut.sock"
    while [ $count -lt 1000 ]; do
        said=$("$connect_once" "nbd+unix:///?socket=$T/cut.sock" 2>&1) &&
            break
        case $said in
        failed:*) ;;
        *) fail "closed after $count bytes: $said" ;;
        esac
        count=$((count + 1))
    done
    [ $count -gt 100 ] || fail "the handshake has $count bytes only"
    end_pid "${server_pid[cut]}"
    say "a handshake ended after each of its $count bytes, none of them harms"
}

names=("$@")
[ $# -gt 0 ] || mapfile -t names < <("$hostile" --list)
[ $# -gt 0 ] || cut_handshakes
began=$SECONDS
for name in "${names[@]}"; do
    while [ "$(jobs -rp | wc -l)" -gt "$at_once" ]; do
        wait -n || true # each says why itself, and leaves no mark "done"
    done
    isolated "$name" &
done
wait || true
bad=()
for name in "${names[@]}"; do
    [ -s "$T/$name/done" ] || bad+=("$name")
done
cat "$T"/*/line >"$T/lines" || true
if is_long || [ $# -gt 0 ]; then
    cat "$T/lines"
fi
[ ${#bad[@]} -eq 0 ] || fail "${#bad[@]} cases: ${bad[*]}"
say "${#names[@]} hostile servers survived; the guest's slowest write, sync" \
    "and read took $(cut -d ' ' -f 2 "$T/lines" | sort -n | tail -n 1) ms ($((SECONDS - began)) s)"
