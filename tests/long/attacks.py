#!/usr/bin/env python3
"""What a second client notices while others attack the gateway's own endpoint, or its REST API.

    tests/long/attacks.py [SECONDS]

A gateway of its own on one core; on the others the attackers, and a client that pings and is sent messages. For each
attack: the p50 and p99 of a ping's and of a message's round trip (REST's 200 to the packet on the device's
connection), what the gateway counted, and whether p99 of the ping is within max(3 times without an attack, 20 ms).
Exit 1 if one is not, or the gateway has logged an error. SECONDS (default 5) is how long each attack lasts.

Needs target/release/impush-gateway (or GATEWAY), taskset, and 2 cores.
"""

import asyncio
import http.client
import json
import os
import pathlib
import random
import resource
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
GATEWAY = os.environ.get("GATEWAY", str(ROOT / "target/release/impush-gateway"))
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else 5.0


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(2, "big") + data


def packet(kind, body):
    length, head = len(body), bytearray([kind])
    while True:
        length, low = divmod(length, 128)
        head.append(low | (128 if length else 0))
        if not length:
            return bytes(head) + body


def connect(client, user, token, keep=60):
    return packet(0x10, text("MQTT") + bytes([5, 0xC2]) + keep.to_bytes(2, "big") + b"\0" + text(client) + text(user) + text(token))


def publish(topic, payload, qos=0, number=1):
    return packet(0x30 | qos << 1, text(topic) + (number.to_bytes(2, "big") if qos else b"") + b"\0" + payload)


def subscribe(topic):
    return packet(0x82, b"\0\1\0" + text(topic) + b"\1")


def topic(leg, user="eve", device="d"):
    return f"im/v1/org%23app/{user}/{device}/{leg}"


class Target:
    def __init__(self, port, api, ca, tokens):
        self.port, self.api, self.tokens = port, api, tokens
        self.tls = ssl.create_default_context(cafile=ca)

    async def tcp(self):
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def rest(self):
        return await asyncio.open_connection(*self.api.rsplit(":", 1))

    async def open(self):
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, server_hostname="localhost")

    async def enter(self, user="eve", device="d", keep=60):
        reader, writer = await self.open()
        writer.write(connect(f"{user}:{device}@org%23app", f"org%23app/{user}", self.tokens[user], keep))
        await read(reader)
        return reader, writer


async def read(reader):
    kind = (await reader.readexactly(1))[0]
    length, shift = 0, 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return kind, await reader.readexactly(length)


async def again(until, act, at_once=20):
    """The same deed over and over, so many at a time; its failure is what the gateway is to bring about."""

    async def one():
        while time.monotonic() < until:
            try:
                await asyncio.wait_for(act(), 3)
            except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ssl.SSLError):
                await asyncio.sleep(0)

    await asyncio.gather(*(one() for _ in range(at_once)))


async def held(until, opener, count):
    kept = []
    for _ in range(count):
        try:
            kept.append(await asyncio.wait_for(opener(), 3))
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
    await asyncio.sleep(max(0.0, until - time.monotonic()))
    for _, writer in kept:
        writer.close()


def said(target, data):
    """A connection that says this and hears the answer to its end."""

    async def act():
        reader, writer = await target.open()
        writer.write(data() if callable(data) else data)
        await reader.read(100)
        writer.close()

    return act


def flood(target, data, entered=True):
    """A connection that says this for as long as it is read."""

    async def act():
        reader, writer = await (target.enter() if entered else target.open())
        for _ in range(2000):
            writer.write(data)
            await writer.drain()
        writer.close()

    return act


GOOD = None


def mutated():
    data = bytearray(GOOD + subscribe(topic("down")) + publish(topic("up"), b'{"v":1,"type":"presence"}', 1))
    for _ in range(random.randint(1, 4)):
        data[random.randrange(len(data))] = random.randrange(256)
    return bytes(data)


