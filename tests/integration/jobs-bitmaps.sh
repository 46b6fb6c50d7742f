#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What a backup leaves in the bitmap that it began from, for each mode, when it
# succeeds, is cancelled, or cannot read; what each leaves in the image; and that
# one more backup leads from both to the disk. No argument that makes no sense
# begins anything.
#
# Numbers of grains as in QEMU's test 257: 6 before the job, 7 while it runs
# (both: 10), 8 afterwards (with the 7: 12, with the 10: 15).
. "$(dirname "$0")/functions.sh"
requires root fuse loop weir nbdkit nbdfuse losetup mkfs.ext4 qemu-img \
    qemu-io jq
new_dir
. "$tests_dir/integration/jobs-rig.sh"

write_before_bitmap() {
    write_grains 0x11 0 16 512 1023
}
write_before_job() { # 6
    write_grains 0x22 0 15.5 512.5 1022
}
write_during_job() { # 7
    write_grains 0x33 1 14.5 513.5 1022+2
}
write_after_job() { # 8, of which 5 were never written before
    write_grains 0x44 1+3 13.5 514.5 1020
}

# The image is what the disk was when the bitmap was made; a backup with that
# makes it what the disk is.
begin_round() {
    forget_events
    write_before_bitmap
    add_bitmap b
    copy_disk "$T/far"
    write_before_job
    has_grains b 6
    copy_disk "$T/want"
}

end_round() { # GRAINS-BEFORE-THE-LAST-JOB GRAINS-AFTER-IT [bitmap-mode]
    local mode=${3:-on-success}
    has_grains b "$1"
    run_backup last "$T/far" bitmap bitmap=b bitmap-mode="$mode"
    assert_same "$MNT/vda.raw" "$T/far"
    has_grains b "$2"
    bitmap remove b
}

run_round() { # MODE finalize|cancel AFTER-JOB LATER
    local mode=$1 how=$2
    begin_round
    backup j "$T/far" bitmap bitmap=b bitmap-mode="$mode" auto-finalize=false
    await_job j pending
    write_during_job
    has_grains b 6
    [ "$(unnamed_grains)" = 7 ] || fail "the successor has $(unnamed_grains)"
    [ "$(bitmap_field '.busy and .recording' b)" = true ] ||
        fail "while the job runs: $(bitmap_field tojson b)"
    job "$how" j
    await_job j none
    [ "$how" = cancel ] && ended_as j cancelled || ended_as j completed
    has_grains b "$3"
    [ "$(bitmap_field '.busy or (.recording | not)' b)" = false ] ||
        fail "after the job: $(bitmap_field tojson b)"
    # Those that keep what is left keep the image as well.
    [ "$how $mode" = 'cancel on-success' ] || assert_same "$T/want" "$T/far"
    write_after_job
    end_round "$4" "$(after_last "$mode" "$4")" "$mode"
    say "$mode, $how: $3, then $4"
}

after_last() { # MODE GRAINS
    [ "$1" = never ] && echo "$2" || echo 0
}

#
# Modes and ends: A1 to A5
#
new_job_store
run_round on-success finalize 7 12
run_round on-success cancel 10 15
run_round never finalize 10 15
run_round never cancel 10 15
run_round always finalize 7 12
run_round always cancel 7 12

#
# 48 that make no sense: A8
#
words_of() { # SYNC BITMAP MODE
    case $1 in
    incremental | bitmap)
        [ "$2" != - ] || {
            echo "must provide a valid bitmap name for '$1' sync mode"
            return
        }
        ;;
    esac
    case "$1 $3" in
    'incremental always' | 'incremental never')
        echo "Bitmap sync mode must be 'on-success' when using sync mode" \
            "'incremental'"
        return
        ;;
    esac
    case "$2 $3" in
    '- '*) echo 'Cannot specify bitmap sync mode without a bitmap' ;;
    'unknown '*) echo "Bitmap 'unknown' could not be found" ;;
    'b -') echo 'Bitmap sync mode must be given when providing a bitmap' ;;
    *) [ "$1" = none ] &&
        echo "sync mode 'none' does not produce meaningful bitmap outputs" ||
        echo "Bitmap sync mode '$3' has no meaningful effect when combined with" \
            "sync mode '$1'" ;;
    esac
}

