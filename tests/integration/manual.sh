#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The manuals name what there is: each command as its --help does, each option,
# each command of the control socket, each field of the status, each metric and
# each file of a store; and no metric that is not there.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq python3
new_dir

plain() { # FILE: without roff's marks
    sed 's/\\f[A-Z]//g; s/\\-/-/g' "$top_dir/contrib/man/$1"
}
plain weir.1 >"$T/weir.1"
plain weir-layout.7 >"$T/weir-layout.7"
metrics_doc=$top_dir/contrib/docs/status.md

section() { # FILE NAME
    sed -n "/^\.SH $2\$/,/^\.SH /{ /^\.SH/d; p }" "$T/$1"
}
named_in() { # WHERE WORD…: each is a word of the text on stdin
    local text word
    text=$(cat)
    for word in "${@:2}"; do
        grep -qw -e "$word" <<<"$text" || fail "$1 does not name $word"
    done
}

commands=()
for command in $("$WEIR" --commands); do
    [ "$command" != help ] || continue
    mapfile -t words < <("$WEIR" "$command" --commands 2>/dev/null || :)
    [ ${#words[@]} -gt 0 ] || words=('')
    for word in "${words[@]}"; do commands+=("$command${word:+ $word}"); done
done
for command in "${commands[@]}"; do
    read -ra words <<<"$command"
    usage=$("$WEIR" "${words[@]}" --help |
        sed -n '1,/^$/{ s/^Usage: //; /./p }')
    [[ $(section weir.1 SYNOPSIS) == *"$usage"$'\n'* ]] ||
        fail "weir.1's synopsis has no '$usage'"
    grep -q "^| .*\`weir $command " "$top_dir/README.md" ||
        fail "README.md has no row for $command"
    for option in $("$WEIR" "${words[@]}" --long-options); do
        case $option in
        --help | --foreground | --options) ;; # there as -f and -o
        *) named_in "weir.1's synopsis of $command" "$option" <<<"$usage" ;;
        esac
    done
done

start_nbdkit far memory 64M
start_nbdkit copy memory 16M
new_store 16M "$(uri far)"
"$WEIR" set "$STORE" on-cut=true
mount_store
drain_store
"$WEIR" snapshot create "$STORE" a >/dev/null
"$WEIR" bitmap add "$STORE/vda" b
"$WEIR" backup "$STORE/vda" --to "$(uri copy)" --sync none >/dev/null
await 10 test -e "$STORE/vda/jobs/1/sent-log"
"$tests_dir/tools/qmp" "$STORE/control.sock" query-commands |
    jq -r '.[].name' >"$T/commands"
mapfile -t words <"$T/commands"
section weir-layout.7 'CONTROL SOCKET' | named_in weir-layout.7 "${words[@]}"

status '[.. | objects | keys[]] | unique[]' >"$T/fields"
mapfile -t words <"$T/fields"
[ ${#words[@]} -gt 50 ] || fail "only ${#words[@]} fields: ${words[*]}"
section weir-layout.7 STATUS.JSON | named_in weir-layout.7 "${words[@]}"

mapfile -t words < <(cd "$STORE" && printf 'STORE/%s\n' ./* vda/* |
    sed 's:/\./:/:; /^STORE\/vda$/d' &&
    ls vda/bitmaps vda/jobs/* | sed '/:$/d; /^$/d; s/^[0-9]*\./ID./')
section weir-layout.7 'THE STORE' | named_in weir-layout.7 "${words[@]}"

"$WEIR" metrics "$STORE" | sed -n 's/^# TYPE \([a-z_]*\) .*/\1/p' |
    sort -u >"$T/metrics"
grep -o '`weir_[a-z_]*`' "$metrics_doc" | tr -d '`' | sort -u >"$T/documented"
diff "$T/metrics" "$T/documented" >"$T/out" ||
    fail "metrics and status.md differ: $(cat "$T/out")"
umount_store
say "${#words[@]} files, $(wc -l <"$T/fields") fields," \
    "$(wc -l <"$T/metrics") metrics, $(wc -l <"$T/commands") control commands"
