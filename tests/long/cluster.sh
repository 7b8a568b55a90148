#!/usr/bin/env bash
# Gateways, and nodes of a RabbitMQ cluster, killed under load: `impush-lab cluster` on real parts.
#
#   tests/long/cluster.sh [kills]
#
# Needs root, Debian's debootstrap and postgresql; RabbitMQ 4 comes from trixie into a folder of its own
# (LAB, by default /opt/impush-lab). Takes a few minutes; the folder is kept for the next time.
set -euo pipefail
cd "$(dirname "$0")/../.."
kills=${1:-200}
lab=${LAB:-/opt/impush-lab}
root=$lab/trixie
front=127.0.0.1:18680
mirror=${MIRROR:-http://deb.debian.org/debian}
bin=${BIN:-target/release/impush-lab}
[ -x "$bin" ] || cargo build --release
[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 77; }

if [ ! -x "$root/usr/sbin/rabbitmq-server" ]; then
    mkdir -p "$lab"
    debootstrap --variant=minbase trixie "$root" "$mirror"
    # No service may start while packages are installed.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
    cp /etc/resolv.conf "$root/etc/"
    chroot "$root" apt-get update -qq
    chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rabbitmq-server
fi
for place in proc sys dev; do
    mountpoint -q "$root/$place" || { mount --rbind "/$place" "$root/$place"; mount --make-rslave "$root/$place"; }
done

mkdir -p "$root/cluster"
cat >"$root/cluster/node" <<'NODE'
#!/bin/bash
# node NUMBER: runs one node of the cluster.
n=$1 dir=/cluster/n$1
mkdir -p "$dir"
echo $$ >"$dir/session"
export HOME=/cluster RABBITMQ_NODENAME=r$n@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1
export RABBITMQ_NODE_PORT=$((5670 + n)) RABBITMQ_DIST_PORT=$((25670 + n)) ERL_EPMD_ADDRESS=127.0.0.1
export RABBITMQ_MNESIA_BASE=$dir RABBITMQ_LOG_BASE=$dir RABBITMQ_PID_FILE=$dir/pid
export RABBITMQ_ENABLED_PLUGINS_FILE=$dir/plugins RABBITMQ_CONFIG_FILE=$dir/rabbitmq.conf
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
echo '[rabbitmq_mqtt,rabbitmq_auth_backend_http].' >"$dir/plugins"
cat >"$dir/rabbitmq.conf" <<CONF
mqtt.listeners.tcp.1 = 127.0.0.1:$((18830 + n))
mqtt.allow_anonymous = false
mqtt.durable_queue_type = quorum
auth_backends.1 = internal
auth_backends.2 = http
auth_http.http_method = post
auth_http.user_path = http://FRONT/broker/rabbitmq/user
auth_http.vhost_path = http://FRONT/broker/rabbitmq/vhost
auth_http.resource_path = http://FRONT/broker/rabbitmq/resource
auth_http.topic_path = http://FRONT/broker/rabbitmq/topic
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = r1@localhost
cluster_formation.classic_config.nodes.2 = r2@localhost
cluster_formation.classic_config.nodes.3 = r3@localhost
CONF
exec /usr/lib/rabbitmq/bin/rabbitmq-server
NODE
sed -i "s/FRONT/$front/" "$root/cluster/node"
chmod +x "$root/cluster/node"
rm -rf "$root"/cluster/n[123]
head -c 20 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$root/cluster/.erlang.cookie"
chmod 600 "$root/cluster/.erlang.cookie"

# What `impush-lab cluster` kills and starts nodes with.
cat >"$lab/start-node" <<START
#!/bin/bash
setsid chroot $root /cluster/node \$1 >$root/cluster/\$1.out 2>&1 </dev/null &
for _ in \$(seq 600); do
    (echo >/dev/tcp/127.0.0.1/\$((18830 + \$1))) 2>/dev/null && exit 0
    sleep 0.1
done
exit 1
START
cat >"$lab/kill-node" <<KILL
#!/bin/bash
pkill -9 -s "\$(cat $root/cluster/n\$1/session)"
sleep 0.2
KILL
chmod +x "$lab/start-node" "$lab/kill-node"

data=$(mktemp -d)
chmod 711 "$data"
finish() {
    for n in 1 2 3; do "$lab/kill-node" "$n" || true; done
    pkill -x epmd || true
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
for one in "${starting[@]}"; do wait "$one" || { tail -n 5 "$root"/cluster/*.out >&2; exit 1; }; done

"$bin" cluster --store postgres://postgres@127.0.0.1:54329/postgres --unshared --front "$front" --kills "$kills" \
    --brokers mqtt://127.0.0.1:18831,mqtt://127.0.0.1:18832,mqtt://127.0.0.1:18833 \
    --kill-node "$lab/kill-node \$1" --start-node "$lab/start-node \$1" "${@:2}"
