# What the scripts that boot a guest have in common; sourced by them, from the top of the source tree.
#
# Gives: $work (gone at the end), $bin, children (killed at the end), a gateway with the user ann that a guest
# behind QEMU's NAT reaches as 10.0.2.2, and waiting for a line on the guest's console.

# shellcheck shell=bash
mirror=${MIRROR:-http://deb.debian.org/debian}
bin=target/debug
[ -x "$bin/impush-gateway" ] || cargo build
work=$(mktemp -d)
console=$work/console
: >"$console"
children=()
finish() {
    kill "${children[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

fail() {
    echo "FAILED: $*" >&2
    tail -n 60 "$console" >&2
    exit 1
}

# until_line COUNT TEXT: the console has shown TEXT so often.
until_line() {
    local n
    for ((n = 0; n < 3000; n++)); do
        [ "$(grep -ac -- "$2" "$console" || true)" -ge "$1" ] && return 0
        grep -aq 'LAB FAILED' "$console" && fail "the guest gave up"
        sleep 0.1
    done
    fail "the guest never said $1 times: $2"
}

# start_gateway DIRECTORY: sets $port and $ca, and what `gateway` talks to.
start_gateway() {
    home=$1
    mkdir -p "$home"
    printf '[api]\nlisten = "127.0.0.1:0"\n[broker]\nlisten = "127.0.0.1:0"\nnames = ["10.0.2.2", "10.0.3.2", "push.example"]\n[paths]\nstate = "%s"\n' "$home/state" >"$home/gateway.toml"
    "$bin/impush-gateway" --config "$home/gateway.toml" serve --announce >"$home/announced" 2>"$home/gateway.log" </dev/null &
    children+=($!)
    for _ in $(seq 100); do [ -s "$home/announced" ] && break; sleep 0.1; done
    api=$(sed -n 's/.*"api":"\([^"]*\)".*/\1/p' "$home/announced")
    port=$(sed -n 's/.*"broker":"[^"]*:\([0-9]*\)".*/\1/p' "$home/announced")
    ca=$home/state/tls/ca.pem
    echo 'a password' >"$home/password"
    gateway user --password-file "$home/password" ann >/dev/null
}

gateway() { "$bin/impush-gateway" --config "$home/gateway.toml" "$1" --api "$api" --app org/app "${@:2}"; }

# agent_config CA: the agent's configuration, where the guest finds the authority at CA.
agent_config() {
    printf '[server]\nurl = "mqtts://10.0.2.2:%s"\napp = "org#app"\nca_file = "%s"\n' "$port" "$1"
}

# machine QEMU...: starts it on the console; $machine is its process.
machine() {
    "$@" >>"$console" 2>&1 </dev/null &
    machine=$!
    children+=("$machine")
}
