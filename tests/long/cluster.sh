#!/usr/bin/env bash
# Gateways, and nodes of a clustered broker, killed under load: `impush-lab cluster` on real parts.
#
#   [BROKER=rabbitmq|rmqtt] tests/long/cluster.sh [kills]
#
# Needs root and Debian's postgresql; what the broker needs is in brokers/. It is installed into a folder of
# its own (LAB, by default /opt/impush-lab), which is kept for the next time. Takes a few minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
kills=${1:-200}
lab=${LAB:-/opt/impush-lab}
broker=${BROKER:-rabbitmq}
front=127.0.0.1:18680
bin=${BIN:-target/release/impush-lab}
[ -x "$bin" ] || cargo build --release
[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 77; }
mkdir -p "$lab"
. "tests/long/brokers/$broker.sh"

data=$(mktemp -d)
chmod 711 "$data"
finish() {
    for n in 1 2 3; do "$lab/kill-node" "$n" || true; done
    stop_cluster
    sudo_postgres "$pg/pg_ctl" -D "$data/pg" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$data"
}
trap finish EXIT
sudo_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
pg=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
install -d -o postgres -g postgres "$data/pg" "$data/run"
sudo_postgres "$pg/initdb" -D "$data/pg" -A trust >/dev/null
sudo_postgres "$pg/pg_ctl" -D "$data/pg" -o "-c listen_addresses=127.0.0.1 -p 54329 -k $data/run -c max_connections=50" -l "$data/pg/log" -w start >/dev/null
# Together: a first node looks for the others before it opens its port.
starting=()
for n in 1 2 3; do
    "$lab/start-node" "$n" &
    starting+=($!)
done
for one in "${starting[@]}"; do wait "$one" || { tail -n 5 "$root"/*.out "$root"/cluster/*.out >&2 || true; exit 1; }; done

"$bin" cluster --store postgres://postgres@127.0.0.1:54329/postgres "${options[@]}" --front "$front" --kills "$kills" \
    --brokers "mqtt://127.0.0.1:$((port + 1)),mqtt://127.0.0.1:$((port + 2)),mqtt://127.0.0.1:$((port + 3))" \
    --kill-node "$lab/kill-node \$1" --start-node "$lab/start-node \$1" "${@:2}"
