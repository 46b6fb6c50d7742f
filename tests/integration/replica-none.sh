#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What replica-guest.sh would say of a far side to which the newest content is
# streamed as it comes (policy=none): that it is no disk that a power cut could
# have left. So the judge can see. Each copy of the far side is what a fire at
# that instant would have left, and nothing is asked but that the file systems
# mount, are sound, and have no half a file. The far side is slow, so that it is
# in between nearly always, and one of many copies has to be bad. A seed as
# argument repeats the random part.
. "$(dirname "$0")/functions.sh"
requires root fuse loop weir jq qemu-nbd qemu-img qemu-system-x86_64 busybox \
    cpio stdbuf python3 mkfs.ext4 mkfs.xfs mkfs.btrfs e2fsck \
    xfs_repair btrfs
new_dir
seed=${1:-$RANDOM}
RANDOM=$seed
copies=100
. "$tests_dir/integration/replica-rig.sh"

begun() { # the first copy of all of it is there
    [ "$(status '.disks[0].sent_bytes')" -gt 0 ]
}

wrong=''
start_host policy=none
await 60 begun
for ((try = 1; try <= copies; try++)); do
    cp --reflink=auto "$T/far/vda" "$T/far/then"
    wrong=$(judge "$T/far/then" 0) || break
done
burn_host
stop_server far
[ -n "$wrong" ] || fail "seed $seed: $copies far sides were all sound"
say "the far side $try of $try is not usable: $wrong"
