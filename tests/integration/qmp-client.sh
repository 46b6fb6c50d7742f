#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Clients that nobody here wrote: QEMU's own qemu.qmp, and its qmp-shell, list the
# commands, run a backup and a mirror, and hear of both by events.
#
# qemu.qmp is used where Python finds it (pip install qemu.qmp). No package of
# Debian 12 has it, but the source of QEMU has: then that is taken from there,
# which needs apt-get and a mirror. Which one it was is printed.
. "$(dirname "$0")/functions.sh"
requires root fuse weir jq python3
new_dir
control=$STORE/control.sock

#
# The client
#
apt_sources() { # apt-get with the sources of what is installed
    apt-get -o Dir::Etc::sourcelist=/dev/null -o Dir::State::lists="$T/lists" \
        -o Dir::Etc::sourceparts="$T/sources" \
        -o Dir::Cache::srcpkgcache= -o Dir::Cache::pkgcache= \
        -o APT::Sandbox::User=root "$@" >>"$T/apt.log" 2>&1
}

fetch_qemu_qmp() { # into $T/python
    mkdir -p "$T/sources" "$T/lists/partial" "$T/python"
    cat /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources \
        2>/dev/null | sed -n 's/^Types:.*/Types: deb-src/; /^#/d; /^deb /d; p' \
        >"$T/sources/all.sources"
    cat /etc/apt/sources.list 2>/dev/null | sed -n 's/^deb /deb-src /p' \
        >"$T/sources/all.list"
    apt_sources update || return 1
    (cd "$T" && apt_sources source --download-only qemu) || return 1
    tar -C "$T/python" --strip-components=2 --wildcards -xf "$T"/qemu_*.orig.tar.* \
        '*/python/qemu/qmp'
}

find_qemu_qmp() {
    if python3 -c 'import qemu.qmp' 2>/dev/null; then
        version=$(python3 -c 'from importlib.metadata import version
print(version("qemu.qmp"))' 2>/dev/null || echo 'of no known version')
        say "qemu.qmp $version, which Python has"
        return
    fi
    command -v apt-get >/dev/null || skip 'qemu.qmp (pip install qemu.qmp)'
    fetch_qemu_qmp ||
        skip "qemu.qmp: pip install qemu.qmp, or a mirror for apt-get source qemu"
    export PYTHONPATH=$T/python
    python3 -c 'import qemu.qmp' || fail 'the source of QEMU has no qemu.qmp'
    say "qemu.qmp of $(basename "$T"/qemu_*.dsc .dsc), Debian's source of QEMU"
}

find_qemu_qmp
"$WEIR" create "$STORE/vda" --size 64M >>"$T/weir.log" 2>&1
mount_store
dd if=/dev/urandom of="$MNT/vda.raw" bs=1M count=20 conv=notrunc,fsync \
    status=none
truncate -s 64M "$T/backup" "$T/mirror"
timeout 300 "$tests_dir/tools/qmp-client" "$control" vda "$T/backup" \
    "$T/mirror" >"$T/client.log" 2>&1 || fail "$(tail -n 3 "$T/client.log")"
wanted() { # LINE
    grep -qxF "$1" "$T/client.log" || fail "no \"$1\": $(cat "$T/client.log")"
}
grep -q '^package: weir' "$T/client.log" || fail "$(cat "$T/client.log")"
wanted "refused: DeviceNotFound: Cannot find device='none' nor node-name='none'"
wanted 'backup: created running waiting pending BLOCK_JOB_COMPLETED concluded null'
wanted 'mirror: created running ready BLOCK_JOB_READY waiting pending BLOCK_JOB_COMPLETED concluded null'
for copy in backup mirror; do
    cmp "$MNT/vda.raw" "$T/$copy" || fail "the $copy is not the disk"
done

# The shell asks for the commands by itself, to complete their names.
printf '%s\n' 'block-dirty-bitmap-add node=vda name=by-hand granularity=4096' \
    'query-named-block-nodes' |
    timeout 60 python3 -m qemu.qmp.qmp_shell -p "$control" >"$T/shell.log" 2>&1 ||
    fail "qmp-shell: $(tail -n 3 "$T/shell.log")"
grep -q 'Connected to QEMU' "$T/shell.log" || fail "$(cat "$T/shell.log")"
grep -q '"name": "by-hand"' "$T/shell.log" || fail "$(cat "$T/shell.log")"
umount_store
