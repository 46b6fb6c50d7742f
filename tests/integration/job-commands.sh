#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# backup, mirror and job, as they are typed: names, lists, progress, exit codes,
# what is said about a job that was interrupted, cancelled, refused or has failed,
# and that it goes on when the daemon is replaced under the command.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img qemu-io jq script
new_dir

exits() { # CODE COMMAND…
    local status=0
    timeout 60 "${@:2}" >"$T/out" 2>"$T/err" || status=$?
    [ "$status" -eq "$1" ] ||
        fail "exit $status, not $1: ${*:3}: $(head -n 1 "$T/err")"
}
says() { # WORDS, on stderr
    [[ $(cat "$T/err") == *"$1"* ]] || fail "no '$1' in: $(cat "$T/err")"
}
job() { "$WEIR" job "$@"; }
job_is() { # ID STATUS
    job list "$STORE" --json | jq -e --arg id "$1" --arg status "$2" \
        '.jobs[] | select(.device == $id) | .status == $status' >/dev/null
}
is_listed() { # ID
    job list "$STORE" --json | jq -e --arg id "$1" \
        '[.jobs[].device] | index($id) != null' >/dev/null
}
is_unlisted() { ! is_listed "$1"; }

"$WEIR" create "$STORE/vda" --size 64M >>"$T/weir.log"
"$WEIR" bitmap add "$STORE/vda" b
refused 1 "$WEIR" job list "$STORE"
says 'weir mount it first'
refused 1 "$WEIR" backup "$STORE/vda" --to "$T/x.raw" --sync full
says 'weir mount it first'
[ ! -e "$T/x.raw" ] || fail 'a target was made'
mount_store
qemu-io -f raw -c 'write -P 7 0 40M' "$MNT/vda.raw" >>"$T/weir.log"

#
# What makes no sense
#
refused 2 "$WEIR" backup "$STORE/vda" --sync full
refused 2 "$WEIR" backup "$STORE/vda" --to "$T/x.raw"
refused 2 "$WEIR" backup "$STORE" --to "$T/x.raw" --sync full
refused 2 "$WEIR" backup "$STORE/vda" --to "$T/x.raw" --sync full --speed fast
refused 2 "$WEIR" mirror "$STORE/vda" --to "$T/x.raw" --sync full --bitmap-mode never
refused 2 "$WEIR" job set-speed "$STORE" j fast
for verb in pause resume cancel complete finalize dismiss; do
    refused 2 "$WEIR" job $verb "$STORE"
    says "job $verb: wants STORE JOB ...; see weir job $verb --help"
done
refused 2 "$WEIR" job set-speed "$STORE" j
says 'wants STORE JOB SPEED;'
for words in '--sync nonsense' '--sync incremental' '--sync full --job-id 1x' \
    '--sync incremental --bitmap unknown' '--sync full --granularity 5000'; do
    # shellcheck disable=SC2086
    ! timeout 20 "$WEIR" backup "$STORE/vda" --to "$T/x.raw" $words \
        >"$T/out" 2>"$T/err" || fail "taken: $words"
    [ "$(wc -l <"$T/err")" -eq 1 ] || fail "$words: $(cat "$T/err")"
    [ ! -e "$T/x.raw" ] || fail "$words: and a target was made"
done
refused 1 "$WEIR" job pause "$STORE" unknown
exits 0 "$WEIR" job list "$STORE"
[ ! -s "$T/out" ] || fail "a list of nothing: $(cat "$T/out")"

#
# A backup, waited for; into a file that was not there
#
exits 0 "$WEIR" backup "$STORE/vda" --to "$T/full.raw" --sync full --wait
[ "$(cat "$T/out")" = 'job backup-vda is done' ] || fail "$(cat "$T/out")"
assert_same "$MNT/vda.raw" "$T/full.raw"
is_unlisted backup-vda || fail 'a job that was waited for is listed'
[ "$(stat -c %b "$T/full.raw")" -le $((41 << 11)) ] || fail 'zeroes were written'

# Again: there is data now.
exits 5 "$WEIR" backup "$STORE/vda" --to "$T/full.raw" --sync full --wait
says 'has failed'
says 'target-accept overwrite'
exits 0 "$WEIR" backup "$STORE/vda" --to "$T/full.raw" --sync full --wait \
    --target-accept overwrite
qemu-io -f raw -c 'write -P 8 41M 64k' "$MNT/vda.raw" >>"$T/weir.log"
exits 0 "$WEIR" backup "$STORE/vda" --to "$T/full.raw" --sync incremental \
    --bitmap b --wait
assert_same "$MNT/vda.raw" "$T/full.raw"

#
# One at work
#
begin() { # [option…]: a slow one; its name
    "$WEIR" backup "$STORE/vda" --to "[ nbdkit memory 64M ]" --sync full \
        --speed 1M "$@"
}
[ "$(begin)" = backup-vda ] || fail 'no name'
# Two jobs that write to one place would not do.
! begin >"$T/out" 2>"$T/err" || fail 'two jobs with one target'
says 'is the target of job backup-vda'
[ "$(begin --to '[ nbdkit -t 2 memory 64M ]')" = backup-vda-2 ] ||
    fail 'no second name'
