# A cluster of three RabbitMQ 4 nodes, for cluster.sh: installs it, and writes start-node and kill-node.
# It comes from trixie into a folder of its own, which is kept for the next time. It has no shared
# subscriptions.
root=$lab/trixie
mirror=${MIRROR:-http://deb.debian.org/debian}
options=(--unshared)
port=18830

# Without any authority its HTTP client asks nothing, not even without TLS.
if [ ! -x "$root/usr/sbin/rabbitmq-server" ] || [ ! -e "$root/etc/ssl/certs/ca-certificates.crt" ]; then
    [ -x "$root/usr/bin/apt-get" ] || debootstrap --variant=minbase trixie "$root" "$mirror"
    # No service may start while packages are installed.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
    cp /etc/resolv.conf "$root/etc/"
    chroot "$root" apt-get update -qq
    chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rabbitmq-server ca-certificates
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
stop_cluster() { pkill -x epmd || true; }
