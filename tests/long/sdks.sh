#!/usr/bin/env bash
# Other people's server SDKs against the emulated vendor clouds: each sends one that is shown, one to a dead token and
# one with a wrong credential, and must read the answers rightly. One line a case; exit 1 if one failed.
#
#   tests/long/sdks.sh
#
# Needs node and npm, python3 with venv, curl, openssl, and the network for npm and PyPI at its first run. What it
# fetches stays in SDKS (default: a temporary folder that is removed). An SDK that cannot be fetched is skipped aloud.
# Takes ten seconds, after the downloads.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD/tests/long/sdks
lab=${LAB:-$PWD/target/debug/impush-lab}
[ -x "$lab" ] || cargo build --bin impush-lab
for program in node npm python3 curl openssl; do
    command -v "$program" >/dev/null || { echo "needs $program" >&2; exit 77; }
done
home=$(mktemp -d)
served=
trap '[ -z "$served" ] || kill "$served" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$home"' EXIT
tools=${SDKS:-$home/tools}
mkdir -p "$tools"
[ -x "$tools/py/bin/python" ] || python3 -m venv "$tools/py"

free=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$lab" clouds --listen "127.0.0.1:$free" --ca-file "$home/ca.pem" >"$home/log" 2>&1 &
served=$!
export CLOUD_PORT=$free CLOUD_CA=$home/ca.pem NODE_PATH=$tools/node_modules
cloud() { curl -fsS --cacert "$home/ca.pem" -H 'content-type: application/json' "https://localhost:$free/_lab/$1" "${@:2}"; }
up=0
for _ in $(seq 100); do cloud 'counts?vendor=apns' >/dev/null 2>&1 && { up=1; break; }; sleep 0.1; done
[ "$up" = 1 ] || { echo "the clouds did not come up" >&2; cat "$home/log" >&2; exit 1; }

passed=0 failed=0 skipped=0
row() { printf '%-16s %-34s %-7s %s\n' "$@"; }
judge() { # name, case, what was expected, what came
    if [ "$3" = "$4" ]; then
        row "$1" "$2" ok "$4"
        passed=$((passed + 1))
    else
        row "$1" "$2" FAILED "got '$4' for '$3'"
        failed=$((failed + 1))
    fi
}
# Each program says a line a case: what was expected and what the SDK said, `case<TAB>expected<TAB>got`.
sdk() { # name, cases it must say, command
    local name=$1 cases=$2 said=0 what expected got
    shift 2
    timeout 60 "$@" >"$home/said" 2>"$home/err" || echo "ended with $?" >>"$home/err"
    while IFS=$'\t' read -r what expected got; do
        said=$((said + 1))
        judge "$name" "$what" "$expected" "$got"
    done < <(grep $'\t' "$home/said" || true)
    if [ "$said" != "$cases" ]; then
        row "$name" "said $said of $cases cases" FAILED "$(tail -n 1 "$home/err")"
        failed=$((failed + 1))
    fi
}
skip() { row "$1" "not fetched" skipped "$2"; skipped=$((skipped + 1)); }
from_npm() { [ -d "$tools/node_modules/$1" ] || npm install --silent --prefix "$tools" "$1" >/dev/null 2>&1; }
from_pypi() { "$tools/py/bin/pip" -q install "$1" >/dev/null 2>&1; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
install() { cloud installs -d "{\"vendor\":\"$1\",\"id\":\"$2\",\"device\":\"$3\"}" | field token; }
# An app's tokens: one that lives in TOKEN, one that is dead in DEAD.
tokens() {
    TOKEN=$(install "$1" "$2" phone)
    DEAD=$(install "$1" "$2" gone)
    cloud tokens -d "{\"vendor\":\"$1\",\"token\":\"$DEAD\",\"state\":\"dead\"}" >/dev/null
    export TOKEN DEAD
}
new_app() { # vendor, id, file of the secret, keys
    python3 -c 'import json, sys; v, i, s, k = sys.argv[1:]; print(json.dumps(
        {"vendor": v, "id": i, "secret": open(s).read(), "package": "com.acme.demo", "daily_quota": 10000,
         "keys": json.loads(k)}))' "$@" >"$home/app.json"
    cloud apps -d @"$home/app.json" >/dev/null
}

# What the SDKs took for sent was shown on the phone: a title of each.
shown() {
    local titles
    titles=$(cloud "tray?vendor=$1&token=$TOKEN" | { grep -o '"title":"hello from [a-z-]*"' || true; } | sort -u | wc -l)
    judge "the $1 phone" "shows what was sent" "$sdks titles" "$titles titles"
}

ec_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }
ec_key "$home/apns.p8"
ec_key "$home/other.p8"
new_app apns com.acme.demo "$home/apns.p8" '{"key_id":"ABC123DEFG","team_id":"DEF123GHIJ"}'
tokens apns com.acme.demo
export APNS_KEY=$home/apns.p8 WRONG_KEY=$home/other.p8
sdks=0
if from_npm @parse/node-apn; then sdks=$((sdks + 1)); sdk node-apn 6 node "$here/node_apn.js"; else skip node-apn "npm failed"; fi
if from_pypi aioapns; then sdks=$((sdks + 1)); sdk aioapns 6 "$tools/py/bin/python" "$here/aioapns_send.py"; else skip aioapns "pip failed"; fi
shown apns

openssl genpkey -algorithm RSA -out "$home/fcm.pem" 2>/dev/null
openssl genpkey -algorithm RSA -out "$home/other.pem" 2>/dev/null
keys='{"client_email":"push@acme-demo.iam.gserviceaccount.com","private_key_id":"0a1b2c3d"}'
new_app fcm acme-demo "$home/fcm.pem" "$keys"
tokens fcm acme-demo
export RSA_KEY=$home/fcm.pem WRONG_KEY=$home/other.pem
sdks=0
if from_npm firebase-admin; then
    sdks=1
    sdk firebase-admin 4 node "$here/firebase_admin.js"
else
    skip firebase-admin "npm failed"
fi
shown fcm

echo "$passed ok, $failed FAILED, $skipped skipped"
[ "$failed" = 0 ]