def attacks(target):
    hour = connect("eve:d@org%23app", "org%23app/eve", target.tokens["eve"])
    numbers = iter(range(10**9))

    async def slow_head():
        reader, writer = await target.open()
        for byte in hour[:-1]:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    kept = []

    async def device_ids():
        # Held, so that they add up.
        kept.append(await target.enter(device=f"made-up-{next(numbers)}"))

    async def takeover():
        await target.enter()

    async def half():
        reader, writer = await target.open()
        writer.write(hour[: len(hour) // 2])
        return reader, writer

    head = b"POST /org/app/messages/users HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"

    def asked(data):
        async def act():
            reader, writer = await target.rest()
            writer.write(data)
            return reader, writer

        return act

    will = packet(0x10, text("MQTT") + bytes([5, 0xC6]) + b"\0\x3c\0" + text("eve:d@org%23app") + b"\0" + text(topic("state", "ann", "phone")) + text(b"{}") + text("org%23app/eve") + text(target.tokens["eve"]))
    big = json.dumps({"v": 1, "type": "ack", "ids": ["0199f0c2a1b3d4e5f607"] * 2600}).encode()
    return {
        "silent TCP, 500": lambda until: held(until, target.tcp, 500),
        "silent TLS, 200": lambda until: held(until, target.open, 200),
        "half CONNECTs, 200": lambda until: held(until, half, 200),
        "slow heads": lambda until: again(until, slow_head, 100),
        "200 MB lengths": lambda until: again(until, said(target, b"\x30\x80\x84\xaf\x5f")),
        "mutated streams": lambda until: again(until, said(target, mutated)),
        "other topics and $": lambda until: again(until, said(target, hour + subscribe("$SYS/#") + publish("$SYS/x", b"x") + publish(topic("up", "ann", "phone"), b"{}", 1))),
        "wills elsewhere": lambda until: again(until, said(target, will)),
        "QoS 2": lambda until: again(until, said(target, hour + publish(topic("up"), b"{}", 2))),
        "QoS 0 flood": lambda until: again(until, flood(target, publish(topic("up"), b'{"v":1,"type":"presence","presence":"attached"}')), 4),
        "acks of 64 KiB": lambda until: again(until, flood(target, publish(topic("up"), big)), 4),
        "device ids without end": lambda until: again(until, device_ids),
        "takeover ping-pong": lambda until: again(until, takeover, 10),
        "connection flood, TCP": lambda until: again(until, closed(target.tcp), 50),
        "connection flood, TLS": lambda until: again(until, closed(target.open), 50),
        # More than there are places.
        "REST: half heads, 6,000": lambda until: held(until, asked(head), 6000),
        "REST: no bodies, 1,000": lambda until: held(until, asked(head + b"authorization: Bearer " + target.tokens["eve"].encode() + b"\r\ncontent-length: 100\r\n\r\n{"), 1000),
        "REST: connection flood": lambda until: again(until, closed(target.rest), 50),
    }


def closed(opener):
    async def act():
        _, writer = await opener()
        writer.close()

    return act


async def attack(port, api, ca, tokens, name, seconds):
    global GOOD
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 20000), most))
    target = Target(port, api, ca, tokens)
    GOOD = connect("eve:d@org%23app", "org%23app/eve", tokens["eve"])
    await attacks(target)[name](time.monotonic() + seconds)


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(len(values) * q))] * 1000 if values else float("nan")


class Client:
    """The one who shall notice nothing: a connection of its own, and REST to send to it."""

    def __init__(self, target, api, admin):
        self.target, self.api, self.admin = target, api, admin
        self.pongs, self.messages = asyncio.Queue(), asyncio.Queue()

    async def start(self):
        self.reader, self.writer = await self.target.enter("ann", "phone", 3600)
        self.writer.write(subscribe(topic("down", "ann", "phone")))
        nonce = "0123456789abcdef"
        self.writer.write(publish(topic("state", "ann", "phone"), json.dumps({"v": 1, "online": True, "nonce": nonce}).encode(), 1, 1))
        hello = {"v": 1, "type": "hello", "nonce": nonce, "agent": "probe", "channel": "none", "platform": "linux", "login": "p"}
        self.writer.write(publish(topic("up", "ann", "phone"), json.dumps(hello).encode(), 1, 2))
        self.task = asyncio.create_task(self.hear())

    async def hear(self):
        number = 2
        while True:
            kind, body = await read(self.reader)
            if kind == 0xD0:
                self.pongs.put_nowait(time.monotonic())
            elif kind & 0xF0 == 0x30:
                length = int.from_bytes(body[:2], "big")
                pkid, payload = body[2 + length : 4 + length], json.loads(body[5 + length :])
                self.writer.write(packet(0x40, pkid))
                if payload["type"] == "message":
                    self.messages.put_nowait((payload["id"], time.monotonic()))
                    number = number % 60000 + 1
                    word = {"v": 1, "type": "ack", "ids": [payload["id"]], "attached": True}
                    self.writer.write(publish(topic("up", "ann", "phone"), json.dumps(word).encode(), 1, number))

    def send(self):
        body = json.dumps({"to": ["ann"], "body": {"type": "txt", "msg": "m"}})
        head = {"content-type": "application/json", "authorization": "Bearer " + self.admin}
        # A new one each time, so that it needs a place beside the attackers'.
        rest = http.client.HTTPConnection(self.api, timeout=30)
        rest.request("POST", "/org/app/messages/users", body, head)
        rest.getresponse().read()
        rest.close()

    async def measure(self, seconds):
        pings, messages, until = [], [], time.monotonic() + seconds
        turn = 0
        while time.monotonic() < until:
            began = time.monotonic()
            self.writer.write(b"\xc0\0")
            pings.append(await asyncio.wait_for(self.pongs.get(), 30) - began)
            turn += 1
            if turn % 10 == 0:
                began = time.monotonic()
                await asyncio.to_thread(self.send)
                messages.append((await asyncio.wait_for(self.messages.get(), 30))[1] - began)
            await asyncio.sleep(0.005)
        return pings, messages


