#!/usr/bin/env python3
"""Gateways behind HAProxy, restarted in turns while apps send and devices come.

    tests/long/balancer.py [--rounds 3] [--drain-s -1] [--inter-ms 2000]

Two gateways with devices of their own on one PostgreSQL, and HAProxy before both: REST over HTTP, devices over TCP, and
`GET /readyz` for both, as docs/scale.md has it, but without a second try anywhere (`retries 0`). Four clients send through it without
a pause over connections that are kept, another makes one TLS connection after the other, and each gateway in turn is asked to stop
(SIGTERM), started again once it has ended, and left until HAProxy sends there again.

Held: every call is answered 200 and every TLS connection comes about. Prints one line of JSON, and fails where that does not hold;
`--drain-s 0` shows what it is without.

Needs root, Debian's postgresql and haproxy, and target/debug/impush-gateway, or the file named in GATEWAY_PROGRAM.
"""

import argparse
import glob
import http.client
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
GATEWAY = os.environ.get("GATEWAY_PROGRAM", str(ROOT / "target/debug/impush-gateway"))


def free_ports(count):
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def until(what, is_so, seconds=60):
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            sys.exit(f"never: {what}")
        time.sleep(0.05)


class Database:
    def __init__(self, home):
        self.port = free_ports(1)[0]
        binaries = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
        self.as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self.data = home / "postgres"
        subprocess.run(["install", "-d", "-o", "postgres", self.data], check=True)
        self.control = [*self.as_user, f"{binaries}/pg_ctl", "-D", self.data]
        subprocess.run(
            [*self.as_user, f"{binaries}/initdb", "-D", self.data, "-A", "trust", "-U", "impush"],
            check=True, stdout=subprocess.DEVNULL,
        )
        options = f"-p {self.port} -h 127.0.0.1 -k ''"
        subprocess.run([*self.control, "-o", options, "-l", self.data / "log", "-w", "start"], check=True, stdout=subprocess.DEVNULL)
        self.url = f"postgres://impush@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def stop(self):
        subprocess.run([*self.control, "-m", "immediate", "stop"], stdout=subprocess.DEVNULL)


class Gateway:
    def __init__(self, home, name, database, drain_s):
        self.home = home / name
        self.home.mkdir()
        self.rest, self.devices = free_ports(2)
        (home / "secrets.key").write_text("5a" * 32)
        self.config = self.home / "gateway.toml"
        self.config.write_text(
            f"[api]\nlisten = '127.0.0.1:{self.rest}'\ndrain_s = {drain_s}\n"
            f"[broker]\nlisten = '127.0.0.1:{self.devices}'\nproxy_from = ['127.0.0.0/8']\n"
            f"[store]\nurl = '{database.url}'\nnode = '{name}'\n"
            f"[paths]\nstate = '{self.home}/state'\nsecrets_key = '{home}/secrets.key'\n"
        )
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [GATEWAY, "--config", self.config, "serve", "--announce"],
            stdout=subprocess.PIPE, stderr=open(self.home / "log", "ab"),
        )
        self.reach = json.loads(self.process.stdout.readline())

    def stop(self):
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(timeout=60) != 0:
            sys.exit("a gateway did not end well")
        return time.monotonic() - began


def haproxy(home, gateways, inter_ms):
    rest, devices, statistics = free_ports(3)
    check = f"check inter {inter_ms}ms"
    lines = ["global", f"    stats socket {home}/haproxy.sock", "defaults", "    timeout connect 5s", "    timeout client 20m",
             "    timeout server 20m", "    retries 0", "listen devices", "    mode tcp", f"    bind 127.0.0.1:{devices}",
             "    option httpchk GET /readyz"]
    lines += [f"    server g{n} 127.0.0.1:{g.devices} send-proxy-v2 {check} port {g.rest}" for n, g in enumerate(gateways)]
    lines += ["listen api", "    mode http", f"    bind 127.0.0.1:{rest}", "    option httpchk GET /readyz"]
    lines += [f"    server g{n} 127.0.0.1:{g.rest} {check}" for n, g in enumerate(gateways)]
    file = home / "haproxy.cfg"
    file.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen(["haproxy", "-f", file, "-db"], stderr=open(home / "haproxy.log", "ab"))
    until("HAProxy runs", lambda: (home / "haproxy.sock").exists())
    return process, rest, devices


