#!/usr/bin/env bash
# Other people's server SDKs against the emulated vendor clouds: each sends one that is shown, one to a dead token, a
# batch of both if it has such, and one with a wrong credential, and must read the answers rightly. One line a case;
# exit 1 if one failed.
#
#   tests/long/sdks.sh
#
# Needs node and npm, python3 with venv, curl, openssl, and the network for npm and PyPI at its first run. What it
# fetches stays in SDKS (default: a temporary folder that is removed). An SDK that cannot be fetched is skipped aloud.
# Takes ten seconds, after the downloads. The SDKs' versions are fixed; what they need in turn is not.
#
# Not here: PyPI apns2 0.7.2 (does not import from Python 3.10 on), xmpush-python (its version is one pip refuses),
# pyhcm 1.0.4 (sends to topics only), npm push-huawei 0.1.7 (speaks pushsend.do, from before Push Kit's v1), npm
# push-oppo, meizu-push and hms-push-nodejs (npm no longer has them); for vivo and Honor none was found.
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
export NO_PROXY=localhost${NO_PROXY:+,$NO_PROXY} no_proxy=localhost${no_proxy:+,$no_proxy}
cloud() { curl -fsS --cacert "$home/ca.pem" -H 'content-type: application/json' "https://localhost:$free/_lab/$1" "${@:2}"; }
up=0
for _ in $(seq 100); do cloud 'counts?vendor=apns' >/dev/null 2>&1 && { up=1; break; }; sleep 0.1; done
[ "$up" = 1 ] || { echo "the clouds did not come up" >&2; cat "$home/log" >&2; exit 1; }

passed=0 failed=0 skipped=0
row() { printf '%-24s %-34s %-7s %s\n' "$@"; }
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
from_npm() { # name, version
    local have
    have=$(node -p 'require(process.argv[1]).version' "$tools/node_modules/$1/package.json" 2>/dev/null || true)
    [ "$have" = "$2" ] || timeout 120 npm install --silent --save-exact --prefix "$tools" "$1@$2" >/dev/null 2>&1
}
from_pypi() { timeout 120 "$tools/py/bin/pip" -q install "$@" >/dev/null 2>&1; } # name==version...
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

# Runs an SDK, whose titles (one, or one more for its batch) are to be on the phone then.
with_npm() { # package, version, titles, cases, file
    local name=${1##*/}
    from_npm "$1" "$2" || { skip "$name" "npm failed"; return; }
    titles=$((titles + $3))
    # Not for npm: this takes the place of the authorities that the machine's user may have added for it.
    sdk "$name" "$4" env NODE_EXTRA_CA_CERTS="$CLOUD_CA" node "$here/$5"
}
with_pypi() { # titles, cases, file, name==version...
    local name=${4%%==*}
    from_pypi "${@:4}" || { skip "$name" "pip failed"; return; }
    titles=$((titles + $1))
    sdk "$name" "$2" "$tools/py/bin/python" "$here/$3"
}

# What the SDKs took for sent was shown on the phone: a title of each.
shown() {
    local seen
    seen=$(cloud "tray?vendor=$1" --get --data-urlencode "token=$TOKEN" \
        | { grep -o '"title":"hello from [a-z0-9-]*"' || true; } | sort -u)
    judge "the $1 phone" "shows what was sent" "$titles titles, 0 unsent" \
        "$(grep -vc 'unsent"' <<<"$seen" || true) titles, $(grep -c 'unsent"' <<<"$seen" || true) unsent"
}

ec_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }
ec_key "$home/apns.p8"
ec_key "$home/other.p8"
new_app apns com.acme.demo "$home/apns.p8" '{"key_id":"ABC123DEFG","team_id":"DEF123GHIJ"}'
tokens apns com.acme.demo
export APNS_KEY=$home/apns.p8 WRONG_KEY=$home/other.p8
titles=0
with_npm @parse/node-apn 8.1.0 2 7 node_apn.js
with_pypi 1 6 aioapns_send.py aioapns==4.0
with_npm apns2 12.2.0 2 7 apns2.js
with_pypi 2 7 apns2_send.py apns2-up==0.9.0
shown apns

openssl genpkey -algorithm RSA -out "$home/fcm.pem" 2>/dev/null
openssl genpkey -algorithm RSA -out "$home/other.pem" 2>/dev/null
keys='{"client_email":"push@acme-demo.iam.gserviceaccount.com","private_key_id":"0a1b2c3d"}'
new_app fcm acme-demo "$home/fcm.pem" "$keys"
tokens fcm acme-demo
export RSA_KEY=$home/fcm.pem WRONG_KEY=$home/other.pem
titles=0
with_npm firebase-admin 13.10.0 3 8 firebase_admin.js
shown fcm

printf 'bWFkZSB1cCBmb3IgdGhpcw==' >"$home/secret"
export SECRET_FILE=$home/secret
new_app xiaomi 2882303761517000001 "$home/secret" '{}'
tokens xiaomi 2882303761517000001
titles=0
with_npm xiaomi-push 1.0.0 2 6 xiaomi_push.js
with_npm push-xiaomi 0.1.6 2 5 push_xiaomi.js
shown xiaomi

new_app huawei 104412345 "$home/secret" '{}'
tokens huawei 104412345
titles=0
# It needs six, and does not say so.
with_pypi 3 8 huawei_admin.py python-huawei-push-admin==1.0.0 six==1.17.0
shown huawei

echo "$passed ok, $failed FAILED, $skipped skipped"
[ "$failed" = 0 ]
