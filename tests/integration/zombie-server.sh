#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# kill -9 of the daemon, while a server that it started itself sits on a
# write. That server ends when its parent does, but not before its request:
# the next daemon's server is a new process, and the old one's write still
# comes. Within the quarantine, so it must not be what the target ends with.
. "$(dirname "$0")/functions.sh"
requires root fuse weir nbdkit qemu-img jq
new_dir

truncate -s 16M "$T/far"
# One write waits for $T/release, if $T/hold asks for it.
nap=0.05
cat >"$T/plugin" <<END
#!/usr/bin/env bash
case \$1 in
get_size) echo 16777216 ;;
can_write | can_flush | flush) exit 0 ;;
thread_model) echo parallel ;;
pread) dd if=$T/far iflag=skip_bytes,count_bytes skip=\$4 count=\$3 status=none ;;
pwrite)
    data=\$(mktemp $T/data.XXXX)
    cat >\$data
    if mv $T/hold $T/held; then
        while [ ! -e $T/release ]; do sleep $nap; done
        touch $T/late
    fi
    dd if=\$data of=$T/far oflag=seek_bytes seek=\$4 conv=notrunc status=none
    rm \$data
    ;;
*) exit 2 ;;
esac
END
chmod +x "$T/plugin"

fill() { # CHARACTER
    head -c 65536 /dev/zero | tr '\0' "$1" |
        dd of="$MNT/vda.raw" bs=64k iflag=fullblock conv=notrunc,fsync status=none
}

new_store 16M "[ nbdkit sh $T/plugin ]"
"$WEIR" set "$STORE" request-deadline=1 >>"$T/weir.log"
"$WEIR" set "$STORE/vda" target-accept=overwrite >>"$T/weir.log"
mount_store
drain_store
on_exit "touch '$T/release'"
touch "$T/hold"
fill A
await 10 test -e "$T/held"
kill_daemon
mount_store
fill B
# What a daemon would do that does not wait; 4 s is the quarantine.
becomes_true 2 status_is .dirty_bytes 0 || true
touch "$T/release"
old_is_over() { ! pgrep -f "^bash $T/plugin pwrite" || [ -e "$T/late" ]; }
await 10 old_is_over
drain_store
await 10 eval '! compgen -G "$T/data.*"'
status_is .dirty_bytes 0 || fail 'dirty after the drain'
assert_same "$MNT/vda.raw" "$T/far"
umount_store
say "a write that came $([ -e "$T/late" ] && echo late || echo never) is gone"
