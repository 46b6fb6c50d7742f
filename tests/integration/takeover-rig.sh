# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# takeover-rig.sh - a guest at work while its daemon comes and goes
#
# Sourced after functions.sh by the tests of taking over. fio writes and
# verifies the first half of the disk with io_uring and O_DIRECT, again and
# again; the pinger writes and reads the last block and notes every pause.

begin_load() { # SIZE of the disk, in MiB
    ping_at=$((($1 << 20) - 4096))
    "$(tool pinger)" "$MNT/vda.raw" $ping_at >"$T/pings" &
    pinger=$!
    on_exit "kill $pinger"
    rm -f "$T/load-ends"
    run_fio "$(($1 / 2))" &
    load=$!
    # Not waited for: it may hang until the mount is taken away.
    on_exit "touch '$T/load-ends'"
    await 20 test -s "$T/fio.log"
}

# One run after the other, until it is to end; each verifies what it wrote.
run_fio() { # MIB
    trap - EXIT ERR
    while [ ! -e "$T/load-ends" ]; do
        fio --name=load --filename="$MNT/vda.raw" --rw=randwrite \
            --bsrange=4k-64k --size="$1M" --direct=1 --ioengine=io_uring \
            --iodepth=16 --fsync=64 --io_size=48M --verify=crc32c \
            --verify_fatal=1 --verify_backlog=256 --randrepeat=0 \
            --verify_state_save=0 --continue_on_error=none >>"$T/fio.log" 2>&1 || return 1
        echo one >>"$T/fio-runs"
    done
}

end_load() {
    touch "$T/load-ends"
    wait "$load" || fail "the guest has seen an error: $(grep -i err \
        "$T/fio.log" | head -n 2)"
    kill "$pinger"
    wait "$pinger" || fail "the guest has seen an error: $(tail -n 1 \
        "$T/pings")"
    [ -s "$T/fio-runs" ] || fail 'fio has verified nothing'
}

load_goes_on() {
    is_running "$load" && is_running "$pinger" ||
        fail "the guest has seen an error: $(tail -n 1 "$T/pings") $(grep -i \
            err "$T/fio.log" | head -n 2)"
}

is_running() { # PID
    ! is_gone "$1"
}

# The longest time that a request took which ended after FROM, in us.
longest_since() { # FROM, as ${EPOCHREALTIME/./}
    awk -v from="$1" '$1 >= from && $2 + 0 > max { max = $2 + 0 }
        END { print max + 0 }' "$T/pings"
}

# The answer that was late has come.
has_noticed() { # FROM
    [ "$(longest_since "$1")" -gt 0 ]
}

restarts_are() { # NUMBER
    status_is .restarts "$1"
}

say_pauses() { # WORDS: of $T/pauses, in us, one a line
    sort -n "$T/pauses" | awk -v words="$1" -v name="$test_name" '{ p[NR] = $1 }
        END { printf "%s: %s: pause of the guest: median %.0f ms, max %.0f ms\n",
            name, words, p[int((NR + 1) / 2)] / 1000, p[NR] / 1000 }'
}
