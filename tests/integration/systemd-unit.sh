#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# systemd finds nothing wrong with the unit file.
. "$(dirname "$0")/functions.sh"
requires weir systemd-analyze
new_dir

# The program is not installed here: the unit is judged with the one built.
mkdir "$T/units"
sed "s|/usr/bin/weir|$WEIR|g; s|@bindir@/weir|$WEIR|g" \
    "$top_dir/contrib/systemd/weir@.service" >"$T/units/weir@.service"
ln -s weir@.service "$T/units/weir@vm1.service"
systemd-analyze verify --man=no "$T/units/weir@vm1.service" >"$T/out" 2>&1 ||
    fail "$(cat "$T/out")"
! grep -F weir@ "$T/out" || fail 'systemd-analyze has remarks'
grep -q '^Type=notify' "$T/units/weir@.service" || fail 'not Type=notify'
grep -q '^Before=.*libvirt-guests.service' "$T/units/weir@.service" ||
    fail 'not ordered before libvirt-guests'
grep -q '^FileDescriptorStoreMax=2' "$T/units/weir@.service" &&
    grep -q '^Environment=FDSTORE=2' "$T/units/weir@.service" ||
    fail 'the connection of a mount is not kept'
# A hand-over is followed by the next daemon, with nothing unmounted before.
grep -q '^RestartForceExitStatus=75' "$T/units/weir@.service" &&
    ! grep -q '^SuccessExitStatus' "$T/units/weir@.service" ||
    fail 'an upgrade would be a stop, with its ExecStop'
grep -q '^ExecStop=-' "$T/units/weir@.service" ||
    fail 'what was unmounted by hand would be mounted again'
# Asks the mount point nothing: without a daemon it would not answer.
! grep -E '^ExecStartPre=-?/bin/mkdir' "$T/units/weir@.service" ||
    fail 'the start would hang at a mount that waits for its daemon'