combinations() { # SYNC BITMAP MODE
    local sync mode
    for sync in incremental bitmap full top none; do
        for mode in on-success always never -; do
            [[ $sync != incremental && $sync != bitmap && $mode == - ]] ||
                echo "$sync - $mode"
            echo "$sync unknown $mode"
            case "$sync $mode" in
            'bitmap never') ;;
            'incremental always' | *' never' | 'bitmap -' | 'full -' | 'top -' | \
                'none '*) echo "$sync b $mode" ;;
            esac
        done
    done
}

new_image none-of-it
add_bitmap b
write_before_job
ask . query-named-block-nodes >"$T/nodes"
tried=0
while read -r sync bitmap mode; do
    words=(job-id=j device=vda target="$T/none-of-it" sync="$sync")
    [ "$bitmap" = - ] || words+=(bitmap="$bitmap")
    [ "$mode" = - ] || words+=(bitmap-mode="$mode")
    qmp_refused "$(words_of "$sync" "$bitmap" "$mode")" blockdev-backup \
        "${words[@]}"
    is_no_job j || fail "a job: sync=$sync bitmap=$bitmap mode=$mode"
    tried=$((tried + 1))
done < <(combinations)
[ $tried -eq 48 ] || fail "$tried combinations, not 48"
# What the disk's buffer takes may change by itself.
ask . query-named-block-nodes | diff <(sed '/actual-size/d' "$T/nodes") \
    <(sed '/actual-size/d') >"$T/out" || fail "changed: $(cat "$T/out")"
cmp -n $disk_bytes "$T/none-of-it" /dev/zero || fail 'the target was written'
bitmap remove b
say "$tried orders that make no sense: none begins"
umount_store

#
# One grain cannot be read: A6, A7. Copied one after the other, so that it is
# known what was copied before.
#
mount_failing() {
    failing_store
    kill "$collector"
    events_seen=0
    new_job_store
}

begin_bad_round() {
    forget_events
    write_before_bitmap
    add_bitmap b
    copy_disk "$T/far"
    write_before_job
    write_bad_grain 15
    copy_disk "$T/want"
    has_grains b 6
    echo once >"$T/unreadable"
}

run_bad_round() { # MODE LEFT LATER
    begin_bad_round
    backup j "$T/far" bitmap bitmap=b bitmap-mode="$1" \
        buf-size=$grain auto-dismiss=false
    await_job j concluded
    ended_as j '*Input/output error*'
    [[ $(job_field .error j) == *'Input/output error'* ]] ||
        fail "the job's error: $(job_field .error j)"
    has_event '.event == "BLOCK_JOB_ERROR" and .data.operation == "read" and
        .data.action == "report" and .data.device == "j"' || fail 'no event'
    job dismiss j
    has_grains b "$2"
    differs "$T/want" "$T/far" || fail "$1: all is there, in spite of the error"
    write_after_job
    end_round "$3" "$(after_last "$1" "$3")" "$1"
    say "$1, an error: $2, then $3"
}

# All of the disk, or all that is allocated; the same error. The disk's first
# grain is copied, and the 14 behind it that are a hole.
run_bad_full() { # SYNC LEFT
    begin_bad_round
    new_image far
    backup j "$T/far" "$1" bitmap=b bitmap-mode=always \
        buf-size=$grain
    await_job j none
    ended_as j '*Input/output error*'
    has_grains b "$2"
    run_backup last "$T/far" bitmap bitmap=b bitmap-mode=on-success
    assert_same "$MNT/vda.raw" "$T/far"
    bitmap remove b
    say "$1, always, an error: $2 of $n_grains left"
}

mount_failing
run_bad_full full 1009
run_bad_full top 6
run_bad_round always 5 13
run_bad_round on-success 6 14
run_bad_round never 6 14
umount_store