[ "$(begin --to '[ nbdkit -t 3 memory 64M ]' \
    --job-id nightly-backup-of-the-mail-server)" = \
    nightly-backup-of-the-mail-server ] || fail 'not the name that was asked for'
await 10 job_is backup-vda running
job list "$STORE" >"$T/out"
[ "$(wc -L <"$T/out")" -le 80 ] || fail "wider than 80 columns: $(cat "$T/out")"
! grep -q ' $' "$T/out" || fail 'lines that end in blanks'
exits 0 "$WEIR" job list "$STORE" backup-vda-2 nightly-backup-of-the-mail-server
! grep -q '^backup-vda ' "$T/out" && grep -q '^backup-vda-2 ' "$T/out" &&
    grep -q '^nightly-' "$T/out" || fail "not the two: $(cat "$T/out")"
refused 1 "$WEIR" job list "$STORE" backup-vda unknown
says 'there is no job unknown'
job list "$STORE" >"$T/out"
grep -q '^backup-vda  *vda  *\[[#-]*\] ..*%  running' "$T/out" ||
    fail "$(cat "$T/out")"
job list "$STORE" --json | jq -e '.jobs[0] | .device == "backup-vda" and
    .type == "backup" and .disk == "vda" and .len > 0 and .speed == 1048576' \
    >/dev/null || fail 'not as asked'
job pause "$STORE" backup-vda backup-vda-2
await 10 job_is backup-vda-2 paused
job set-speed "$STORE" backup-vda-2 2M
job resume "$STORE" backup-vda-2
await 10 job_is backup-vda-2 running
timeout 10 "$WEIR" job cancel "$STORE" backup-vda backup-vda-2 \
    nightly-backup-of-the-mail-server || fail 'no answer to a cancel'
for id in backup-vda backup-vda-2 nightly-backup-of-the-mail-server; do
    await 10 is_unlisted $id
done

# Kept when it is over, until the next one of its name.
begin --keep >>"$T/weir.log"
await 10 job_is backup-vda running
job cancel "$STORE" backup-vda
await 10 job_is backup-vda concluded
job list "$STORE" >"$T/out"
grep -q 'concluded' "$T/out" || fail "$(cat "$T/out")"
[ "$(begin)" = backup-vda ] || fail 'one that is over keeps its name'
job cancel "$STORE" backup-vda
await 10 is_unlisted backup-vda
begin --keep >>"$T/weir.log"
job cancel "$STORE" backup-vda
await 10 job_is backup-vda concluded
job dismiss "$STORE" backup-vda
is_unlisted backup-vda || fail 'dismissed, and listed'

#
# Waiting: progress, ^C, and what others do meanwhile
#
wait_for_one() { # [option…]: in the background, as $waiting
    set -m
    WEIR_PROGRESS_INTERVAL=1 "$WEIR" backup "$STORE/vda" --sync full --speed 1M \
        --to "[ nbdkit memory 64M ]" --wait "$@" >"$T/waited" 2>"$T/wait.err" &
    waiting=$!
    set +m
    await 10 is_listed backup-vda
}
ended() { # CODE WORDS
    local code=0
    wait $waiting || code=$?
    [ "$code" -eq "$1" ] || fail "exit $code, not $1: $(cat "$T/wait.err")"
    grep -qF "$2" "$T/waited" "$T/wait.err" ||
        fail "no '$2': $(cat "$T/waited" "$T/wait.err")"
}
wait_for_one
await 10 grep -q '^running, .* of 64 MiB\|^running, .* of 40' "$T/wait.err"
kill -INT $waiting
ended 130 "weir job cancel $STORE backup-vda"
job_is backup-vda running || fail 'a ^C has ended the job'
job cancel "$STORE" backup-vda
await 10 job_is backup-vda concluded
wait_for_one
job cancel "$STORE" backup-vda
ended 1 'was cancelled'
is_unlisted backup-vda || fail 'cancelled, waited for, and listed'

# ^C while the guest is being frozen: the job has not been answered for, and begins
# with the target that was made for it.
mkfifo "$T/frozen"
"$WEIR" set "$STORE" on-freeze="touch '$T/freezing'; read -r x <'$T/frozen'"
set -m
"$WEIR" backup "$STORE/vda" --to "$T/late.raw" --sync full --job-id late --keep \
    --wait >"$T/waited" 2>"$T/wait.err" &
waiting=$!
set +m
await 10 test -e "$T/freezing"
kill -INT $waiting
await 5 is_gone $waiting
ended 130 "job late may begin all the same"
job list "$STORE" --json | jq -e '.jobs[0].status == "created"' >/dev/null ||
    fail 'begun while the guest is being frozen'
