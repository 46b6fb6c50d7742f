#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# MNT/.bitmaps/vda/NAME.raw: what qemu-img and cp find in it is exactly what the
# bitmap says is dirty, with the disk's data, while the guest writes and discards
# and the bitmap is cleared, disabled, removed; after a new mount; and of a disk
# that has grown.
. "$(dirname "$0")/functions.sh"
requires root fuse weir qemu-img qemu-io jq python3
new_dir
files=$MNT/.bitmaps/vda

"$WEIR" create "$STORE/vda" --size 64M >>"$T/weir.log"
"$WEIR" create "$STORE/vdb" --size 4608 >>"$T/weir.log"
"$WEIR" bitmap add "$STORE/vda" none --disabled
"$WEIR" bitmap add "$STORE/vda" fine --granularity 512
"$WEIR" bitmap add "$STORE/vda" page --granularity 4K
"$WEIR" bitmap add "$STORE/vda" coarse --granularity 1M
mount_store

# By name only; a folder for each disk.
[ "$(ls -A "$MNT" | tr '\n' ' ')" = 'vda.raw vdb.raw ' ] || fail "$(ls -A "$MNT")"
[ "$(ls "$MNT/.bitmaps" | tr '\n' ' ')" = 'vda vdb ' ] || fail 'no folders'
[ "$(ls -U "$files" | tr '\n' ' ')" = 'none.raw fine.raw page.raw coarse.raw ' ] ||
    fail "$(ls -U "$files")"
[ -z "$(ls "$MNT/.bitmaps/vdb")" ] || fail 'bitmaps of vdb'
! (: >"$files/fine.raw") 2>/dev/null || fail 'it can be written'
! mkdir "$MNT/.bitmaps/vda/new" 2>/dev/null || fail 'a folder was made'
! rm "$files/fine.raw" 2>/dev/null || fail 'it can be removed'

guest() { # COMMAND…: of qemu-io, past the page cache
    local words=()
    for _; do words+=(-c "$_"); done
    qemu-io -f raw -t none -d unmap "${words[@]}" "$MNT/vda.raw" \
        >>"$T/guest.log" || fail 'the guest'
}
said() { # NAME: what is dirty, as the bitmap says
    "$WEIR" bitmap export "$STORE/vda" "$1" |
        jq -r '.extents[] | "\(.offset) \(.length)"'
}
found() { # NAME: the data that the file has
    qemu-img map -f raw --output=json "$files/$1.raw" |
        jq -r '.[] | select(.data) | "\(.start) \(.length)"'
}
copy_ranges() { # FROM TO: offsets and lengths on stdin
    python3 -c 'import sys
with open(sys.argv[1], "rb") as source, open(sys.argv[2], "r+b") as target:
    for at, length in (map(int, line.split()) for line in sys.stdin):
        source.seek(at)
        target.seek(at)
        target.write(source.read(length))' "$1" "$2"
}
are_exact() { # NAME…
    local name size
    size=$(stat -c %s "$MNT/vda.raw")
    for name; do
        said "$name" >"$T/said"
        found "$name" >"$T/found"
        diff "$T/said" "$T/found" >"$T/out" || fail "$name: $(cat "$T/out")"
        [ "$(stat -c %s "$files/$name.raw")" -eq "$size" ] || fail "$name: size"
        [ "$(stat -c %b "$files/$name.raw")" -eq \
            "$(awk '{ n += $2 } END { print n / 512 }' "$T/said")" ] ||
            fail "$name: $(stat -c %b "$files/$name.raw") blocks"
        # What the disk has there, and nothing else.
        rm -f "$T/built"
        truncate -s "$size" "$T/built"
        copy_ranges "$MNT/vda.raw" "$T/built" <"$T/said"
        cmp "$T/built" "$files/$name.raw" || fail "$name: other data"
        dd if="$files/$name.raw" bs=1M iflag=direct status=none |
            cmp - "$T/built" || fail "$name: other data, past the page cache"
    done
}

guest 'write -P 1 0 64M' 'discard 1M 2M'
are_exact none fine page coarse
[ "$(said none | wc -l)" -eq 0 ] || fail 'what is disabled records'
"$WEIR" bitmap clear "$STORE/vda" fine page coarse
are_exact fine page coarse
[ "$(stat -c %b "$files/fine.raw")" -eq 0 ] || fail 'cleared, and not empty'
guest 'write -P 2 5M 512' 'write -P 3 5121k 1k' 'write -z 9M 100k' \
    'write -P 4 13824 5000k' 'discard 40M 1M' 'write -P 5 67108352 512'
are_exact fine page coarse
for i in {1..200}; do echo "write -P 6 $((RANDOM * 2048)) 512"; done |
    qemu-io -f raw -t none "$MNT/vda.raw" >>"$T/guest.log"
are_exact fine page coarse
"$WEIR" bitmap merge "$STORE/vda" none fine
"$WEIR" bitmap disable "$STORE/vda" page
guest 'write -P 7 20M 3k'
are_exact none fine page coarse

# A copy of the holes, too.
cp --sparse=auto "$files/fine.raw" "$T/copy"
[ "$(stat -c %b "$T/copy")" -le $(($(stat -c %b "$files/coarse.raw") + 64)) ] ||
    fail "a sparse copy has $(stat -c %b "$T/copy") blocks"

# What is open when the bitmap goes is stale, and its name is free again.
exec 5<"$files/fine.raw"
"$WEIR" bitmap remove "$STORE/vda" fine
! head -c 512 <&5 >/dev/null 2>&1 || fail 'a removed bitmap is read'
exec 5<&-
[ ! -e "$files/fine.raw" ] || fail 'a removed bitmap is there'
"$WEIR" bitmap add "$STORE/vda" fine --granularity 512
are_exact fine

# Grown; and a new mount.
"$WEIR" resize "$STORE/vda" 80M
is_grown() {
    [ "$(stat -c %s "$MNT/vda.raw")" -eq $((80 << 20)) ]
}
await 5 is_grown # the kernel asks again when what it knows is old
guest 'write -P 8 79M 1M' 'write -P 9 64M 512'
are_exact fine page coarse
umount_store
mount_store
are_exact none fine page coarse
sum=$(b2sum <"$files/coarse.raw")
"$WEIR" upgrade "$STORE" >>"$T/weir.log"
[ "$(b2sum <"$files/coarse.raw")" = "$sum" ] || fail 'another one after an upgrade'
umount_store
"$WEIR" check "$STORE" >>"$T/weir.log" || fail 'check'
say 'exact, in grains of 512, 4096 and 1048576'
