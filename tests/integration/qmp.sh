#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The control socket, byte by byte: negotiation, framing, order, and clients that
# are broken, huge, deaf, many, or nobody's friend; none of them is obeyed, or
# keeps others from being served. A transaction happens or does not, also while
# the guest writes. A bitmap's checksum is that of QEMU's own.
. "$(dirname "$0")/functions.sh"
requires root fuse weir setpriv jq python3 qemu-io qemu-storage-daemon
new_dir
chmod 711 "$T"
control=$STORE/control.sock
truncate -s 64M "$T/copy"
"$WEIR" create "$STORE/vda" --size 64M >>"$T/weir.log" 2>&1
mount_store
daemon=$(daemon_pid)

session() { # NAME [ARGUMENT…]
    timeout 120 "$tests_dir/tools/qmp-session" "$control" "$@" 2>"$T/err" ||
        fail "$(tail -n 1 "$T/err")"
}

qmp() { # COMMAND [JSON]: its answer
    "$tests_dir/tools/qmp" "$control" "$@" 2>>"$T/qmp.log"
}

for name in negotiation framing garbage embedded huge deaf crowd; do
    session $name
    [ "$(daemon_pid)" = "$daemon" ] || fail "$name: another daemon is at work"
    answers_within 2 "$WEIR" status "$STORE"
done
[ "$(awk '/VmRSS/ { print $2 }' "/proc/$daemon/status")" -lt 400000 ] ||
    fail "it has grown: $(grep VmRSS "/proc/$daemon/status")"
session order "$T/copy"

# The socket's mode keeps others out; where that is not looked at, its owner is.
install -m 755 "$tests_dir/tools/qmp-session" "$T/qmp-session"
stranger() {
    setpriv --reuid 65534 --regid 65534 --clear-groups \
        env PATH=/usr/bin:/bin "$T/qmp-session" "$control" stranger 2>"$T/err"
}
chmod 711 "$STORE"
! stranger || fail 'nobody gets to the socket'
grep -q PermissionError "$T/err" || fail "says: $(tail -n 1 "$T/err")"
chmod 666 "$control"
stranger || fail "$(tail -n 1 "$T/err")"
chmod 600 "$control"
chmod 700 "$STORE"

# A transaction that fails at its end leaves what was there, with all that the
# guest wrote meanwhile; one that does not happens as a whole.
count() { # BITMAP: its dirty grains
    qmp weir-bitmap-list | jq -r ".disks[0].bitmaps[] |
        select(.name == \"$1\") | .count / .granularity"
}
action() { # TYPE DATA
    printf '{"type": "%s", "data": {%s}}' "$1" "$2"
}
qmp block-dirty-bitmap-add '{"node": "vda", "name": "a", "persistent": true}' \
    >"$T/answer"
qemu-io -f raw -c 'write -P 1 0 512k' "$MNT/vda.raw" >>"$T/qemu.log"
for round in {1..20}; do
    qemu-io -f raw -c "write -P $round $((round + 8))M 64k" "$MNT/vda.raw" \
        >>"$T/qemu.log" &
    writer=$!
    ! qmp transaction "{\"actions\": [
        $(action block-dirty-bitmap-add '"node": "vda", "name": "b"'),
        $(action block-dirty-bitmap-merge \
            '"node": "vda", "target": "b", "bitmaps": ["a"]'),
        $(action block-dirty-bitmap-clear '"node": "vda", "name": "a"'),
        $(action blockdev-backup "\"device\": \"vda\", \"sync\": \"full\",
            \"target\": \"$STORE/vda/disk.raw\", \"job-id\": \"j\"")]}" \
        >"$T/answer" || fail 'a backup onto itself'
    grep -q 'cannot be the same' "$T/answer" || fail "$(cat "$T/answer")"
    wait $writer
    [ "$(count a)" -eq $((8 + round)) ] || fail "round $round: $(count a) grains"
    [ -z "$(count b)" ] || fail "round $round: b is there"
done
qmp transaction "{\"actions\": [
    $(action block-dirty-bitmap-add '"node": "vda", "name": "b", "disabled": true'),
    $(action block-dirty-bitmap-merge \
        '"node": "vda", "target": "b", "bitmaps": ["a"]'),
    $(action block-dirty-bitmap-clear '"node": "vda", "name": "a"')]}" \
    >"$T/answer" || fail "$(cat "$T/answer")"
[ "$(count a) $(count b)" = '0 28' ] || fail "a has $(count a), b $(count b)"

# The whole state at once, in an instant that the guest does not see: writes go
# on all the time, and each is in one of the two bitmaps or in both.
qmp block-dirty-bitmap-clear '{"node": "vda", "name": "b"}' >"$T/answer"
for ((i = 0; i < 256; i++)); do
    echo "write -P 7 $((i * 64))k 64k"
done >"$T/writes"
qemu-io -f raw "$MNT/vda.raw" <"$T/writes" >>"$T/qemu.log" &
writer=$!
for round in {1..10}; do
    qmp transaction "{\"actions\": [
        $(action block-dirty-bitmap-merge \
            '"node": "vda", "target": "b", "bitmaps": ["a"]'),
        $(action block-dirty-bitmap-clear '"node": "vda", "name": "a"')]}" \
        >"$T/answer" || fail "$(cat "$T/answer")"
done
wait $writer
qmp block-dirty-bitmap-merge \
    '{"node": "vda", "target": "b", "bitmaps": ["a"]}' >"$T/answer"
[ "$(count b)" -eq 256 ] || fail "$(count b) of 256 grains are in neither"

# QEMU has the same checksum of the same writes.
truncate -s 64M "$T/theirs"
qemu-storage-daemon --chardev "socket,id=m,path=$T/qsd,server=on,wait=off" \
    --monitor chardev=m --blockdev "file,node-name=file,filename=$T/theirs" \
    --blockdev raw,node-name=vda,file=file \
    --nbd-server "addr.type=unix,addr.path=$T/nbd" \
    --export nbd,id=e,node-name=vda,name=vda,writable=on >"$T/qsd.log" 2>&1 &
on_exit "kill $!"
await 10 test -S "$T/nbd"
for granularity in 65536 4096 512; do
    bitmap="{\"node\": \"vda\", \"name\": \"g$granularity\",
        \"granularity\": $granularity}"
    qmp block-dirty-bitmap-add "$bitmap" >"$T/answer"
    "$tests_dir/tools/qmp" "$T/qsd" block-dirty-bitmap-add "$bitmap" >"$T/answer"
done
for image in "$MNT/vda.raw" "nbd+unix:///vda?socket=$T/nbd"; do
    qemu-io -f raw -c 'write 0 512' -c 'write 1M 100k' -c 'write 33333k 1k' \
        -c "write $((65536 - 1))k 1k" "$image" >>"$T/qemu.log"
done
for granularity in 65536 4096 512; do
    bitmap="{\"node\": \"vda\", \"name\": \"g$granularity\"}"
    ours=$(qmp x-debug-block-dirty-bitmap-sha256 "$bitmap")
    theirs=$("$tests_dir/tools/qmp" "$T/qsd" x-debug-block-dirty-bitmap-sha256 \
        "$bitmap")
    [ "$ours" = "$theirs" ] || fail "grains of $granularity: $ours, $theirs"
done
[ "$(daemon_pid)" = "$daemon" ] || fail 'another daemon is at work'
umount_store