def rest(api, method, path, body=None, token=None):
    request = urllib.request.Request(f"http://{api}{path}", method=method, data=json.dumps(body).encode() if body else None)
    request.add_header("content-type", "application/json")
    if token:
        request.add_header("authorization", "Bearer " + token)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def refused(api):
    kinds = ('impush_gateway_input_refused_total{from="connection"', "impush_gateway_connects_refused_total{")
    lines = [line for line in rest(api, "GET", "/metrics").splitlines() if line.startswith(kinds)]
    return {line.split('="')[-1].split('"')[0]: int(float(line.rsplit(" ", 1)[1])) for line in lines}


async def main():
    cores = sorted(os.sched_getaffinity(0))
    home = pathlib.Path(tempfile.mkdtemp())
    (home / "gateway.toml").write_text(
        '[api]\nlisten = "127.0.0.1:0"\nrequests_per_s = 100000\n[broker]\nlisten = "127.0.0.1:0"\n'
        f'[paths]\nstate = "{home}/state"\n[log]\nlevel = "warn"\n'
    )
    log = open(home / "log", "w")
    gateway = subprocess.Popen(
        # What else runs on this machine takes nothing from either of the two.
        [*(["nice", "-n", "-10"] if os.geteuid() == 0 else []), "taskset", "-c", str(cores[0]), GATEWAY, "--config", str(home / "gateway.toml"), "serve", "--announce"],
        stdout=subprocess.PIPE, stderr=log, text=True,
    )
    ok = True
    try:
        reach = json.loads(gateway.stdout.readline())
        api, port, ca = reach["api"].removeprefix("http://"), int(reach["broker"].rsplit(":", 1)[1]), reach["ca_file"]
        secret = pathlib.Path(reach["admin_secret_file"]).read_text().strip()
        grant = {"grant_type": "client_credentials", "client_id": "admin", "client_secret": secret}
        admin = json.loads(rest(api, "POST", "/org/app/token", grant))["access_token"]
        tokens = {}
        for user in ["ann", "eve"]:
            rest(api, "POST", "/org/app/users", {"username": user, "password": "a good password"}, admin)
            grant = {"grant_type": "password", "username": user, "password": "a good password"}
            tokens[user] = json.loads(rest(api, "POST", "/org/app/token", grant))["access_token"]
        os.sched_setaffinity(0, set(cores[1:]) or set(cores))
        os.setpriority(os.PRIO_PROCESS, 0, -10 if os.geteuid() == 0 else 0)
        target = Target(port, api, ca, tokens)
        client = Client(target, api, admin)
        await client.start()
        await client.measure(1)
        pings, messages = await client.measure(SECONDS)
        base = quantile(pings, 0.99)
        limit = max(3 * base, 20.0)
        print(f"{'attack':<24} {'ping p50':>9} {'p99':>8} {'message p50':>12} {'p99':>8}   ms; at most {limit:.1f} a ping's p99; what was counted")
        row = lambda name, p, m, more: print(f"{name:<24} {quantile(p, .5):>9.2f} {quantile(p, .99):>8.2f} {quantile(m, .5):>12.2f} {quantile(m, .99):>8.2f}   {more}", flush=True)
        row("none", pings, messages, "")
        only = os.environ.get("ONLY", "")
        for name in (name for name in attacks(target) if only in name):
            before = refused(api)
            other = await asyncio.create_subprocess_exec(
                sys.executable, __file__, "--attack", name, str(port), api, ca, json.dumps(tokens), str(SECONDS + 1), preexec_fn=lambda: os.nice(10)
            )
            await asyncio.sleep(0.5)
            pings, messages = await client.measure(SECONDS)
            await other.wait()
            after = refused(api)
            counted = ", ".join(f"{why} {count - before.get(why, 0)}" for why, count in sorted(after.items()) if count > before.get(why, 0))
            good = quantile(pings, 0.99) <= limit and other.returncode == 0
            ok &= good
            row(name, pings, messages, ("" if good else "TOO SLOW  " if other.returncode == 0 else "ATTACKER FAILED  ") + counted)
        client.task.cancel()
    finally:
        gateway.terminate()
        gateway.wait()
        log.close()
    errors = [line for line in (home / "log").read_text().splitlines() if "ERROR" in line]
    print(f"{len(errors)} errors in the gateway's log" + (": " + errors[0] if errors else ""))
    subprocess.run(["rm", "-rf", str(home)], check=False)
    return 0 if ok and not errors else 1


if __name__ == "__main__":
    if "--attack" in sys.argv:
        name, port, api, ca, tokens, seconds = sys.argv[2:]
        asyncio.run(attack(int(port), api, ca, json.loads(tokens), name, float(seconds)))
    else:
        sys.exit(asyncio.run(main()))
