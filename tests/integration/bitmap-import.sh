#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A disk moves from QEMU with its bitmaps: what qemu-nbd -B says is dirty, held
# against libnbd's own tool, in a store at rest and in one that is mounted. What
# is not there, too large, not allowed or does not answer ends in one line, and
# changes nothing.
. "$(dirname "$0")/functions.sh"
requires root fuse weir qemu-img qemu-io qemu-nbd nbdinfo nbdkit psktool jq \
    python3
new_dir
image=$T/vm1.qcow2

# An image with some bitmaps, of which two differ in more than their grains.
qemu-img create -q -f qcow2 "$image" 64M
qemu-img bitmap --add -g 64K "$image" coarse
qemu-img bitmap --add -g 512 "$image" fine
write_image() { # COMMAND…: of qemu-io
    local words=()
    for _; do words+=(-c "$_"); done
    qemu-io -f qcow2 "${words[@]}" "$image" >/dev/null
}
write_image 'write -P 1 0 512' 'write -P 2 1M 200k' 'write -P 3 67108352 512' \
    'discard 32M 1M'
qemu-img bitmap --add -g 4K "$image" late
for i in {1..400}; do echo "write -P 4 $((RANDOM * 1024)) 1k"; done |
    qemu-io -f qcow2 "$image" >/dev/null
qemu-img convert -f qcow2 -O raw "$image" "$T/vm1.raw"

start_qemu_nbd vm1 qcow2 "$image" -r -B coarse -B fine -B late

theirs() { # BITMAP: offset and length of what is dirty
    nbdinfo --map="qemu:dirty-bitmap:$1" --json "$(uri vm1)" |
        jq -r '.[] | select(.type == 1) | "\(.offset) \(.length)"'
}
ours() { # BITMAP
    "$WEIR" bitmap export "$STORE/vda" "$1" |
        jq -r '.extents[] | "\(.offset) \(.length)"'
}
import() { # NAME [option…]
    "$WEIR" bitmap import "$STORE/vda" "$1" --from "$(uri vm1)" "${@:2}"
}
is_theirs() { # BITMAP
    theirs "$1" >"$T/theirs"
    ours "$1" >"$T/ours"
    [ -s "$T/theirs" ] || fail "$1: nothing is dirty there"
    diff "$T/theirs" "$T/ours" >"$T/out" || fail "$1: $(head -n 5 "$T/out")"
}
import_all() {
    import coarse --bitmap coarse >>"$T/weir.log"
    import fine --bitmap fine --granularity 512 >>"$T/weir.log"
    import late --bitmap late --granularity 4K >>"$T/weir.log"
    for name in coarse fine late; do is_theirs $name; done
    # Into one that is there: more, never less; its own name if none is given.
    import sum --bitmap fine --granularity 1M >>"$T/weir.log"
    "$WEIR" bitmap import "$STORE/vda" --from "$(uri vm1)" --bitmap late \
        >>"$T/weir.log"
    is_theirs late
}
remove_all() {
    "$WEIR" bitmap remove "$STORE/vda" coarse fine late sum
}
widened() { # BITMAP: theirs, in grains of 1 MiB
    theirs "$1" | awk '{ for (i = int($1 / 1048576);
        i <= int(($1 + $2 - 1) / 1048576); i++) print i }' | sort -nu | wc -l
}

"$WEIR" create "$STORE/vda" --from "$T/vm1.raw" >>"$T/weir.log"
import_all
count=$("$WEIR" bitmap list "$STORE/vda" --json |
    jq '.disks[0].bitmaps[] | select(.name == "sum") | .count')
[ "$count" -eq $(($(widened fine) << 20)) ] || fail "sum has $count bytes"
"$WEIR" check "$STORE" >>"$T/weir.log"
remove_all
mount_store
import_all

# The daemon reads by itself as well, into a bitmap that is there.
daemon_imports() { # NAME BITMAP
    "$tests_dir/tools/qmp" "$STORE/control.sock" weir-bitmap-import \
        "$(jq -nc --arg name "$1" --arg bitmap "$2" --arg uri "$(uri vm1)" \
            '{node: "vda", $name, $uri, $bitmap}')"
}
"$WEIR" bitmap remove "$STORE/vda" fine
"$WEIR" bitmap add "$STORE/vda" fine --granularity 512
daemon_imports fine fine >"$T/answer"
is_theirs fine
jq -e --argjson n "$(wc -l <"$T/theirs")" '.extents == $n and .bytes > 0' \
    "$T/answer" >/dev/null || fail "$(cat "$T/answer")"
