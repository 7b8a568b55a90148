#!/usr/bin/env bash
# Other people's clients as devices of the gateway's own endpoint: each connects, greets, takes a message that waited
# for it, acknowledges it and leaves, over TLS (mqtt.js also through a WebSocket). One row each; exit 1 if one fails.
#
#   tests/long/clients.sh
#
# Needs node and npm, python3 with venv, mosquitto's clients, and the network for npm, PyPI and crates.io at its first
# run. What it fetches stays in CLIENTS (default: target/clients). Takes a minute, the first time some more.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD/tests/long/clients
tools=${CLIENTS:-$PWD/target/clients}
gateway=${GATEWAY:-$PWD/target/debug/impush-gateway}
[ -x "$gateway" ] || cargo build --bin impush-gateway
for program in node npm python3 mosquitto_rr mosquitto_sub mosquitto_pub; do
    command -v "$program" >/dev/null || { echo "needs $program" >&2; exit 77; }
done
mkdir -p "$tools"
[ -d "$tools/node_modules/mqtt" ] || npm install --silent --prefix "$tools" mqtt >/dev/null
[ -x "$tools/py/bin/python" ] || { python3 -m venv "$tools/py" && "$tools/py/bin/pip" -q install aiomqtt paho-mqtt; }
CARGO_TARGET_DIR=$tools/foreign cargo build -q --manifest-path "$here/foreign/Cargo.toml"