[ -e "$T/late.raw" ] || fail 'the target of a job that may begin was taken away'
echo >"$T/frozen"
await 10 job_is late concluded
assert_same "$MNT/vda.raw" "$T/late.raw"
job dismiss "$STORE" late
"$WEIR" set "$STORE" on-freeze=none

# The daemon is replaced; and killed.
wait_for_one
"$WEIR" upgrade "$STORE" >>"$T/weir.log"
await 20 job_is backup-vda running
if kernel_is_at_least 6.9; then
    kill_daemon_only
    await 20 job_is backup-vda running
fi
job set-speed "$STORE" backup-vda 0
ended 0 'job backup-vda is done'

# A bar, where there is a terminal.
script -qec "$WEIR backup $STORE/vda --sync full --to '[ nbdkit memory 64M ]' \
    --speed 20M --wait" "$T/typed" >>"$T/weir.log"
grep -aq '\[#*-*\] .*%  running' "$T/typed" || fail "no bar: $(cat "$T/typed")"

# A target that answers with errors; one that does not, at first.
exits 1 "$WEIR" backup "$STORE/vda" --sync full --wait \
    --to '[ nbdkit --filter=error memory 64M error-pwrite-rate=1 error=EIO ]'
says 'has failed'
touch "$T/fails"
wait_for_one --on-target-error stop --speed 0 --to \
    "[ nbdkit --filter=error memory 64M error-pwrite-rate=1 error-file=$T/fails ]"
await 10 grep -q 'stands' "$T/wait.err"
rm "$T/fails"
job resume "$STORE" backup-vda
ended 0 'job backup-vda is done'

#
# Mirrors
#
exits 0 "$WEIR" mirror "$STORE/vda" --to "$T/mirror.raw" --sync full --wait
grep -q 'job mirror-vda is ready' "$T/out" || fail "$(cat "$T/out")"
job list "$STORE" | grep -q '^mirror-vda .*ready' || fail 'not ready'
qemu-io -f raw -c 'write -P 9 3M 100k' "$MNT/vda.raw" >>"$T/weir.log"
exits 0 "$WEIR" job complete "$STORE" mirror-vda --wait
grep -q 'job mirror-vda is done' "$T/out" || fail "$(cat "$T/out")"
assert_same "$MNT/vda.raw" "$T/mirror.raw"
qemu-io -f raw -c 'write -P 10 4M 100k' "$MNT/vda.raw" >>"$T/weir.log"
exits 0 "$WEIR" mirror "$STORE/vda" --to "$T/mirror.raw" --sync incremental \
    --bitmap b --complete
assert_same "$MNT/vda.raw" "$T/mirror.raw"
qemu-io -f raw -c 'write -P 11 5M 100k' "$MNT/vda.raw" >>"$T/weir.log"
exits 0 "$WEIR" mirror "$STORE/vda" --to "$T/mirror.raw" --sync differential \
    --bitmap b --wait
exits 0 "$WEIR" job cancel "$STORE" mirror-vda --soft
await 10 job_is mirror-vda concluded
assert_same "$MNT/vda.raw" "$T/mirror.raw"
job dismiss "$STORE" mirror-vda
exits 0 "$WEIR" job list "$MNT"

# Several that nobody keeps, which end in whatever order: none is missed.
ids='m1 m2 m3 m4'
for id in $ids; do
    "$WEIR" mirror "$STORE/vda" --to "$T/$id.raw" --sync full --job-id $id \
        >>"$T/weir.log"
done
for id in $ids; do
    await 20 job_is $id ready
done
# shellcheck disable=SC2086
exits 0 "$WEIR" job complete "$STORE" $ids --wait
[ "$(sort "$T/out")" = "$(printf 'job %s is done\n' $ids)" ] ||
    fail "$(cat "$T/out")"
for id in $ids; do
    assert_same "$MNT/vda.raw" "$T/$id.raw"
done
exits 1 "$WEIR" job complete "$STORE" m1 --wait

# Its target becomes no disk's, served or at rest.
exits 0 "$WEIR" mirror "$STORE/vda" --to "$T/mirror.raw" --sync differential \
    --bitmap b --wait
ln -s "$T/mirror.raw" "$T/alias.raw"
refused 3 "$WEIR" set "$STORE/vda" target="$T/alias.raw"
says 'job mirror-vda writes it'
umount_store
refused 3 "$WEIR" set "$STORE/vda" target="$T/alias.raw"
says 'job mirror-vda writes it'
refused 3 "$WEIR" create "$STORE/vdb" --size 64M --target "$T/alias.raw"
says 'job mirror-vda writes it'
mount_store
job cancel "$STORE" mirror-vda
await 10 job_is mirror-vda concluded
umount_store
"$WEIR" set "$STORE/vda" target="$T/alias.raw" target-accept=same
"$WEIR" check "$STORE" >>"$T/weir.log" || fail 'check'
say 'begun, listed, waited for, interrupted, cancelled, refused and completed'
