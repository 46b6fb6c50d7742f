#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Snapshots by command, of a store at rest and of one that is mounted: names,
# lists, the hooks that freeze and thaw the guest, and what becomes of them when
# the daemon is replaced or ends in the middle; the schedule.
. "$(dirname "$0")/functions.sh"
requires root fuse weir jq
new_dir

exits() { # CODE COMMAND…
    local status=0
    timeout 60 "${@:2}" >"$T/out" 2>"$T/err" || status=$?
    [ "$status" -eq "$1" ] ||
        fail "exit $status, not $1: ${*:3}: $(head -n 1 "$T/err")"
}
snapshot() { "$WEIR" snapshot "$@"; }
names() { snapshot list "$STORE" --json | jq -c '[.snapshots[].name]'; }
names_are() { [ "$(names)" = "$1" ] || fail "snapshots $(names), not $1"; }

"$WEIR" create "$STORE/vda" --size 16M
"$WEIR" create "$STORE/vdb" --size 8M

# At rest.
exits 0 "$WEIR" snapshot list "$STORE"
[ ! -s "$T/out" ] || fail "a list of nothing: $(cat "$T/out")"
[ "$(snapshot create "$STORE" rest)" = rest ] || fail 'create names another'
exits 2 "$WEIR" snapshot create "$STORE" rest
exits 2 "$WEIR" snapshot create "$STORE" .x
[[ $(snapshot create "$STORE") =~ ^[0-9]{8}T[0-9]{6}Z$ ]] ||
    fail 'no name of the present time'
exits 0 "$WEIR" snapshot list "$STORE"
[ "$(wc -l <"$T/out")" -eq 3 ] || fail "$(cat "$T/out")"
[ "$(wc -L <"$T/out")" -le 80 ] || fail "wider than 80 columns: $(cat "$T/out")"
exits 0 "$WEIR" snapshot diff "$STORE" rest
exits 1 "$WEIR" snapshot diff "$STORE" nope
exits 1 "$WEIR" snapshot delete "$STORE" nope
long=$(printf 'n%.0s' {1..64})
snapshot create "$STORE" "$long" >"$T/out"
snapshot list "$STORE" | grep -qx "$long" || fail 'a long name is cut'
! snapshot list "$STORE" | grep -q ' $' || fail 'lines that end in blanks'
! snapshot list "$STORE" | grep -q NOTES || fail 'a column of nothing'
snapshot list "$STORE" --json | jq -r '.snapshots[].name' |
    xargs "$WEIR" snapshot delete "$STORE"
names_are '[]'
[ -z "$(ls "$STORE/snapshots" "$STORE/vda/points" | grep -v : || :)" ] ||
    fail "left over: $(ls -R "$STORE/snapshots" "$STORE/vda/points")"

# Mounted, with hooks that say when they ran.
mount_store
ran=$T/ran
as_hook() { # WORD COMMAND
    printf '%s' "echo $1 \$WEIR_SNAPSHOT \$WEIR_DISKS >>'$ran'; $2"
}
"$WEIR" set "$STORE" on-freeze="$(as_hook freeze true)" \
    on-thaw="$(as_hook thaw true)"
exits 0 "$WEIR" snapshot create "$MNT" a
[ "$(cat "$T/out")" = a ] || fail "create says $(cat "$T/out")"
await 10 grep -q thaw "$ran"
[ "$(cat "$ran")" = $'freeze a vda vdb\nthaw a vda vdb' ] || fail "$(cat "$ran")"
snapshot list "$STORE" --json |
    jq -e '.snapshots[0] | .frozen and .reason == "user" and
        ([.disks[].name] == ["vda", "vdb"])' >/dev/null || fail 'not as asked'
snapshot list "$STORE" | grep -q '^a .*  frozen$' || fail 'frozen, not said'
exits 2 "$WEIR" snapshot create "$STORE" a
"$WEIR" set "$STORE" on-freeze='echo no agent >&2; exit 1'
exits 0 "$WEIR" snapshot create "$STORE" b --json
jq -e '.frozen == false' "$T/out" >/dev/null || fail "$(cat "$T/out")"
await 10 eval '[ "$(grep -c "thaw b" "$ran")" -eq 1 ]'
[[ $(status .snapshotting.hook_error) == *'no agent'* ]] ||
    fail "hook_error: $(status .snapshotting.hook_error)"
"$WEIR" status "$STORE" | grep -q '^  2 snapshots keep ' || fail 'no line'
exits 0 "$WEIR" snapshot delete "$STORE" a b
names_are '[]'
await 20 eval '[ -z "$(ls "$STORE/snapshots")" ]'

# A freeze that hangs, and the daemon is replaced, or ends: nobody is left
# frozen, and nothing is left over.
: >"$ran"
"$WEIR" set "$STORE" on-freeze="$(as_hook freeze 'tail -f /dev/null')"
begin() { # NAME: until it is being frozen
    { "$WEIR" snapshot create "$STORE" "$1" >"$T/made" 2>&1 || :; } &
    await 20 grep -q "freeze $1" "$ran"
}
begin c
"$WEIR" upgrade "$STORE" >"$T/out"
wait $!
grep -q 'thaw c' "$ran" || fail "not thawed at the upgrade: $(cat "$ran")"
names_are '[]'
begin d
umount_store
wait $!
grep -q 'thaw d' "$ran" || fail "not thawed at the end: $(cat "$ran")"
names_are '[]'
[ -z "$(ls "$STORE/snapshots")" ] || fail "left: $(ls "$STORE/snapshots")"

# By the clock.
"$WEIR" set "$STORE" on-freeze=none on-thaw=none snapshot-every=1s \
    snapshot-keep=2
snapshot create "$STORE" mine >"$T/out"
mount_store
scheduled() { snapshot list "$STORE" --json | jq '[.snapshots[] |
    select(.reason == "schedule")] | length'; }
await 20 eval '[ "$(scheduled)" -ge 1 ]'
snapshot list "$STORE" --json | jq -e '[.snapshots[].name] | index("mine")' \
    >/dev/null || fail 'one of the user is gone'
"$WEIR" set "$STORE" snapshot-every=0
umount_store
"$WEIR" check "$STORE" >"$T/out" || fail "check: $(cat "$T/out")"
say 'named, frozen, thawed, given up and scheduled'