def servers_up(home):
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(f"{home}/haproxy.sock")
        control.sendall(b"show stat\n")
        said = b"".join(iter(lambda: control.recv(65536), b"")).decode()
    rows = [line.split(",") for line in said.splitlines()]
    return sum(1 for row in rows if len(row) > 17 and row[1].startswith("g") and row[17].startswith("UP"))


class Load:
    def __init__(self, rest, devices, token):
        self.rest, self.devices, self.token = rest, devices, token
        self.over = threading.Event()
        self.answers, self.connections, self.failed = {}, 0, []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.send) for _ in range(4)] + [threading.Thread(target=self.come)]

    def send(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.rest, timeout=20)
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        body = json.dumps({"to": ["ann"], "body": {"type": "txt", "msg": "hello"}})
        while not self.over.is_set():
            try:
                connection.request("POST", "/org/app/messages/users", body, headers)
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                status = type(error).__name__
            with self.lock:
                self.answers[status] = self.answers.get(status, 0) + 1
            time.sleep(0.01)

    def come(self):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        while not self.over.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.devices), timeout=10) as raw, context.wrap_socket(raw):
                    self.connections += 1
            except OSError as error:
                self.failed.append(repr(error))
            time.sleep(0.03)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--drain-s", type=int, default=-1)
    options.add_argument("--inter-ms", type=int, default=2000)
    asked = options.parse_args()
    home = pathlib.Path(tempfile.mkdtemp())
    home.chmod(0o755)
    database = Database(home)
    gateways, balancer = [], None
    try:
        gateways = [Gateway(home, name, database, asked.drain_s) for name in ("a", "b")]
        password = home / "password"
        password.write_text("a password")
        user = [GATEWAY, "--config", gateways[0].config, "user", "--app", "org/app", "--password-file", password, "--", "ann"]
        subprocess.run(user, check=True, stdout=subprocess.DEVNULL)
        secret = pathlib.Path(gateways[0].reach["admin_secret_file"]).read_text()
        balancer, rest, devices = haproxy(home, gateways, asked.inter_ms)
        until("HAProxy sends to both", lambda: servers_up(home) == 4)
        connection = http.client.HTTPConnection("127.0.0.1", rest, timeout=20)
        grant = {"grant_type": "client_credentials", "client_id": "admin", "client_secret": secret}
        connection.request("POST", "/org/app/token", json.dumps(grant), {"content-type": "application/json"})
        load = Load(rest, devices, json.load(connection.getresponse())["access_token"])
        connection.close()
        # Both were asked twice by now.
        time.sleep(3 * asked.inter_ms / 1000)
        for thread in load.threads:
            thread.start()
        longest = 0.0
        for _ in range(asked.rounds):
            for gateway in gateways:
                longest = max(longest, gateway.stop())
                gateway.start()
                until("HAProxy sends there again", lambda: servers_up(home) == 4)
        load.over.set()
        for thread in load.threads:
            thread.join()
        print(json.dumps({
            "stops": asked.rounds * len(gateways), "calls": sum(load.answers.values()), "answers": load.answers,
            "tls_connections": load.connections, "tls_failed": len(load.failed), "longest_stop_s": round(longest, 1),
        }))
        if set(load.answers) != {200} or load.failed:
            sys.exit(1)
    finally:
        for process in [g.process for g in gateways] + ([balancer] if balancer else []):
            process.kill()
            process.wait()
        database.stop()
        subprocess.run(["rm", "-rf", home])


main()
