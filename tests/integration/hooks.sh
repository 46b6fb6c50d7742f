#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The recipes for on-cut: each keeps the cut under a name that says which, once
# however often it runs, the last few only; here, or at the far side by a
# command like ssh. Copies of files and snapshots of qcow2 are taken of real
# targets of a mounted store and hold exactly what its disk held; zfs and lvm
# are played by commands that keep a list.
. "$(dirname "$0")/functions.sh"
requires root fuse weir jq qemu-nbd qemu-img qemu-storage-daemon python3
new_dir
hooks=$top_dir/contrib/hooks
kept=$T/kept # what the played commands have, one a line
calls=$T/calls
mkdir "$T/bin"

# As ssh: one line for a shell, with none of weir's environment.
cat >"$T/bin/far" <<'EOF'
#!/bin/sh
[ $# -eq 1 ] || exit 255
exec env -u WEIR_CUT -u WEIR_TIME -u WEIR_STORE -u WEIR_DISKS \
    -u WEIR_SNAPSHOT sh -c "$1"
EOF
# Somebody has a clone of what was taken at cut 2.
cat >"$T/bin/zfs" <<EOF
#!/bin/sh
echo "zfs \$*" >>'$calls'
for last; do :; done
case \$* in
*'snapshot -d 1 '*) grep "^\$last@" '$kept' ;;
list*) grep -x "\$last" '$kept' ;;
snapshot*) ! [ -e '$T/refuses' ] || { echo "out of space" >&2; exit 1; }
    echo "\$last" >>'$kept' ;;
destroy*) case \$last in *-2) exit 1 ;; esac
    sed -i "\\,^\$last\$,d" '$kept' ;;