! daemon_imports nothere fine >"$T/out" 2>&1 || fail 'into none'

# One that a job has stays as it is, and nothing is left of the attempt.
"$WEIR" backup "$STORE/vda" --to '[ nbdkit memory 64M ]' --sync incremental \
    --bitmap coarse --job-id busy --speed 1 >>"$T/weir.log"
"$WEIR" bitmap list "$STORE" --json >"$T/before"
refused 1 "$WEIR" bitmap import "$STORE/vda" coarse --from "$(uri vm1)" \
    --bitmap fine
grep -q 'currently in use' "$T/err" || fail "$(cat "$T/err")"
! daemon_imports coarse fine >"$T/out" 2>&1 || fail 'into a busy one'
"$WEIR" bitmap list "$STORE" --json >"$T/after"
cmp "$T/before" "$T/after" || fail "$(diff "$T/before" "$T/after")"
"$WEIR" job cancel "$STORE" busy

# More extents than one command of the socket takes.
qemu-img create -q -f qcow2 "$T/dense.qcow2" 64M
qemu-img bitmap --add -g 512 "$T/dense.qcow2" dense
seq 0 4096 $((8999 * 4096)) | sed 's/.*/write & 512/' |
    qemu-io -f qcow2 "$T/dense.qcow2" >>"$T/weir.log"
"$WEIR" bitmap import "$STORE/vda" --bitmap dense --granularity 512 \
    --from "[ qemu-nbd -r -f qcow2 -B dense $T/dense.qcow2 ]" >"$T/out"
grep -q 'in 9000 extents' "$T/out" || fail "$(cat "$T/out")"
seq 0 4096 $((8999 * 4096)) | sed 's/$/ 512/' >"$T/dense"
ours dense >"$T/ours"
cmp "$T/dense" "$T/ours" || fail "$(wc -l <"$T/ours") extents of 9000"
"$WEIR" bitmap list "$STORE" --json |
    jq -e '[.disks[0].bitmaps[].name | select(startswith("import-"))] == []' \
    >/dev/null || fail 'what an import passes through is left'

# More extents than one answer of the socket has.
"$WEIR" bitmap add "$STORE/vda" many --granularity 512
for part in 0 1 2; do
    "$tests_dir/tools/qmp" "$STORE/control.sock" weir-bitmap-mark \
        "$(jq -nc --argjson from $((part * 3000)) '{node: "vda", name: "many",
            extents: [range($from; $from + 3000) |
                {offset: (. * 1024), length: 512}]}')" >>"$T/weir.log"
done
seq 0 1024 $((8999 * 1024)) | sed 's/$/ 512/' >"$T/many"
ours many >"$T/ours"
cmp "$T/many" "$T/ours" || fail "$(wc -l <"$T/ours") extents of 9000"

# What a server says of bytes that it was not asked about counts for nothing, and
# harms nobody.
run_server over "$tests_dir/tools/hostile-server" overreaching \
    "$T/over.sock" "$T/vm1.raw"
await 10 test -S "$T/over.sock"
over="nbd+unix:///?socket=$T/over.sock"
"$WEIR" bitmap add "$STORE/vda" over --granularity 512
"$tests_dir/tools/qmp" "$STORE/control.sock" weir-bitmap-import \
    "$(jq -nc --arg uri "$over" \
        '{node: "vda", name: "over", uri: $uri, bitmap: "far"}')" >>"$T/weir.log"
[ "$(ours over)" = '67108352 512' ] || fail "over: $(ours over)"
"$WEIR" bitmap remove "$STORE/vda" over
import over --bitmap far --from "$over" --granularity 512 >>"$T/weir.log"
[ "$(ours over)" = '67108352 512' ] || fail "over: $(ours over)"
"$WEIR" bitmap remove "$STORE/vda" over

# What was taken over, and what is written from then on.
theirs late >"$T/theirs"
qemu-io -f raw -c 'write 50M 8k' "$MNT/vda.raw" >>"$T/weir.log"
{ cat "$T/theirs"; echo "$((50 << 20)) 8192"; } | sort -n >"$T/both"
ours late >"$T/ours"
diff "$T/both" "$T/ours" >"$T/out" || fail "late, written: $(cat "$T/out")"
umount_store
ours late >"$T/ours"
diff "$T/both" "$T/ours" >"$T/out" || fail "late, at rest: $(cat "$T/out")"
ours many >"$T/ours"
head -n 9000 "$T/ours" | cmp "$T/many" - ||
    fail "$(wc -l <"$T/ours") extents of 9001, at rest"

