# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# crashes.sh - what the crash tests share; sourced after functions.sh
#
# A writer (tests/tools/stamp.c) stamps the sectors of a disk and keeps a log
# of what it was promised in $T/NAME.stamps; after a crash verify_stamps holds
# the disk against it. The seed of a test is printed, and WEIR_TEST_SEED sets
# it: the same moments and the same requests, though not the same schedule.
stamp=$(tool stamp)
seed=${WEIR_TEST_SEED:-$((${EPOCHREALTIME/./} % 1000000000))}
RANDOM=$((seed % 32768))
stamp_round=0
taken=0 # sectors with acknowledged, unsynced data that a loss of power took
declare -A writer_pid

# Some milliseconds, below MAX, and most often few of them.
random_wait() { # MAX
    local ms=$((RANDOM % $1))
    ((RANDOM % 3)) || ms=$((ms / 8))
    sleep "$((ms / 1000)).$(printf '%03d' $((ms % 1000)))"
}

start_writer() { # NAME FILE [stamp-write option…]
    local name=$1 file=$2
    stamp_round=$((stamp_round + 1))
    "$stamp" write -s $((seed * 10000 + stamp_round)) "${@:3}" "$file" \
        "$T/$name.stamps" >"$T/$name.writer.log" 2>&1 &
    writer_pid[$name]=$!
    on_exit "kill -9 $!"
    # A mount that dies before the disk was opened says nothing about it.
    await 30 grep -q writing "$T/$name.writer.log"
}

# A writer that goes on after errors, until it has sent that many requests;
# then "expect" asks what became of them.
write_on() { # REQUESTS [stamp-write option…]
    stamp_round=$((stamp_round + 1))
    "$stamp" write -e -s $((seed * 10000 + stamp_round)) -n "$@" \
        "$MNT/vda.raw" "$T/vda.stamps" >"$T/on.log" 2>&1 ||
        fail "the writer: $(tail -n 1 "$T/on.log")"
}

succeeded() { # writes|discards|syncs
    tail -n 1 "$T/on.log" | sed "s/;.*//; s/.* \([0-9]*\) $1.*/\1/"
}

failed() { # writes|discards|syncs
    tail -n 1 "$T/on.log" | sed "s/.*;//; s/.* \([0-9]*\) $1.*/\1/"
}

expect() { # NUMBER OPERATOR NUMBER
    [ "$@" ] || fail "seed $seed: not $*: $(tail -n 1 "$T/on.log")"
}

# The mount is dead: so is the writer, by an error of a request of its.
await_writer() { # NAME
    local status=0
    await 30 is_gone "${writer_pid[$1]}"
    wait "${writer_pid[$1]}" || status=$?
    not_on_exit "kill -9 ${writer_pid[$1]}"
    [ "$status" -eq 3 ] ||
        fail "the writer ended with $status: $(tail -n 1 "$T/$1.writer.log")"
}

verify_stamps() { # NAME FILE [-a] [-A]
    "$stamp" verify "${@:3}" "$2" "$T/$1.stamps" >"$T/$1.verify.log" 2>&1 ||
        fail "seed $seed: $1: $(tail -n 1 "$T/$1.verify.log")"
    taken=$((taken + $(sed -n 's/.* \([0-9]*\) taken.*/\1/p' \
        "$T/$1.verify.log")))
}

# The relay has begun to send: a moment at which a crash is worth while.
await_sending() { # LOG
    becomes_true 5 grep -q Write "$1" || true
}

# Words of a bracket target: FILE, each request logged in FILE.requests, and
# slow enough that some are always under way.
logged_target() { # FILE DELAY
    truncate -s "$disk_bytes" "$1"
    printf '[ nbdkit --filter=log --filter=delay file %s logfile=%s %s ]\n' \
        "$1" "$1.requests" "wdelay=$2"
}

# NBD requests that change something, sent to the server and unanswered, as
# its log has it; of the server that began the log.
writes_in_flight() { # LOG
    [ -e "$1" ] || { echo 0; return; }
    awk '{ id = "" }
        match($0, /connection=[0-9]+/) { id = substr($0, RSTART, RLENGTH) }
        match($0, /(Write|Zero|Trim) id=[0-9]+/) {
            id = id " " substr($0, RSTART, RLENGTH)
            if (/return=/) delete open[id]; else open[id] = 1
        }
        END { n = 0; for (id in open) n++; print n }' "$1"
}

# What the log says was sent, in bytes: what went over the line, and what was
# made zero without.
bytes_sent() { # LOG
    python3 - "$1" <<'END'
import re, sys
sent = {'Write': 0, 'Zero': 0, 'Trim': 0}
for kind, count in re.findall(
        r' (Write|Zero|Trim) id=\d+ offset=0x[0-9a-f]+ count=(0x[0-9a-f]+)',
        open(sys.argv[1], errors='replace').read()):
    sent[kind] += int(count, 16)
print(sent['Write'], sent['Zero'] + sent['Trim'])
END
}

#
# A file system that loses its power: in a loop file, mounted at $FS. btrfs
# has no ioctl for it: its loop file lies on an xfs that can reflink, and a
# clone of the file is what the device held at one instant (the clone waits
# for writes under way and holds off others). All of what btrfs wrote is in
# it, also what no flush covers: a legal state after a loss of power.
#
new_fs() { # TYPE SIZE [mkfs option…]
    fs_type=$1
    FS=$T/fs
    fs_image=$T/fs.img
    if [ "$1" = btrfs ]; then
        mount_loop xfs 1G "$T/outer"
        fs_image=$T/outer/fs.img
    fi
    truncate -s "$2" "$fs_image"
    "mkfs.$1" -q "${@:3}" "$fs_image" >"$T/mkfs.log" 2>&1
    mkdir -p "$FS"
    attach_fs
}

attach_fs() {
    fs_device=$(new_loop "$fs_image")
    on_exit "losetup -d $fs_device"
    on_exit "umount '$FS' || umount -l '$FS'"
    mount -t "$fs_type" "$fs_device" "$FS"
}

detach_fs() {
    # The rings of a killed daemon hold its files for a moment longer.
    await 20 umount "$FS"
    losetup -d "$fs_device"
    not_on_exit "losetup -d $fs_device"
    not_on_exit "umount '$FS' || umount -l '$FS'"
}

# Now, under all that runs; the daemon stops at the instant, so that neither
# the guest nor the far side hears of anything after it, and dies. Then the
# file system is there as the cut left it, its journal replayed.
cut_power() {
    if [ "$fs_type" = btrfs ]; then
        "$(tool power-cut)" --stop "$(daemon_pid)"
        cp --reflink=always "$fs_image" "$fs_image.cut"
    else
        "$(tool power-cut)" "$FS" "$(daemon_pid)"
    fi
    kill_daemon
    detach_fs
    [ "$fs_type" != btrfs ] || mv "$fs_image.cut" "$fs_image"
    attach_fs
}
