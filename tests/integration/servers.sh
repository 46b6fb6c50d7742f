# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# servers.sh - NBD servers of the tests, each under a name
#
# A server listens on $T/NAME.sock (nbd-server, which has TCP only, on a free
# port of the loopback) and logs to $T/NAME.log. What it was started with is
# kept, so that restart_server starts the same one again.

declare -A server_pid server_uri server_kind
declare -A server_args # NUL-free words, joined by \x1f

uri() { # NAME
    printf '%s\n' "${server_uri[$1]}"
}

# Start the command in the background as NAME's server.
run_server() { # NAME COMMAND…
    local name=$1
    shift
    "$@" >>"$T/$name.log" 2>&1 </dev/null &
    server_pid[$name]=$!
    on_exit "end_pid $!"
}

# Ready means that it answers a handshake, not only that its socket is there.
server_answers() { # NAME
    kill -0 "${server_pid[$1]}" &&
        timeout 2 nbdinfo --size "${server_uri[$1]}"
}

remember() { # NAME KIND ARGS…
    local IFS=$'\x1f'
    server_kind[$1]=$2
    server_args[$1]="${*:3}"
}

# The bug of nbdkit's that keep-nbdkit is about loses what is in memory: those
# that kill weir, or cut its connections, take another plugin.
start_nbdkit() { # NAME [filter and plugin arguments…]
    local name=$1
    shift
    remember "$name" nbdkit "$@"
    rm -f "$T/$name.sock"
    server_uri[$name]="nbd+unix:///?socket=$T/$name.sock"
    : >>"$T/$name.log"
    run_server "$name" "$tests_dir/tools/keep-nbdkit" "$T/$name.log" \
        -f -U "$T/$name.sock" "$@"
    await 10 server_answers "$name"
}

start_qemu_nbd() { # NAME FORMAT IMAGE [qemu-nbd option…]
    local name=$1
    remember "$name" qemu_nbd "${@:2}"
    rm -f "$T/$name.sock"
    server_uri[$name]="nbd+unix:///?socket=$T/$name.sock"
    run_server "$name" qemu-nbd -t -e 8 -k "$T/$name.sock" --discard=unmap \
        --detect-zeroes=unmap --cache=writeback -f "$2" "${@:4}" "$3"
    await 10 server_answers "$name"
}

free_port() {
    python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start_nbd_server() { # NAME IMAGE
    local name=$1 port
    remember "$name" nbd_server "${@:2}"
    port=$(free_port)
    printf '[generic]\nlistenaddr = 127.0.0.1\nport = %s\n' "$port" \
        >"$T/$name.conf"
    printf '[disk]\nexportname = %s\nflush = true\nfua = true\ntrim = true\n' \
        "$2" >>"$T/$name.conf"
    server_uri[$name]="nbd://127.0.0.1:$port/disk"
    # It has no way to stay in the foreground and serve more than once.
    rm -f "$T/$name.pid"
    nbd-server -C "$T/$name.conf" -p "$T/$name.pid" >>"$T/$name.log" 2>&1
    await 10 test -s "$T/$name.pid"
    server_pid[$name]=$(cat "$T/$name.pid")
    on_exit "end_pid ${server_pid[$name]}"
    await 10 server_answers "$name"
}

stop_server() { # NAME
    end_pid "${server_pid[$1]}"
}

kill_server() { # NAME: as a crash would
    kill_pid "${server_pid[$1]}"
}

restart_server() { # NAME: the same again, at the same address
    local IFS=$'\x1f' args
    read -r -d '' -a args < <(printf '%s\x1f\0' "${server_args[$1]}") || true
    unset IFS
    "start_${server_kind[$1]}" "$1" "${args[@]}"
}

# Between weir and a server: drops connections, refuses, hangs on command.
start_proxy() { # NAME SERVER
    local name=$1
    remember "$name" proxy "${@:2}"
    rm -f "$T/$name.sock"
    server_uri[$name]="nbd+unix:///?socket=$T/$name.sock"
    run_server "$name" "$tests_dir/tools/nbd-proxy" "$T/$name.sock" \
        "$T/$2.sock" "$T/$name.control"
    await 10 server_answers "$name"
}

proxy() { # NAME drop|refuse|hang|pass
    python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(sys.argv[2].encode()); s.shutdown(socket.SHUT_WR)
assert s.recv(16) == b"done"' "$T/$1.control" "$2"
}

# nbdkit's pause filter: with p no request is let through until r.
nbdkit_pause() { # CONTROL-SOCKET p|r
    python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(sys.argv[2].encode())
answer = s.recv(1); assert answer.lower() == sys.argv[2].encode(), answer' \
        "$1" "$2"
}

# Byte for byte the same, and as large.
assert_same() { # IMAGE URI-OR-IMAGE
    qemu-img compare -q -f raw -F raw "$1" "$2" >"$T/compare" 2>&1 ||
        fail "$2 is not $1: $(qemu-img compare -f raw -F raw "$1" "$2" 2>&1 |
            tail -n 1)"
}

# How many WRITE, ZERO and TRIM requests nbdkit's log filter has seen.
logged_writes() { # LOG
    grep -cE ' (Write|Zero|Trim) .*\.\.\.$' "$1" || true
}
