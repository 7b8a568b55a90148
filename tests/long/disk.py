#!/usr/bin/env python3
"""An agent that is killed, whose disk fills up and whose files are torn, under a stream of messages.

    tests/long/disk.py [--kills 200] [--fills 50] [--torn 1] [--seed 1]

A real gateway and a real agent; the agent's state lies on a tmpfs of 1 MiB. Messages are sent all the while, and
an app takes them over the control socket. Then, one after the other:

- the agent is killed so many times, at any moment from its start to a quarter of a second after it is online;
- the disk is filled to its last byte and freed again so many times; every second time the agent is killed while
  the disk is full, and every fifth time it starts on a read-only one;
- each file below the state directory is cut to nothing, to a half, and written over with NULs, so many rounds.

Held: no message that the gateway accepted is lost, none comes again after the app's acknowledgement of it was
answered, the device id stays the same, and the agent is online 60 s after each cause ends, by itself. On a full
disk it is online as well. Prints one line of JSON, and fails where one of these does not hold.

Needs root (for the tmpfs) and target/debug/impush and impush-gateway, or the files named in
AGENT_PROGRAM and GATEWAY_PROGRAM.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
AGENT = os.environ.get("AGENT_PROGRAM", str(ROOT / "target/debug/impush"))
GATEWAY = os.environ.get("GATEWAY_PROGRAM", str(ROOT / "target/debug/impush-gateway"))
BACK_S = 60


class Failed(Exception):
    """Something that must hold does not."""


class Socket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=5)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Stage:
    def __init__(self, home, agent_state):
        self.home, self.state = home, agent_state
        self.agent = None
        self.device = None
        self.stop = threading.Event()
        self.sent, self.shown, self.acked, self.twice = {}, {}, set(), []
        self.slowest = 0.0
        self.start_gateway()

    # The gateway and what is sent.

    def start_gateway(self):
        config = self.home / "gateway.toml"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config.write_text(
            f"[api]\nlisten = '127.0.0.1:{port}'\n[broker]\nlisten = '127.0.0.1:0'\n"
            f"[paths]\nstate = '{self.home}/gateway'\n"
        )
        self.gateway = subprocess.Popen(
            [GATEWAY, "--config", config, "serve", "--announce"],
            stdout=subprocess.PIPE, stderr=open(self.home / "gateway.log", "ab"),
        )
        self.reach = json.loads(self.gateway.stdout.readline())
        password = self.home / "password"
        password.write_text("a password")
        run = lambda command: subprocess.run(
            [GATEWAY, "--config", config, command, "--app", "org/app", "--password-file", password, "--", "ann"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()
        run("user")
        self.token = run("token")
        secret = pathlib.Path(self.reach["admin_secret_file"]).read_text()
        grant = {"grant_type": "client_credentials", "client_id": "admin", "client_secret": secret}
        self.admin = self.rest("token", grant, None)["access_token"]

    def rest(self, path, body, key):
        headers = {"content-type": "application/json"}
        if key:
            headers |= {"authorization": f"Bearer {self.admin}", "idempotency-key": key}
        request = urllib.request.Request(
            f"{self.reach['api']}/org/app/{path}", json.dumps(body).encode(), headers, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def send(self):
        key = f"m{len(self.sent)}"
        answer = self.rest("messages/users", {"to": ["ann"], "type": "txt", "body": {"msg": key}}, key)
        self.sent[answer["data"]["ann"]] = time.monotonic()
        return answer["data"]["ann"]

    def send_all_the_while(self):
        while not self.stop.is_set():
            self.send()
            time.sleep(0.03)

    # The agent and its app.

    def ask(self, method, path, body=None):
        connection = Socket(self.home / "s")
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def start(self):
        self.agent = subprocess.Popen(
            [AGENT, "--config", self.home / "impush.toml", "run"], stderr=open(self.home / "agent.log", "ab")
        )

    def kill(self):
        self.agent.send_signal(signal.SIGKILL)
        self.agent.wait()

    def status(self):
        try:
            status, text = self.ask("GET", "/v1/status")
            return json.loads(text) if status == 200 else None
        except (OSError, http.client.HTTPException, ValueError):
            return None

    def online(self, what):
        """Waits until it is, and looks at the device id."""
        began = time.monotonic()
        while time.monotonic() - began < BACK_S:
            status = self.status()
            if status and status["state"] == "online":
                self.slowest = max(self.slowest, time.monotonic() - began)
                if status["device_id"] != self.device:
                    raise Failed(f"{what}: another device id")
                return
            if self.agent.poll() is not None:
                raise Failed(f"{what}: the agent ended with {self.agent.returncode}")
            time.sleep(0.02)
        raise Failed(f"{what}: not online after {BACK_S} s, but {status and status['state']}")

    def arrives(self, message, what, limit=BACK_S):
        began = time.monotonic()
        while message not in self.shown:
            if time.monotonic() - began > limit:
                raise Failed(f"{what}: a message has not come for {limit} s")
            time.sleep(0.02)
        self.slowest = max(self.slowest, time.monotonic() - began)

    def take_all_the_while(self):
        while not self.stop.is_set():
            try:
                status, text = self.ask("GET", "/v1/messages?app=reader&after=0")
                ids = [line["message"]["id"] for line in map(json.loads, text.splitlines()) if "message" in line]
                if status != 200 or not ids:
                    time.sleep(0.03)
                    continue
                for each in ids:
                    if each in self.acked:
                        self.twice.append(each)
                    self.shown[each] = True
                status, _ = self.ask("POST", "/v1/messages/ack", {"ids": ids, "app": "reader"})
                if status == 200:
                    self.acked.update(ids)
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.03)

    # What goes wrong.

    def killed(self, dice, times):
        for n in range(times):
            time.sleep(dice.random() * 0.5)
            self.kill()
            self.start()
            if n % 10 == 9:
                self.online(f"kill {n}")

    def fill(self):
        with open(self.state / "other-program", "ab", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    pass

    def filled(self, times):
        for n in range(times):
            what = f"fill {n}"
            self.fill()
            if n % 5 == 4 or n % 2:
                self.kill()
                if n % 5 == 4:
                    # Not under a running agent: its segment is open for writing.
                    remount(self.state, "ro")
                self.start()
            self.online(f"{what}: the disk is full")
            time.sleep(0.5)
            if n % 5 == 4:
                remount(self.state, "rw")
            (self.state / "other-program").unlink()
            self.online(what)
            self.arrives(self.send(), what)

    def torn(self, rounds):
        files = 0
        for _ in range(rounds):
            for how in ("nothing", "half", "nuls"):
                for name in sorted(p.relative_to(self.state) for p in self.state.rglob("*") if p.is_file()):
                    if ".corrupt-" in name.name:
                        continue
                    path = self.state / name
                    self.kill()
                    if not path.exists():
                        self.start()
                        continue
                    whole = path.read_bytes()
                    path.write_bytes({"nothing": b"", "half": whole[: len(whole) // 2], "nuls": b"\0" * len(whole)}[how])
                    self.start()
                    self.online(f"{name}: {how}")
                    self.arrives(self.send(), f"{name}: {how}")
                    files += 1
                    for aside in self.state.rglob("*.corrupt-*"):
                        aside.unlink()
        return files


def remount(path, how):
    subprocess.run(["mount", "-o", f"remount,{how}", path], check=True)


def main():
    options = argparse.ArgumentParser()
    for name, default in (("kills", 200), ("fills", 50), ("torn", 1), ("seed", 1)):
        options.add_argument(f"--{name}", type=int, default=default)
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as home:
        home = pathlib.Path(home)
        state = home / "state"
        state.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "none", state], check=True)
        stage = None
        try:
            stage = Stage(home, state)
            return lived(stage, options)
        except Failed as failed:
            print(failed, file=sys.stderr)
            print((home / "agent.log").read_text()[-4000:], file=sys.stderr)
            return 1
        finally:
            if stage:
                stage.stop.set()
                for process in (stage.agent, stage.gateway):
                    if process and process.poll() is None:
                        process.kill()
                        process.wait()
            subprocess.run(["umount", "-l", state], check=False)


def lived(stage, options):
    home = stage.home
    (home / "impush.toml").write_text(
        f"[server]\nurl = 'mqtts://{stage.reach['broker'].split('://')[-1].replace('127.0.0.1', 'localhost')}'\n"
        f"app = 'org#app'\nca_file = '{stage.reach['ca_file']}'\n"
        f"[paths]\nstate = '{stage.state}'\nsocket = '{home}/s'\n[log]\nformat = 'json'\n"
    )
    stage.start()
    while not (status := stage.status()):
        if stage.agent.poll() is not None:
            raise Failed("the agent does not start")
        time.sleep(0.02)
    stage.device = status["device_id"]
    (home / "login").write_text(stage.token)
    subprocess.run([AGENT, "--config", home / "impush.toml", "login", "ann", "--password-file", home / "login"],
                   check=True, stdout=subprocess.DEVNULL)
    threads = [threading.Thread(target=work, daemon=True) for work in (stage.send_all_the_while, stage.take_all_the_while)]
    for thread in threads:
        thread.start()
    stage.killed(random.Random(options.seed), options.kills)
    stage.online("after the kills")
    stage.filled(options.fills)
    files = stage.torn(options.torn)
    last = stage.send()
    stage.arrives(last, "the end")
    began = time.monotonic()
    lost = []
    while time.monotonic() - began < BACK_S:
        sent = list(stage.sent.items())
        lost = [each for each, at in sent if each not in stage.shown and time.monotonic() - at > 5]
        if not lost:
            break
        time.sleep(0.1)
    stage.stop.set()
    log = (home / "agent.log").read_text()
    print(json.dumps({
        "kills": options.kills, "fills": options.fills, "torn": files, "sent": len(stage.sent), "lost": len(lost),
        "twice": len(stage.twice), "slowest_back_s": round(stage.slowest, 2),
        "failed": log.count('"store.failed"'), "recovered": log.count('"store.recovered"'),
        "panics": log.count("panicked"),
    }))
    return 1 if lost or stage.twice or "panicked" in log else 0


sys.exit(main())