#
# What is refused
#
"$WEIR" bitmap list "$STORE" --json >"$T/before"
words_are() { # WORDS
    [[ $(cat "$T/err") == *"$1"* ]] || fail "no '$1' in: $(cat "$T/err")"
}
refused 5 "$WEIR" bitmap import "$STORE/vda" --from "$(uri vm1)" --bitmap none
words_are 'it has: coarse, fine, late'
refused 1 "$WEIR" bitmap import "$STORE/vda" --bitmap b \
    --from "nbd+unix:///other?socket=$T/vm1.sock"
refused 1 "$WEIR" bitmap import "$STORE/vda" --bitmap b \
    --from "nbd+unix:///?socket=$T/nobody.sock"
refused 5 "$WEIR" bitmap import "$STORE/vda" --bitmap b \
    --from nbd://192.0.2.1/disk
words_are 'clear text'
refused 5 "$WEIR" bitmap import "$STORE/vda" --bitmap b --from http://there/
refused 2 "$WEIR" bitmap import "$STORE/vda" --bitmap b
refused 1 "$WEIR" bitmap import "$STORE/vdb" --from "$(uri vm1)" --bitmap late
refused 5 "$WEIR" bitmap import "$STORE/vda" --bitmap b \
    --from '[ nbdkit memory 64M ]'
words_are 'and no other'
truncate -s 65M "$T/large.raw"
qemu-img convert -f raw -O qcow2 "$T/large.raw" "$T/large.qcow2"
qemu-img bitmap --add "$T/large.qcow2" b
refused 5 "$WEIR" bitmap import "$STORE/vda" --bitmap b \
    --from "[ qemu-nbd -r -f qcow2 -B b $T/large.qcow2 ]"
words_are 'more than the disk'

# One that takes the connection and says nothing; it can be interrupted.
python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
held = [s.accept() for _ in range(2)]' "$T/mute.sock" &
on_exit "kill $!"
await 10 test -S "$T/mute.sock"
set -m
"$WEIR" bitmap import "$STORE/vda" --bitmap b \
    --from "nbd+unix:///?socket=$T/mute.sock" >"$T/out" 2>"$T/err" &
waiting=$!
set +m
is_connected() {
    [ -n "$(find "/proc/$waiting/fd" -lname 'socket:*')" ]
}
await 10 is_connected
kill -INT $waiting
code=0
wait $waiting || code=$?
[ "$code" -eq 130 ] || fail "interrupted: exit $code: $(cat "$T/err")"
"$WEIR" bitmap list "$STORE" --json >"$T/after"
cmp "$T/before" "$T/after" || fail 'what was refused has changed something'

# With a key, over TLS; and with none, or another one.
mkdir "$T/keys"
psktool -u weir -p "$T/keys/keys.psk" >/dev/null 2>&1
psktool -u weir -p "$T/wrong.psk" >/dev/null 2>&1
chmod 600 "$T/keys/keys.psk" "$T/wrong.psk"
run_server tls qemu-nbd -t -k "$T/tls.sock" -r -f qcow2 -x disk -B late \
    --object "tls-creds-psk,id=tls0,endpoint=server,dir=$T/keys" \
    --tls-creds tls0 "$image"
await 10 test -S "$T/tls.sock"
over_tls() { # NAME KEYS
    echo "nbds+unix://weir@/disk?socket=$T/tls.sock&tls-psk-file=$2"
}
refused 1 "$WEIR" bitmap import "$STORE/vda" tls --bitmap late \
    --from "nbd+unix:///disk?socket=$T/tls.sock"
refused 1 "$WEIR" bitmap import "$STORE/vda" tls --bitmap late \
    --from "$(over_tls tls "$T/wrong.psk")"
"$WEIR" bitmap import "$STORE/vda" tls --bitmap late --granularity 4K \
    --from "$(over_tls tls "$T/keys/keys.psk")" >>"$T/weir.log"
theirs late >"$T/theirs"
ours tls >"$T/ours"
diff "$T/theirs" "$T/ours" >"$T/out" || fail "over TLS: $(cat "$T/out")"
say "$(wc -l <"$T/theirs") ranges as nbdinfo has them, at rest and mounted"
