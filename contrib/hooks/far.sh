# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# far.sh - what the recipes for on-cut share; sourced by each
#
# A recipe runs on the host of weir, when the targets hold a whole cut, and
# keeps what is behind them at the far side. weir gives it WEIR_CUT, WEIR_TIME,
# WEIR_STORE, WEIR_DISKS and, if the cut is a snapshot of the store, its name in
# WEIR_SNAPSHOT, and sends nothing until it has succeeded. Settings are given in
# front of it:
#   WEIR_FAR    how to run something at the far side: 'ssh -o BatchMode=yes
#               weir@backup'; without it, it is done here
#   WEIR_KEEP   how many to keep, 1 or more; default: 8
#   WEIR_KEEP_SNAPSHOTS  how many of those that are snapshots of the store, which
#               are counted by themselves; default: all
#
# What is kept is named weir-TIME-CUT, the time without its punctuation, and if
# it is a snapshot weir-TIME-CUT-NAME: so its name alone says of what instant it
# is, and a second store, whose cuts begin at 1 again, makes no name that is there
# already. One that is there is this cut's (weir runs the hook again when it died
# in the middle of it) and is left alone.
#
# An old one that cannot be deleted, since somebody is restoring from it, is no
# failure: weir would send nothing until it is gone.
set -euo pipefail

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

[ -n "${WEIR_CUT:-}" ] && [ -n "${WEIR_TIME:-}" ] ||
    die 'WEIR_CUT and WEIR_TIME are not set; it is weir that runs this (on-cut)'
keep=${WEIR_KEEP:-8}
label=weir-${WEIR_TIME//[-:]/}-$WEIR_CUT
if [ -n "${WEIR_SNAPSHOT:-}" ]; then
    keep=${WEIR_KEEP_SNAPSHOTS:-all}
    label+=-$WEIR_SNAPSHOT
fi
[[ $keep =~ ^[1-9][0-9]*$ || $keep = all && -n ${WEIR_SNAPSHOT:-} ]] ||
    die "how many to keep is '$keep'; give a number"

# Runs the script on stdin by the far side's sh, with the label, how many to
# keep, and ARGUMENTS as its $1, $2 and the rest.
far_run() { # ARGUMENTS…
    local word words='' quote="'\\''"
    set -- "$label" "$keep" "$@"
    if [ -z "${WEIR_FAR:-}" ]; then
        far_script | sh -s -- "$@"
        return
    fi
    for word; do # one line for the shell at the other end
        words+=" '${word//\'/$quote}'"
    done
    # shellcheck disable=SC2086 # a command and its options
    far_script | $WEIR_FAR "sh -s --$words"
}

# The script, after what all of them need.
far_script() {
    cat <<'SCRIPT'
set -eu
label=$1 keep=$2
shift 2
# Of the labels on stdin those of its kind that are too many, itself never.
too_many() {
    [ "$keep" != all ] || return 0
    kind='weir-[0-9]*T[0-9]*Z-[0-9]*'
    case $label in *Z-*-*) kind=$kind-.* ;; esac
    grep -x "$kind" | grep -vxF "$label" | sort |
        awk -v keep="$keep" '{ name[NR] = $0 }
            END { for (i = 1; i <= NR - keep + 1; i++) print name[i] }'
}
SCRIPT
    cat
}