esac
EOF
cat >"$T/bin/lvs" <<EOF
#!/bin/sh
echo "lvs \$*" >>'$calls'
for last; do :; done
case \$* in
--noheadings*) sed -n "s,^\$last/,  ,p" '$kept' ;;
*) grep -x "\$last" '$kept' ;;
esac
EOF
cat >"$T/bin/lvcreate" <<EOF
#!/bin/sh
echo "lvcreate \$*" >>'$calls'
for last; do :; done
while [ "\$1" != -n ]; do shift; done
echo "\${last%%/*}/\$2" >>'$kept'
EOF
cat >"$T/bin/lvremove" <<EOF
#!/bin/sh
echo "lvremove \$*" >>'$calls'
for last; do :; done
sed -i "s,^\$last\$,," '$kept'
EOF
chmod +x "$T"/bin/*
PATH=$T/bin:$PATH

as_cut() { # NUMBER HOOK ARGUMENTS…: as weir runs it
    local name=$2
    WEIR_CUT=$1 WEIR_TIME=2026-11-23T01:02:0$1Z WEIR_STORE=/s \
        WEIR_DISKS='vda vdb' WEIR_KEEP=2 "$hooks/$name" "${@:3}" 2>"$T/err"
}

label() { # NUMBER
    echo "weir-20261123T01020$1Z-$1"
}

has_exactly() { # WHAT…, one a line of $kept
    [ "$(grep . "$kept" | sort)" = "$(printf '%s\n' "$@" | sort)" ] ||
        fail "kept: $(cat "$kept")"
}

test_played() {
    local n
    : >"$kept"
    for n in 1 1 2 3 4 4; do
        as_cut $n zfs-snapshot tank/vm1 tank/vm1-log || fail "zfs, cut $n"
    done
    # 1 went; 2 cannot be deleted, which stops nothing.
    has_exactly {tank/vm1,tank/vm1-log}@"$(label 2)" \
        {tank/vm1,tank/vm1-log}@"$(label 3)" \
        {tank/vm1,tank/vm1-log}@"$(label 4)"
    [ "$(grep -c '^zfs snapshot ' "$calls")" -eq 8 ] ||
        fail 'a snapshot was taken twice'
    # Snapshots of the store are counted by themselves, or not at all.
    for n in 5 6 7; do
        WEIR_SNAPSHOT=my.s-$n as_cut $n zfs-snapshot tank/vm1 || fail 'zfs, named'
    done
    for n in 5 6 7; do
        WEIR_SNAPSHOT=b-1 WEIR_KEEP_SNAPSHOTS=1 as_cut $n zfs-snapshot tank/b ||
            fail 'zfs, named and counted'
    done
    has_exactly {tank/vm1,tank/vm1-log}@"$(label 2)" \
        {tank/vm1,tank/vm1-log}@"$(label 3)" \
        {tank/vm1,tank/vm1-log}@"$(label 4)" \
        tank/vm1@"$(label 5)-my.s-5" tank/vm1@"$(label 6)-my.s-6" \
        tank/vm1@"$(label 7)-my.s-7" tank/b@"$(label 7)-b-1"
    touch "$T/refuses"
    ! as_cut 5 zfs-snapshot tank/vm1 || fail 'zfs: success without a snapshot'
    grep -q 'out of space' "$T/err" || fail 'zfs: it does not say why'
    rm "$T/refuses"

    printf '%s\n' vg/vda vg/vdb "vg/vda-weird-$(label 1)" >"$kept"
    for n in 1 2 3 3; do
        WEIR_FAR="$T/bin/far" LVM_SIZE=1G as_cut $n lvm-snapshot vg/vda ||
            fail "lvm, cut $n"
        WEIR_FAR="$T/bin/far" as_cut $n lvm-snapshot vg/vdb || fail 'lvm, thin'
    done
    has_exactly vg/vda vg/vdb "vg/vda-weird-$(label 1)" \
        vg/{vda,vdb}-"$(label 2)" vg/{vda,vdb}-"$(label 3)"
    grep -qx "lvcreate -q -s -L 1G -n vda-$(label 1) vg/vda" "$calls" ||
        fail "lvcreate: $(cat "$calls")"
    grep -qx "lvcreate -q -s -n vdb-$(label 1) vg/vdb" "$calls" ||
        fail "lvcreate, thin: $(cat "$calls")"
    ! env -u WEIR_CUT "$hooks/zfs-snapshot" tank/vm1 2>"$T/err" ||
        fail 'a run by hand took a snapshot of who knows what'
    say 'zfs and lvm: once for each cut, the last two kept'
}

# A copy that did not live to be whole is no copy; odd names pass the shells.
test_copy_names() {
    local dir="$T/it's a \"dir\" \$HOME"
    mkdir -p "$dir/part.$(label 1)"
    echo old >"$dir/part.$(label 1)/x"
    echo new >"$dir/x"
    WEIR_FAR="$T/bin/far" as_cut 1 reflink-copy "$dir" "$dir/x" || fail 'copy'
    echo newer >"$dir/x"
    WEIR_FAR="$T/bin/far" as_cut 1 reflink-copy "$dir" "$dir/x" || fail 'again'
    [ "$(cat "$dir/$(label 1)/x")" = new ] || fail 'taken twice, or not at all'
    [ "$(ls "$dir/$(label 1)")" = $'cut\nx' ] || fail 'more than the files'
    [ "$(sed -n 's/^disks=//p' "$dir/$(label 1)/cut")" = 'vda vdb' ] ||
        fail 'it does not say what it is'
    ! as_cut 2 reflink-copy "$dir" "$dir/nothing" || fail 'a copy of nothing'
    [ ! -e "$dir/$(label 2)" ] || fail 'half a copy looks whole'
}

serve_qcow2() { # IMAGE
    run_server far qemu-storage-daemon \
        --blockdev "file,node-name=f0,filename=$1,discard=unmap" \
        --blockdev qcow2,node-name=vda,file=f0,discard=unmap \
        --nbd-server "addr.type=unix,addr.path=$T/far.sock" \
        --export nbd,id=vda,node-name=vda,name=vda,writable=on \
        --chardev "socket,id=m,path=$T/far.qmp,server=on,wait=off" \
        --monitor chardev=m
    server_uri[far]="nbd+unix:///vda?socket=$T/far.sock"
    await 10 server_answers far
}

put_back() { # KIND LABEL: what was kept, as the raw image $T/back
    case $1 in
    reflink-copy) cp "$T/cuts/$2/far" "$T/back" ;;
    qcow2-snapshot)
        qemu-img convert -U -f qcow2 -l "snapshot.name=$2" -O raw "$T/far" \
            "$T/back"
        ;;
    esac
}

all_labels() { # KIND
    case $1 in
    reflink-copy) ls "$T/cuts" ;;
    qcow2-snapshot) qemu-img snapshot -lU "$T/far" | awk '{ print $2 }' ;;
    esac
}

labels() { # KIND: all that is kept of cuts, oldest first
    all_labels "$1" | grep -x 'weir-[0-9TZ]*-[0-9]*' | sort -t- -k3n
}

# Five cuts of a real store, and before the last one a snapshot; the last three
# and that can be put back, bit for bit.
test_real() { # KIND HOOK-ARGUMENTS…
    local kind=$1 n cut
    shift
    new_store 16M "$(uri far)"
    "$WEIR" set "$STORE" cut-interval=86400 \
        on-cut="WEIR_FAR='$T/bin/far' WEIR_KEEP=3 '$hooks/$kind' $*"
    mount_store
    for n in 1 2 3 4 5; do
        [ $n -lt 5 ] || "$WEIR" snapshot create "$STORE" named.part >"$T/out"
        dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=2 seek=$((n * 2)) \
            conv=notrunc,fsync status=none
        cp "$MNT/vda.raw" "$T/then.$n"
        drain_store
        status_is .consistent.pinned "$(status .consistent.cut)" ||
            fail "$kind: not kept: $(status .consistent)"
    done
    labels "$kind" >"$T/labels"
    [ "$(wc -l <"$T/labels")" -eq 3 ] || fail "$kind: has $(cat "$T/labels")"
    n=3
    while read -r cut; do
        put_back "$kind" "$cut"
        assert_same "$T/then.$n" "$T/back"
        n=$((n + 1))
    done <"$T/labels"
    cut=$(all_labels "$kind" | grep -- '-named.part$') ||
        fail "$kind: no copy of the snapshot"
    put_back "$kind" "$cut"
    assert_same "$T/then.4" "$T/back"
    cut=$(tail -n 1 "$T/labels")
    [ "${cut##*-}" = "$(status .consistent.cut)" ] || fail "$kind: $cut is last"
    umount_store
    stop_server far
    rm -rf "$STORE" "$T/far"
    say "$kind: what was kept is what the disk was"
}

test_played
test_copy_names
truncate -s 16M "$T/far"
start_qemu_nbd far raw "$T/far"
test_real reflink-copy "$T/cuts" "$T/far"
qemu-img create -q -f qcow2 "$T/far" 16M
serve_qcow2 "$T/far"
test_real qcow2-snapshot "$T/far.qmp" vda
