#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What makes no sense is refused: one line on stderr, the documented exit code
# (1 failure, 2 usage, 3 busy, 4 damaged, 5 target), and nothing changed.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq
new_dir
world=$T/world # everything that a command could change
mkdir -p "$world/no-store"
STORE=$world/store

# Small: all of it is read again after each command.
start_nbdkit far memory 2M
new_store 2M "$(uri far)"
mkdir "$world/mnt"
MNT=$world/mnt
touch "$world/plain-file"
truncate -s 1M "$world/image"
before=$(fingerprint "$world")

wrong=0
unchanged() { # WORDS: what was tried
    local now
    now=$(fingerprint "$world")
    [ "$now" = "$before" ] ||
        fail "changed by $*: $(diff <(echo "$before") <(echo "$now") | head -4)"
}

while read -r code arguments; do
    [ -n "$code" ] || continue
    # shellcheck disable=SC2086
    eval "set -- $arguments"
    # In a subshell: one wrong answer does not hide the others.
    (refused "$code" "$WEIR" "$@" && unchanged "$@") || {
        wrong=$((wrong + 1))
        before=$(fingerprint "$world")
    }
done <<'END'
2
2 nonsense
2 create
2 create "$STORE/vdb"
2 create "$STORE/vdb" --size
2 create "$STORE/vdb" --size 1M --nonsense
2 create "$STORE/vdb" --size 1M extra
2 create "$STORE/vdb" --size nonsense
2 create "$STORE/vdb" --size 0
2 create "$STORE/vdb" --size -1
2 create "$STORE/vdb" --size 1X
2 create "$STORE/vdb" --size 1.5G
2 create "$STORE/vdb" --size 18446744073709551616
2 create "$STORE/vdb" --size 99999999999999999999999
2 create "$STORE/vdb" --size 16777216T
2 create "$STORE/vdb" --size 9E
2 create "$STORE/vdb" --size 1M --from "$world/image"
2 create "$STORE/../vdb" --size 1M
2 create "$STORE/.hidden" --size 1M
2 create "$STORE/a b" --size 1M
2 create "$STORE/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" --size 1M
5 create "$STORE/vdb" --size 1M --target http://127.0.0.1/
5 create "$STORE/vdb" --size 1M --target nbd://
2 create "$STORE/vda" --size 2M
2 create "$STORE/vdb" --from "$world/no-such-image"
1 create "$world/plain-file/vda" --size 1M
1 mount "$world/no-store" "$MNT"
1 mount "$world/no-such-directory" "$MNT"
1 mount "$world/plain-file" "$MNT"
1 mount "$STORE" "$world/no-such-directory"
1 mount "$STORE" "$world/plain-file"
2 mount "$STORE"
2 mount "$STORE" "$MNT" -o nonsense
2 mount "$STORE" "$MNT" -o mode=9999
2 mount "$STORE" "$MNT" -o uid=nobody-of-this-name
2 mount "$STORE" "$MNT" --nonsense
1 umount "$MNT"
1 umount "$world/no-such-directory"
1 status "$world/no-store" --json
1 status "$world/no-such-directory"
1 drain "$world/no-store" --wait
2 drain "$STORE" --timeout nonsense
1 is clean "$world/no-store"
1 is nonsense "$STORE"
1 pause "$world/no-store"
2 set "$STORE"
2 set "$STORE" nonsense=1
2 set "$STORE" bwlimit=fast
2 set "$STORE" max-connections=0
2 set "$STORE" max-connections=99999999999
1 set "$STORE/vdz" target=nbd://127.0.0.1/
2 set "$STORE/vda" target-accept=perhaps
2 resize "$STORE/vda"
2 resize "$STORE/vda" nonsense
2 resize "$STORE/vda" 9999999999T
2 resize "$STORE/vda" 1M
1 resize "$STORE/vdz" 1G
2 remove "$STORE/vdz"
1 remove "$STORE"
1 remove "$STORE/vda"
1 check "$world/no-store"
2 bitmap
2 bitmap add "$STORE/vda"
2 bitmap add "$STORE" b
2 bitmap add "$STORE/vda" ../b
2 bitmap add "$STORE/vda" b --granularity 48K
1 bitmap add "$STORE/vdz" b
1 bitmap add "$STORE/vda" b --transient
1 bitmap remove "$STORE/vda" b
1 bitmap clear "$STORE/vda" b
1 bitmap enable "$STORE/vda" b
1 bitmap merge "$STORE/vda" b c
1 bitmap export "$STORE/vda" b
2 bitmap import "$STORE/vda" b --bitmap b
5 bitmap import "$STORE/vda" b --bitmap b --from http://127.0.0.1/
2 backup "$STORE/vda" --sync full
1 backup "$STORE/vda" --sync full --to "$world/new"
1 mirror "$STORE/vda" --sync full --to "$world/new"
2 mirror "$STORE/vda" --sync full --to "$world/new" --bitmap-mode never
1 job list "$STORE"
1 job cancel "$STORE" j
2 job set-speed "$STORE" j fast
END

[ "$wrong" -eq 0 ] || fail "$wrong wrong answers"

for command in '' create mount umount status drain is pause resume set resize \
    remove metrics check; do
    # shellcheck disable=SC2086
    "$WEIR" $command --help >"$T/out" 2>"$T/err" || fail "$command --help"
    [ -s "$T/out" ] && [ ! -s "$T/err" ] || fail "$command --help says nothing"
    unchanged "$command" --help
done
