#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The guest itself, on a plain raw file: what it says of a disk can be relied
# on. It writes, a second boot finds all of it; a disk with one sector changed
# is not believed.
. "$(dirname "$0")/functions.sh"
requires qemu-system-x86_64 busybox cpio mkfs.xfs mkfs.btrfs
new_dir
guest=${WEIR_GUEST_DIR:-$T/guest}

truncate -s 768M "$T/vda.raw"
"$tests_dir/guest/run-guest" "$guest" "$tests_dir/guest/job-write" \
    "$T/vda.raw" >"$T/write.log" 2>&1 || fail 'the writing job'
"$tests_dir/guest/run-guest" "$guest" "$tests_dir/guest/job-verify" \
    "$T/vda.raw" >"$T/verify.log" 2>&1 || fail 'the verifying job'

# A sector of a file's data, found by what it holds, goes bad.
offset=$(grep -abo 'file 59 of /mnt' "$T/vda.raw" | head -n 1 | cut -d: -f1)
printf 'File' | dd of="$T/vda.raw" bs=1 seek="$offset" conv=notrunc status=none
! "$tests_dir/guest/run-guest" "$guest" "$tests_dir/guest/job-verify" \
    "$T/vda.raw" >"$T/verify-bad.log" 2>&1 || fail 'a bad sector was believed'
grep -q '^guest: failed ' "$T/verify-bad.log" || fail 'no verdict was given'
say "the guest writes, verifies and tells"
