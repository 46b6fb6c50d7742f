#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# One request at a time: with poll=0 the thread that serves the guest sleeps for each
# of them, with long looks it seldom does.
. "$(dirname "$0")/functions.sh"
requires root fuse weir fio
new_dir

# Voluntary switches of the thread that serves the guest: of all threads the one
# that has the most.
sleeps() {
    cat /proc/"$(daemon_pid)"/task/*/status |
        awk '/^voluntary_ctxt_switches/ && $2 > n { n = $2 } END { print n }'
}

# Sleeps, for each hundred of so many writes.
sleeps_of() { # COUNT [fio option…]
    local before
    before=$(sleeps)
    fio --name=one --filename="$MNT/vda.raw" --ioengine=psync --direct=1 \
        --rw=randwrite --bs=4k --size=16M --number_ios="$1" \
        --allow_file_create=0 "${@:2}" >"$T/fio.log" 2>&1 || fail 'fio failed'
    echo $((($(sleeps) - before) * 100 / $1))
}

sleeps_seldom() {
    [ "$(sleeps_of 4000)" -lt 50 ]
}

"$WEIR" create "$STORE/vda" --size 16M >>"$T/weir.log"
mount_store "$STORE" "$MNT" -o poll=0
fio --name=fill --filename="$MNT/vda.raw" --rw=write --bs=1M --direct=1 \
    --allow_file_create=0 >"$T/fio.log"
without=$(sleeps_of 2000)
[ "$without" -ge 100 ] || fail "poll=0: $without sleeps for 100 writes"
umount_store

# Long looks, since others may be at work here, too.
mount_store "$STORE" "$MNT" -o poll=1000
await 60 sleeps_seldom
with=$(sleeps_of 4000)
umount_store

say "sleeps for 100 writes: $without with poll=0, $with with poll=1000"
