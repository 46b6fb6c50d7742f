#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The files inside an image are seen, read-only, by the kernel and by libguestfs
# (in the long tier, as it boots a small VM), and nothing is left of it after
# umount, also if the first command was killed, or failed half way.
. "$(dirname "$0")/functions.sh"
requires root fuse loop weir losetup partx blkid sfdisk qemu-img \
    qemu-storage-daemon mkfs.ext4 mkfs.xfs mkfs.btrfs
new_dir
snapmount=$(tool snapmount)
# As in a mount, and not a nice name.
images="$T/m n,t:\"x\"/.snapshots/s1"
at="$T/at the, files"
mkdir -p "$images" "$at"
run_dir=/run/weir
on_exit "'$snapmount' -u '$at'"
loops() { # those of this test
    losetup --list --noheadings --output BACK-FILE | grep -cF "$T/" || true
}
loops_before=$(loops)
is_clean() { # nothing is left, in the state and on the host
    ! mountpoint -q "$at" || fail 'still mounted'
    [ "$(loops)" -eq "$loops_before" ] || fail "loops are left: $(losetup -l)"
    [ -z "$(find "$run_dir" -name 'snapmount-*' 2>/dev/null)" ] ||
        fail "left: $(find "$run_dir")"
    ! pgrep -f "qemu-storage-daemon.*$run_dir/snapmount" >"$T/out" ||
        fail 'a daemon is left'
}
up() { # IMAGE [option…]
    timeout 60 "$snapmount" "$1" "$at" "${@:2}" 2>"$T/err" ||
        fail "mount of $*: $(cat "$T/err")"
}
down() {
    timeout 60 "$snapmount" -u "$at" 2>"$T/err" || fail "umount: $(cat "$T/err")"
    is_clean
}
sees() { # WORD: what the file says
    [ "$(cat "$at/file")" = "$1" ] || fail "not $1: $(ls "$at")"
    ! touch "$at/new" 2>/dev/null || fail 'it can be written'
}

make_fs() { # TYPE IMAGE: with a file, and a journal that is not replayed
    local mnt="$T/make" loop
    mkdir -p "$mnt"
    truncate -s 320M "$2"
    "mkfs.$1" -q "$2" >"$T/out" 2>&1 || fail "mkfs.$1: $(cat "$T/out")"
    loop=$(losetup --find --show "$2")
    on_exit_once "losetup -d $loop"
    mount -t "$1" "$loop" "$mnt"
    on_exit_once "umount '$mnt'"
    echo old >"$mnt/file"
    sync -f "$mnt"
    echo "$1" >"$mnt/new-file"
    mv "$mnt/new-file" "$mnt/file"
    sync "$mnt/file"
    # As a snapshot does, at an instant with the file system at work.
    cp --sparse=always --reflink=auto "$2" "$2.now"
    umount "$mnt"
    losetup -d "$loop"
    not_on_exit "umount '$mnt'"
    not_on_exit "losetup -d $loop"
}

for type in ext4 xfs btrfs; do
    make_fs "$type" "$T/fs"
    mv "$T/fs" "$images/$type.raw"
    mv "$T/fs.now" "$images/$type-now.raw"
    chmod 400 "$images"/*.raw
    sum=$(sha256sum <"$images/$type-now.raw")
    up "$images/$type.raw" kernel
    sees "$type"
    status=0
    "$snapmount" "$images/$type.raw" "$at" kernel 2>"$T/err" || status=$?
    [ "$status" -eq 3 ] || fail "mounted twice: $status"
    down
    # A journal that waits: passed over, or replayed into the overlay.
    up "$images/$type-now.raw" kernel
    down
    up "$images/$type-now.raw" kernel overlay
    sees "$type"
    down
    [ "$(sha256sum <"$images/$type-now.raw")" = "$sum" ] ||
        fail 'the image was written'
done

# Of a partition, the only one with a file system or the one that is asked for.
truncate -s 1200M "$T/parts"
sfdisk -q "$T/parts" <<<$'label: gpt\n- 600M L\n- 16M L\n- 512M L'
chmod 600 "$T/parts"
dd if="$images/ext4.raw" of="$T/parts" bs=1M seek=1 conv=notrunc,sparse \
    status=none
mv "$T/parts" "$images/parts.raw"
up "$images/parts.raw" kernel
sees ext4
down
start=$(partx -s -g -o START -n 3 "$images/parts.raw")
dd if="$images/xfs.raw" of="$images/parts.raw" bs=512 seek=$((start)) \
    conv=notrunc,sparse status=none
status=0
"$snapmount" "$images/parts.raw" "$at" kernel 2>"$T/err" || status=$?
[ "$status" -eq 1 ] || fail "two of them: exit $status"
grep -q -- '--partition NUMBER: 1 ext4, 3 xfs' "$T/err" ||
    fail "does not say which: $(cat "$T/err")"
is_clean
up "$images/parts.raw" kernel partition=3 overlay
sees xfs

# In use: says so, and goes on when it is not.
exec 5<"$at/file"
status=0
"$snapmount" -u "$at" 2>"$T/err" || status=$?
exec 5<&-
[ "$status" -eq 3 ] || fail "umount in use: $status: $(cat "$T/err")"
mountpoint -q "$at" || fail 'half undone'
down
status=0
"$snapmount" -u "$at" 2>"$T/err" || status=$?
[ "$status" -eq 1 ] || fail "umount of nothing: $status"

# What is none, and what is damaged, leaves nothing.
truncate -s 4M "$images/none.raw"
! "$snapmount" "$images/none.raw" "$at" kernel overlay 2>"$T/err" ||
    fail 'nothing was mounted'
is_clean
cp "$images/ext4.raw" "$images/bad.raw"
chmod 600 "$images/bad.raw"
dd if=/dev/zero of="$images/bad.raw" bs=4k seek=1 count=8 conv=notrunc \
    status=none
! "$snapmount" "$images/bad.raw" "$at" kernel overlay 2>"$T/err" ||
    fail 'something damaged was mounted'
is_clean

# Killed at any time.
for ms in 002 005 010 015 020 030 040 060 080 100 150; do
    (timeout -s KILL "0.$ms" "$snapmount" "$images/ext4-now.raw" "$at" \
        kernel overlay || true) 2>"$T/err"
    "$snapmount" -u "$at" 2>"$T/err" || true
    is_clean
done

if is_long; then
    requires guestmount virt-filesystems
    for more in '' overlay; do
        timeout 600 "$snapmount" "$images/ext4-now.raw" "$at" ${more:+"$more"} \
            2>"$T/err" || fail "guestmount: $(cat "$T/err")"
        sees ext4
        down
    done
    timeout 600 "$snapmount" "$images/parts.raw" "$at" partition=/dev/sda3 \
        2>"$T/err" || fail "guestmount: $(cat "$T/err")"
    sees xfs
    down
fi
