# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# snapshot-rig.sh - snapshots of a guest at work, judged, and held to their sums
#
# Sourced after functions.sh and crashes.sh; $disks are the disks of the store,
# of which vda and vdb are stamped. Copies of the stamps' log from before and
# after the call are the bounds of what a snapshot may have; what it has then
# stays, by the sums in $T/sums. The hook keeps what the targets were when they
# were a snapshot.
shots=$MNT/.snapshots
judged=0 compared=0 pinned=0
declare -A kept # by name: their sums are known
mkdir "$T/pins" "$T/sums"
: >"$T/pinned"

#
# The guest
#
begin_writers() {
    start_writer vda "$MNT/vda.raw" -t 6 -b 512-262144 -p 8
    start_writer vdb "$MNT/vdb.raw" -t 3 -b 4096-131072 -f 6 -p 8 -d 2
    # Its first words come before its first promises.
    await 10 test -s "$T/vda.stamps"
    await 10 test -s "$T/vdb.stamps"
}

end_writers() { # of a mount that is well
    local disk
    for disk in vda vdb; do
        kill "${writer_pid[$disk]}"
        wait "${writer_pid[$disk]}" ||
            fail "the guest has seen an error: $(tail -n 1 "$T/$disk.writer.log")"
        not_on_exit "kill -9 ${writer_pid[$disk]}"
        verify_stamps $disk "$MNT/$disk.raw" -a
    done
}

#
# Snapshots
#
create() { # NAME HOW
    case $2 in
    0) "$WEIR" snapshot create "$STORE" "$1" ;;
    1) mkdir "$shots/$1" ;;
    2) "$tests_dir/tools/qmp" "$STORE/control.sock" weir-snapshot-create \
        "{\"name\": \"$1\"}" ;;
    esac >>"$T/weir.log"
}

delete() { # NAME HOW
    case $2 in
    0) "$WEIR" snapshot delete "$STORE" "$1" ;;
    1) rmdir "$shots/$1" ;;
    2) "$tests_dir/tools/qmp" "$STORE/control.sock" weir-snapshot-delete \
        "{\"name\": \"$1\"}" ;;
    esac >>"$T/weir.log"
}

exists() { # NAME
    [ -d "$shots/$1" ]
}

copy_logs() { # before|after
    cp "$T/vda.stamps" "$T/vda.$1"
    cp "$T/vdb.stamps" "$T/vdb.$1"
}

# What it is, past the page cache: dd fails if not all of it can be read.
sum_of() { # NAME DISK
    dd if="$shots/$1/$2.raw" bs=1M iflag=direct status=none | b2sum
}

# Between copy_logs before and copy_logs after; what it is from now on.
judge() { # NAME
    local disk
    for disk in vda vdb; do
        "$stamp" verify -b "$T/$disk.before" "$shots/$1/$disk.raw" \
            "$T/$disk.after" >"$T/judge.log" 2>&1 ||
            fail "seed $seed: snapshot $1, $disk: $(tail -n 2 "$T/judge.log")"
    done
    judged=$((judged + 1))
    keep_sums "$1"
}

keep_sums() { # NAME
    local disk
    kept[$1]=yes
    for disk in $disks; do
        sum_of "$1" $disk >"$T/sums/$1.$disk"
    done
}

take() { # NAME HOW
    copy_logs before
    create "$1" "$2" || fail "snapshot $1 was not made"
    copy_logs after
    judge "$1"
}

forget() { # NAME
    unset "kept[$1]"
}

all_are_kept() {
    local name disk
    for name in "${!kept[@]}"; do
        for disk in $disks; do
            [ "$(sum_of "$name" $disk)" = "$(<"$T/sums/$name.$disk")" ] ||
                fail "seed $seed: $disk of snapshot $name has changed"
            compared=$((compared + 1))
        done
    done
}

is_sound() {
    "$WEIR" check "$STORE" >"$T/out" 2>&1 || fail "check: $(cat "$T/out")"
}

#
# A crash, with one being made and one deleted: "made" and "gone" are there if
# whoever asked was told so. Not by the command: when the daemon is gone it does
# that itself, maybe to files that the cut has left behind.
#
begin_round() {
    rm -f "$T/made" "$T/gone"
    begin_writers
    take r$round 0
    take d$round 1
    random_wait 200
    copy_logs before
    { create k$round $((1 + RANDOM % 2)) 2>>"$T/weir.log" && touch "$T/made"; } &
    creator=$!
    { delete d$round $((1 + RANDOM % 2)) 2>>"$T/weir.log" && touch "$T/gone"; } &
    deleter=$!
    random_wait 60
}

# Whoever was told has been told the truth.
judge_round() {
    copy_logs after
    ! [ -e "$T/made" ] || exists k$round || fail "seed $seed: k$round is lost"
    ! [ -e "$T/gone" ] || ! exists d$round ||
        fail "seed $seed: d$round is back"
    ! exists k$round || judge k$round
    exists d$round || forget d$round
    all_are_kept
}

end_round() {
    ! exists d$round || { delete d$round 0 && forget d$round; }
    delete r$round 1
    forget r$round
}

#
# The far side is a snapshot when the hook says so, and stays that meanwhile
#
cat >"$T/on-cut" <<END
#!/bin/sh
[ -n "\$WEIR_SNAPSHOT" ] || exit 0
for disk in \$WEIR_DISKS; do
    cp --sparse=always $T/\$disk.far $T/pins/\$WEIR_SNAPSHOT.\$disk || exit 1
done
echo "\$WEIR_SNAPSHOT" >>$T/pinned
END
chmod +x "$T/on-cut"

is_pinned() { # NAME
    grep -qx "$1" "$T/pinned"
}

# Those that were pinned and are still there.
pins_are_snapshots() {
    local name disk
    for name in $(sort -u "$T/pinned"); do
        exists "$name" || continue
        for disk in vda vdb; do
            cmp -n "$(stat -c %s "$shots/$name/$disk.raw")" \
                "$shots/$name/$disk.raw" "$T/pins/$name.$disk" ||
                fail "seed $seed: the target was not snapshot $name"
        done
        pinned=$((pinned + 1))
        rm "$T/pins/$name".*
        sed -i "/^$name\$/d" "$T/pinned"
    done
}

# nbdkit 1.32 may abort when its client dies: each client has its own.
slow() { # DISK
    echo "[ nbdkit --filter=delay file $T/$1.far wdelay=10ms ]"
}
