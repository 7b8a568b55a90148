#!/usr/bin/env bash
# Gateways with devices of their own on one PostgreSQL, without a broker, and their connections, killed under load:
# `impush-lab cluster` on real parts.
#
#   tests/long/nodes.sh [kills]
#
# Needs root and Debian's postgresql. Takes a few minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
kills=${1:-300}
bin=${BIN:-target/release/impush-lab}
[ -x "$bin" ] || cargo build --release
[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 77; }

data=$(mktemp -d)
chmod 711 "$data"
sudo_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
pg=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
finish() {
    sudo_postgres "$pg/pg_ctl" -D "$data/pg" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$data"
}
trap finish EXIT
install -d -o postgres -g postgres "$data/pg" "$data/run"
sudo_postgres "$pg/initdb" -D "$data/pg" -A trust >/dev/null
sudo_postgres "$pg/pg_ctl" -D "$data/pg" -o "-c listen_addresses=127.0.0.1 -p 54339 -k $data/run -c max_connections=50" -l "$data/pg/log" -w start >/dev/null

"$bin" cluster --store postgres://postgres@127.0.0.1:54339/postgres --front 127.0.0.1:18690 --kills "$kills" "${@:2}"
