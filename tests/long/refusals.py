#!/usr/bin/env python3
"""A fleet of real agents through a server that refuses everybody for a while.

    tests/long/refusals.py [AGENTS] [CODE...]

A broker whose authentication backend is away answers CONNACK 0x87, one that is up before its gateway 0x86, one
that has lost its list of clients 0x85. That many agents (default 200) are online; all connections are cut and
every CONNECT is refused with the code (default: each of the three in turn) for 12 s. Each agent must be online
again by itself: nothing is done to them. Prints one line a code with the times, and fails when one stays away
for more than 35 minutes, the longest pause and its jitter.

Needs target/debug/impush, or the file named in IMPUSH.
"""

import asyncio
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

REFUSED_S = 12
LIMIT_S = 35 * 60
ROOT = pathlib.Path(__file__).resolve().parents[2]
AGENT = os.environ.get("IMPUSH", str(ROOT / "target/debug/impush"))


class Broker:
    """Takes every login and answers what has to be answered; nothing is delivered."""

    def __init__(self):
        self.online = {}
        self.refuse = None
        self.refused = 0
        self.changed = asyncio.Event()

    async def packet(self, reader):
        kind = (await reader.readexactly(1))[0]
        length = shift = 0
        while True:
            byte = (await reader.readexactly(1))[0]
            length |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                return kind, await reader.readexactly(length)

    async def serve(self, reader, writer):
        name = None
        try:
            kind, body = await self.packet(reader)
            assert kind >> 4 == 1, "the first packet is CONNECT"
            if self.refuse is not None:
                self.refused += 1
                writer.write(bytes([0x20, 3, 0, self.refuse, 0]))
                await writer.drain()
                return
            name = self.client_id(body)
            self.online[name] = writer
            self.changed.set()
            writer.write(bytes([0x20, 3, 0, 0, 0]))
            while True:
                kind, body = await self.packet(reader)
                if kind >> 4 == 8:
                    writer.write(bytes([0x90, 4]) + body[:2] + bytes([0, 1]))
                elif kind >> 4 == 3 and kind & 6:
                    length = int.from_bytes(body[:2], "big")
                    writer.write(bytes([0x40, 2]) + body[2 + length : 4 + length])
                elif kind >> 4 == 12:
                    writer.write(bytes([0xD0, 0]))
                elif kind >> 4 == 14:
                    return
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            if name and self.online.get(name) is writer:
                del self.online[name]
            writer.close()

    @staticmethod
    def client_id(body):
        at = 10
        length = shift = 0
        while True:
            byte = body[at]
            length |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if not byte & 128:
                break
        at += length
        size = int.from_bytes(body[at : at + 2], "big")
        return body[at + 2 : at + 2 + size].decode()

    async def until(self, number, limit):
        """Seconds after which each of so many was online."""
        began, times = time.monotonic(), []
        while len(self.online) < number:
            self.changed.clear()
            left = began + limit - time.monotonic()
            try:
                await asyncio.wait_for(self.changed.wait(), max(left, 0.01))
            except asyncio.TimeoutError:
                sys.exit(f"{number - len(self.online)} of {number} agents are still away after {limit} s")
            times += [time.monotonic() - began] * (len(self.online) - len(times))
        return times


def start(home, port):
    home.mkdir()
    (home / "impush.toml").write_text(
        f"[server]\nurl = 'mqtt://127.0.0.1:{port}'\napp = 'org#app'\n"
        f"[paths]\nstate = '{home}/state'\nsocket = '{home}/s'\n[log]\nlevel = 'error'\n"
    )
    (home / "password").write_text("secret")
    command = [AGENT, "--config", str(home / "impush.toml")]
    agent = subprocess.Popen([*command, "run"], stderr=subprocess.DEVNULL)
    while not (home / "s").exists():
        time.sleep(0.02)
    login = [*command, "login", "ann", "--no-wait", "--password-file", str(home / "password")]
    subprocess.run(login, check=True, stdout=subprocess.DEVNULL)
    return agent


async def main():
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    codes = [int(code, 16) for code in sys.argv[2:]] or [0x87, 0x86, 0x85]
    broker = Broker()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    agents = []
    with tempfile.TemporaryDirectory() as work:
        try:
            for at in range(number):
                agents.append(await asyncio.to_thread(start, pathlib.Path(work) / str(at), port))
            await broker.until(number, 120)
            print(f"{number} agents are online", file=sys.stderr)
            for code in codes:
                broker.refuse, broker.refused = code, 0
                for writer in list(broker.online.values()):
                    writer.transport.abort()
                while broker.online:
                    await asyncio.sleep(0.05)
                await asyncio.sleep(REFUSED_S)
                broker.refuse = None
                times = await broker.until(number, LIMIT_S)
                ended = sum(agent.poll() is not None for agent in agents)
                figures = {
                    "code": f"{code:#x}",
                    "agents": number,
                    "refusals": broker.refused,
                    "back": len(times),
                    "median_s": round(sorted(times)[number // 2], 1),
                    "last_s": round(times[-1], 1),
                    "ended": ended,
                }
                print(json.dumps(figures), flush=True)
                if ended:
                    sys.exit("agents ended")
        finally:
            for agent in agents:
                agent.kill()


asyncio.run(main())
