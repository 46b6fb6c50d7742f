#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What TLS lets through: the right key and the right certificate, nothing
# else. libnbd 1.14 by itself accepts any certificate when it finds no CA, and
# any host on a socket that it was handed; each of these must end in words.
. "$(dirname "$0")/functions.sh"
requires nbdkit certtool psktool
new_dir

once=$(tool connect-once)
expect() { # connected|barred|failed WORDS URI
    local what=$1 words=$2 out
    shift 2
    out=$("$once" "$@") || :
    say "$what: $* -> $out"
    case $out in
    "$what"*) ;;
    *) fail "$*: expected $what, got: $out" ;;
    esac
    [[ $out == *"$words"* ]] || fail "$*: expected \"$words\", got: $out"
}

# A CA of ours and one of somebody else's, each with a server "localhost"; one
# server of our CA with another name.
authority() { # DIR
    mkdir -p "$1"
    certtool --generate-privkey --ecc --outfile "$1/ca-key.pem" 2>/dev/null
    printf 'cn = %s\nca\ncert_signing_key\n' "$(basename "$1")" >"$1/ca.info"
    certtool --generate-self-signed --load-privkey "$1/ca-key.pem" \
        --template "$1/ca.info" --outfile "$1/ca-cert.pem" 2>/dev/null
}
server_certificate() { # CA-DIR DIR NAME
    mkdir -p "$2"
    cp "$1/ca-cert.pem" "$2/"
    certtool --generate-privkey --ecc --outfile "$2/server-key.pem" 2>/dev/null
    printf 'cn = %s\ndns_name = %s\ntls_www_server\nsigning_key\n' "$3" "$3" \
        >"$2/server.info"
    certtool --generate-certificate --load-ca-certificate "$1/ca-cert.pem" \
        --load-ca-privkey "$1/ca-key.pem" --load-privkey "$2/server-key.pem" \
        --template "$2/server.info" --outfile "$2/server-cert.pem" 2>/dev/null
}
authority "$T/ours"
authority "$T/theirs"
server_certificate "$T/ours" "$T/good" localhost
server_certificate "$T/ours" "$T/renamed" other.example
server_certificate "$T/theirs" "$T/foreign" localhost
mkdir "$T/no-ca" "$T/empty-ca" "$T/bad-ca"
: >"$T/empty-ca/ca-cert.pem"
echo nonsense >"$T/bad-ca/ca-cert.pem"
psktool -u alice -p "$T/psk" >/dev/null 2>&1
psktool -u alice -p "$T/wrong" >/dev/null 2>&1
psktool -u bob -p "$T/bob" >/dev/null 2>&1
chmod 600 "$T/psk" "$T/wrong" "$T/bob"

serve() { # NAME ARGS… -> $T/NAME.port
    local port name=$1
    shift
    for port in $(shuf -i 20000-50000 -n 20); do
        nbdkit -i 127.0.0.1 -p "$port" -P "$T/$name.pid" "$@" memory 1M \
            2>>"$T/nbdkit.log" || continue
        await 10 test -s "$T/$name.pid"
        on_exit "end_pid $(cat "$T/$name.pid")"
        echo "$port" >"$T/$name.port"
        return
    done
    fail "no port for $name"
}
at() { # NAME REST
    echo "localhost:$(cat "$T/$1.port")/?$2"
}
serve psk --tls=require --tls-psk="$T/psk"
serve good --tls=require --tls-certificates="$T/good"
serve renamed --tls=require --tls-certificates="$T/renamed"
serve foreign --tls=require --tls-certificates="$T/foreign"
serve clear --tls=off
nbdkit -U "$T/sock" -P "$T/unix.pid" --tls=require --tls-psk="$T/psk" memory 1M
await 10 test -s "$T/unix.pid"
on_exit "end_pid $(cat "$T/unix.pid")"

# Pre-shared keys.
expect connected '1048576' "nbds://alice@$(at psk "tls-psk-file=$T/psk")"
expect failed '' "nbds://alice@$(at psk "tls-psk-file=$T/wrong")"
expect failed '' "nbds://bob@$(at psk "tls-psk-file=$T/bob")"
expect barred 'no key' "nbds://alice@$(at psk "tls-psk-file=$T/bob")"
expect barred 'No such file' "nbds://alice@$(at psk "tls-psk-file=$T/none")"
expect connected '1048576' \
    "nbds+unix://alice@/?socket=$T/sock&tls-psk-file=$T/psk"
expect failed '' "nbds+unix://alice@/?socket=$T/sock&tls-psk-file=$T/wrong"
chmod 644 "$T/wrong"
expect barred 'everybody' "nbds://alice@$(at psk "tls-psk-file=$T/wrong")"

# Certificates.
expect connected '1048576' "nbds://$(at good "tls-certificates=$T/ours")"
expect failed '' "nbds://$(at good "tls-certificates=$T/theirs")"
expect failed '' "nbds://$(at foreign "tls-certificates=$T/ours")"
expect failed '' "nbds://$(at renamed "tls-certificates=$T/ours")"
expect barred 'No such file' "nbds://$(at good "tls-certificates=$T/none")"
expect barred 'No such file' "nbds://$(at good "tls-certificates=$T/no-ca")"
expect barred '' "nbds://$(at good "tls-certificates=$T/empty-ca")"
expect barred 'certificate' "nbds://$(at good "tls-certificates=$T/bad-ca")"
expect barred 'tls-psk-file' \
    "nbds+unix:///?socket=$T/sock&tls-certificates=$T/ours"

# Never a downgrade, in neither direction.
expect failed '' "nbds://alice@$(at clear "tls-psk-file=$T/psk")"
expect failed '' "nbds://$(at clear "tls-certificates=$T/ours")"
expect failed '' "nbd://$(at psk '')"
expect failed '' "nbd+unix:///?socket=$T/sock"
expect connected '1048576' "nbd://$(at clear '')"
expect barred 'needs' "nbds://$(at good '')"

# Clear text leaves this machine only with the user's word.
expect barred 'clear text' 'nbd://192.0.2.1/'
say 'everything else was refused'
