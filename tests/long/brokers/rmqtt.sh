# A cluster of three RMQTT nodes (Raft), for cluster.sh: installs it, and writes start-node and kill-node.
# It comes from the crate registry, which takes half an hour on two cores; the program is kept for the next
# time. Needs Debian's protobuf-compiler and cmake.
root=$lab/rmqtt
options=(--user gateway --password 'at the brokers' --client-events)
port=18840

[ -x "$root/bin/rmqttd" ] || cargo install rmqttd --version 0.24.0 --locked --root "$root"
rm -rf "$root"/n[123]
for n in 1 2 3; do
    mkdir -p "$root/n$n/plugins"
    cat >"$root/n$n/rmqtt.toml" <<CONF
[node]
id = $n
[rpc]
server_addr = "127.0.0.1:$((5360 + n))"
[log]
to = "console"
level = "warn"
[plugins]
dir = "$root/n$n/plugins"
default_startups = ["rmqtt-cluster-raft", "rmqtt-auth-http", "rmqtt-acl", "rmqtt-retainer", "rmqtt-sys-topic", "rmqtt-shared-subscription"]
disabled_default_startups = ["rmqtt-http-api"]
[listener.tcp.external]
addr = "127.0.0.1:$((port + n))"
allow_anonymous = false
max_clientid_len = 512
CONF
    cat >"$root/n$n/plugins/rmqtt-cluster-raft.toml" <<CONF
node_grpc_addrs = ["1@127.0.0.1:5361", "2@127.0.0.1:5362", "3@127.0.0.1:5363"]
leader_id = 1
raft_peer_addrs = ["1@127.0.0.1:6001", "2@127.0.0.1:6002", "3@127.0.0.1:6003"]
CONF
    cat >"$root/n$n/plugins/rmqtt-auth-http.toml" <<CONF
http_auth_req.url = "http://$front/broker/rmqtt/auth"
http_auth_req.method = "post"
http_auth_req.params = { clientid = "%c", username = "%u", password = "%P" }
http_acl_req.url = "http://$front/broker/rmqtt/acl"
http_acl_req.method = "post"
http_acl_req.params = { access = "%A", username = "%u", clientid = "%c", topic = "%t" }
CONF
    # The gateways' account; whoever the gateways do not let in themselves stays out.
    cat >"$root/n$n/plugins/rmqtt-acl.toml" <<CONF
rules = [["allow", { user = "gateway", password = "at the brokers" }], ["deny", "all"]]
CONF
    touch "$root/n$n/plugins/rmqtt-retainer.toml" "$root/n$n/plugins/rmqtt-sys-topic.toml"
done

# What `impush-lab cluster` kills and starts nodes with.
cat >"$lab/start-node" <<START
#!/bin/bash
# It does not take its Raft port back while connections of its former life linger there: again until it does,
# as a service manager would.
for _ in \$(seq 100); do
    setsid $root/bin/rmqttd -f $root/n\$1/rmqtt.toml --id \$1 >>$root/\$1.out 2>&1 </dev/null &
    while kill -0 \$! 2>/dev/null; do
        (echo >/dev/tcp/127.0.0.1/\$(($port + \$1))) 2>/dev/null && exit 0
        sleep 0.1
    done
    sleep 1
done
exit 1
START
cat >"$lab/kill-node" <<KILL
#!/bin/bash
pkill -9 -f "^$root/bin/rmqttd .*--id \$1\$"
sleep 0.2
KILL
chmod +x "$lab/start-node" "$lab/kill-node"
stop_cluster() { :; }