home=$(mktemp -d)
trap 'kill "$served" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$home"' EXIT
cat >"$home/gateway.toml" <<END
[api]
listen = "127.0.0.1:0"
[broker]
listen = "127.0.0.1:0"
[paths]
state = "$home/state"
[log]
level = "warn"
END
"$gateway" --config "$home/gateway.toml" serve --announce >"$home/reach" 2>"$home/log" &
served=$!
for _ in $(seq 200); do [ -s "$home/reach" ] && break; sleep 0.1; done
reach() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]] or "")' "$home/reach" "$1"; }
api=$(reach api) ca=$(reach ca_file) address=$(reach broker)
port=${address##*:}
ask() { local command=$1; shift; "$gateway" --config "$home/gateway.toml" "$command" --app org/app --api "$api" "$@"; }
printf 'a good password' >"$home/password"
ask user ann --password-file "$home/password" >/dev/null
token=$(ask token ann --password-file "$home/password")

failed=0
row() { printf '%-26s %-4s %s\n' "$@"; [ "$2" = ok ] || failed=1; }
waits() { # until the trace of message $1 has every one of the other words
    local id=$1 trace
    shift
    for _ in $(seq 100); do
        trace=$(ask trace "$id")
        local all=1 word
        for word in "$@"; do grep -q " $word " <<<"$trace" || all=0; done
        [ "$all" = 1 ] && return 0
        sleep 0.1
    done
    echo "$trace" >&2
    return 1
}
# A program that is a device to its end, and says the text it was sent: name, version, device, command.
device() {
    local name=$1 version=$2 device=$3 id said
    shift 3
    id=$(ask send ann "hello $name")
    if said=$(timeout 40 "$@" 2>"$home/err") && grep -qx "TEXT hello $name" <<<"$said" && waits "$id" acked taken; then
        row "$name" ok "$version: connected, greeted, took a message, acknowledged it"
    else
        row "$name" FAIL "$version: $(tail -n 1 "$home/err") $said"
    fi
    # The next device of the same user does not get it again.
    ask remove-device ann "$device" >/dev/null || true
    token=$(ask token ann --password-file "$home/password")
}

js=$(node -p "require('$tools/node_modules/mqtt/package.json').version")
export NODE_PATH=$tools/node_modules
device "mqtt.js over TLS" "$js" js node "$here/mqttjs_device.js" "mqtts://localhost:$port" "$ca" "$token" js
device "mqtt.js over wss" "$js" jsweb node "$here/mqttjs_device.js" "wss://localhost:$port/mqtt" "$ca" "$token" jsweb
version() { "$tools/py/bin/python" -c 'import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))' "$1"; }
device aiomqtt "$(version aiomqtt)" aio "$tools/py/bin/python" "$here/aiomqtt_device.py" "$port" "$ca" "$token" aio
locked() { sed -n "/^name = \"$1\"/{n;s/version = \"\(.*\)\"/\1/p}" "$here/foreign/Cargo.lock"; }
foreign=$tools/foreign/debug
device "rumqttc's client" "$(locked rumqttc)" rumqttc "$foreign/rumqttc_device" "$port" "$ca" "$token" rumqttc
device mqtt-protocol-core "$(locked mqtt-protocol-core)" core "$foreign/core_device" "$port" "$ca" "$token" core

# paho's client of the protocol's page leaves at "goodbye".
paho() {
    local id
    id=$(ask send ann goodbye)
    if timeout 40 "$tools/py/bin/python" tests/fixtures/paho_device.py "$port" "$ca" "$token" "$2" >"$home/said" 2>&1 \
        && grep -qx LEFT "$home/said" && waits "$id" acked taken; then
        row "paho over $1" ok "$(version paho-mqtt): connected, greeted, took a message, acknowledged it"
    else
        row "paho over $1" FAIL "$(tail -n 1 "$home/said")"
    fi
    ask remove-device ann board >/dev/null || true
    token=$(ask token ann --password-file "$home/password")
}
paho TLS tcp
paho wss websockets

# mosquitto's three programs do one thing each: rr greets and takes, pub acknowledges, sub hears its login's end.
mosquitto() { # program, device, topic's leg, more
    local program=$1 device=$2
    shift 2
    timeout 40 "$program" -V mqttv5 -h localhost -p "$port" --cafile "$ca" -q 1 -i "ann:$device@org%23app" \
        -u org%23app/ann -P "$token" "$@"
}
topics=im/v1/org%23app/ann/mosquitto
version=$({ mosquitto_pub --version 2>&1 || true; } | grep -o "[0-9][0-9.]*" | head -n 1)
id=$(ask send ann "hello mosquitto")
hello='{"v":1,"type":"hello","nonce":"0123456789abcdef","agent":"mosquitto","channel":"none","platform":"linux","login":"m"}'
if said=$(mosquitto mosquitto_rr mosquitto -t "$topics/up" -e "$topics/down" -m "$hello" 2>"$home/err") \
    && grep -q "$id" <<<"$said"; then
    row mosquitto_rr ok "$version: connected, greeted, took a message"
else
    row mosquitto_rr FAIL "$version: $(tail -n 1 "$home/err") $said"
fi
if mosquitto mosquitto_pub mosquitto -t "$topics/up" -m "{\"v\":1,\"type\":\"ack\",\"ids\":[\"$id\"],\"attached\":true}" \
    2>"$home/err" && waits "$id" acked; then
    row mosquitto_pub ok "$version: connected, acknowledged a message"
else
    row mosquitto_pub FAIL "$version: $(tail -n 1 "$home/err")"
fi
mosquitto mosquitto_sub mosquitto -d -t "$topics/down" >"$home/said" 2>&1 &
heard=$!
for _ in $(seq 100); do grep -q SUBACK "$home/said" && break; sleep 0.1; done
ask kick ann --device mosquitto >/dev/null
wait "$heard" || true
if grep -q '"type":"kick"' "$home/said" && grep -q 'Received DISCONNECT (135)' "$home/said"; then
    row mosquitto_sub ok "$version: connected, subscribed, took the end of its login, was told 0x87"
else
    row mosquitto_sub FAIL "$version: $(tail -n 2 "$home/said" | tr '\n' ' ')"
fi
if grep -q 'level=ERROR\|ERROR' "$home/log"; then
    row "the gateway's log" FAIL "$(grep -m 1 ERROR "$home/log")"
fi
exit "$failed"
