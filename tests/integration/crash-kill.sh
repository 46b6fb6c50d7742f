#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# kill -9 of the daemon at random moments, under fio on one disk and stamped
# writers on another, with a drain of both running. What was acknowledged is
# there after each kill, what was in flight does not arrive later, and a drain
# now and then ends with targets that are the disks.
#
# At the moment of the kill daemon, server and writer are stopped first and
# looked at: at least half of the kills have to meet a guest's write and an
# NBD write in flight.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq fio python3
. "$tests_dir/integration/crashes.sh"
new_dir

kills=${WEIR_TEST_KILLS:-40}
is_long && kills=${WEIR_TEST_KILLS:-10000}
drain_every=10
disk_bytes=$((192 << 20))
both=0 guest=0 nbd=0

new_store $disk_bytes "$(logged_target "$T/far-a" 300ms)"
"$WEIR" create "$STORE/vdb" --size 16M --target "$T/far-b" >>"$T/weir.log"
"$WEIR" set "$STORE" request-deadline=1 >>"$T/weir.log"

start_fio() {
    fio --name=load --filename="$MNT/vdb.raw" --rw=randwrite --direct=1 \
        --bsrange=4k-64k --size=16M --ioengine=libaio --iodepth=8 --thread \
        --fsync=32 --time_based --runtime=600 --rate=8M \
        --randseed=$((seed + round)) >"$T/fio.log" 2>&1 &
    load=$!
    on_exit "kill -9 $load"
}

end_fio() {
    wait "$load" || true
    not_on_exit "kill -9 $load"
}

# The server of the stamped disk: a child of the daemon whose words name it.
server_of() { # DAEMON
    local pid
    for pid in $(pgrep -P "$1"); do
        ! grep -qsF "$T/far-a" "/proc/$pid/cmdline" || echo "$pid"
    done
}

is_sending() {
    [ "$(writes_in_flight "$T/far-a.requests")" -gt 0 ]
}

look_and_kill() {
    local daemon server writer=${writer_pid[vda]} has_guest=0 has_nbd=0
    daemon=$(daemon_pid)
    server=$(server_of "$daemon")
    # One call each, within microseconds. A server that is not there yet has
    # nothing in flight.
    kill -STOP "$daemon" $server "$writer"
    read -r writes _ < <("$stamp" inflight "$T/vda.stamps")
    [ "$writes" -eq 0 ] || has_guest=1
    [ -z "$server" ] || ! is_sending || has_nbd=1
    guest=$((guest + has_guest))
    nbd=$((nbd + has_nbd))
    both=$((both + has_guest * has_nbd))
    kill_daemon
    rm -f "$T/far-a.requests"
    # A server whose parent dies while it is stopped is woken by that.
    kill -CONT $server "$writer" 2>/dev/null || true
}

began=$SECONDS
mount_store
for ((round = 1; round <= kills; round++)); do
    start_writer vda "$MNT/vda.raw" -t 8 -b 512-262144 -p 4
    start_fio
    # A third at any moment, also before the relay has found its target; the
    # others while it sends, which it does only now and then in a recovery.
    if ((round % 3 == 0)); then
        random_wait 400
    else
        await_sending "$T/far-a.requests"
        random_wait 40
        becomes_true 5 is_sending || true
    fi
    look_and_kill
    end_fio
    await_writer vda
    mount_store
    verify_stamps vda "$MNT/vda.raw" -a -A
    if ((round % drain_every == 0 || round == kills)); then
        drain_store
        status_is .dirty_bytes 0 || fail "dirty after the drain"
        assert_same "$MNT/vda.raw" "$T/far-a"
        assert_same "$MNT/vdb.raw" "$T/far-b"
    fi
done
umount_store
say "seed $seed: $kills kills in $((SECONDS - began)) s, in flight: a guest" \
    "write in $guest, an NBD write in $nbd, both in $both; 0 lost, targets" \
    'identical'
((both * 2 >= kills)) || fail "only $both of $kills kills met both in flight"
