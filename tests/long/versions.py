#!/usr/bin/env python3
"""Agents and gateways of different builds with each other: what works, as a table.

    tests/long/versions.py NEW OLD...

Each is a directory with `impush` and `impush-gateway` of one build (`git worktree add DIR COMMIT`, `cargo build --bin impush --bin
impush-gateway` there). Every old agent meets the new gateway, the new agent every old gateway, and each state directory is taken
over by the new program and, once more, by the old one. Prints what came of it, with the warnings of both logs.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

LIMIT = 25
WORDS = ["login", "message", "ack", "agent restarted", "gateway restarted", "kick", "login again", "logout"]


def until(what, limit=LIMIT):
    end = time.time() + limit
    while time.time() < end:
        found = what()
        if found:
            return found
        time.sleep(0.1)
    return None


class Program:
    """One of a build's two, in a directory of its own."""

    def __init__(self, name, build, home, config):
        self.name, self.build, self.home = name, build, home
        os.makedirs(home, exist_ok=True)
        self.config = os.path.join(home, f"{name}.toml")
        with open(self.config, "w") as file:
            file.write(config)

    def words(self, *words):
        return [os.path.join(self.build, self.name), "--config", self.config, *words]

    def run(self, *words):
        return subprocess.run(self.words(*words), capture_output=True, text=True, timeout=60)

    def begin(self, *words, **more):
        log = open(os.path.join(self.home, "log"), "a")
        self.process = subprocess.Popen(self.words(*words), **{"stdout": log, "stderr": log, **more})

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Gateway(Program):
    def __init__(self, build, home, port):
        self.port = port
        super().__init__("impush-gateway", build, home,
                         f"[api]\nlisten = '127.0.0.1:{port}'\n[broker]\nlisten = '127.0.0.1:{port + 1}'\n"
                         f"[paths]\nstate = '{home}/state'\n[log]\nformat = 'json'\nlevel = 'info'\n")
        self.password = os.path.join(home, "password")
        with open(self.password, "w") as file:
            file.write("a password")
        self.start()

    def start(self):
        self.begin("serve", "--announce", stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.reach = json.loads(line) if line else None

    def token(self, first):
        if first:
            self.run("user", "--app", "org/app", "--password-file", self.password, "ann")
        return self.run("token", "--app", "org/app", "--password-file", self.password, "ann").stdout.strip()

    def send(self, text):
        return self.run("send", "--app", "org/app", "ann", text).stdout.strip()

    def trace(self, message):
        return self.run("trace", "--app", "org/app", message).stdout

    def kick(self):
        done = self.run("kick", "--app", "org/app", "ann")
        if done.returncode == 0:
            return "command"
        secret = open(os.path.join(self.home, "state", "admin.secret")).read().strip()
        grant = json.dumps({"grant_type": "client_credentials", "client_id": "admin", "client_secret": secret})
        base = f"http://127.0.0.1:{self.port}/org/app"
        call = lambda *words: subprocess.run(["curl", "-s", *words], capture_output=True, text=True).stdout
        answer = call("-H", "content-type: application/json", "-d", grant, f"{base}/token")
        token = json.loads(answer)["access_token"]
        for method, path in [("GET", "users/ann/disconnect"), ("POST", "users/ann/kick")]:
            code = call("-o", "/dev/null", "-w", "%{http_code}", "-X", method, "-H", f"authorization: Bearer {token}", f"{base}/{path}")
            if code == "200":
                return path
        return None


class Agent(Program):
    def __init__(self, build, home, gateway):
        super().__init__("impush", build, home,
                         f"[server]\nurl = 'mqtts://localhost:{gateway.port + 1}'\napp = 'org#app'\nca_file = '{gateway.reach['ca_file']}'\n"
                         f"[paths]\nstate = '{home}/state'\nsocket = '{home}/s'\n[log]\nformat = 'json'\nlevel = 'debug'\n")
        self.start()

    def start(self):
        self.begin("run")
        until(lambda: self.run("status").returncode == 0)

    def status(self):
        said = self.run("status", "--json").stdout
        return json.loads(said) if said.startswith("{") else {}

    def login(self, token):
        path = os.path.join(self.home, "token")
        with open(path, "w") as file:
            file.write(token)
        return self.run("login", "ann", "--password-file", path)

    def online(self):
        return until(lambda: str(self.status().get("state", self.status().get("phase", ""))).lower() == "online")

    def said(self, text):
        return text in open(os.path.join(self.home, "log")).read()


def delivered(gateway, agent, text):
    message = gateway.send(text)
    if not message:
        return "not accepted", None
    came = until(lambda: agent.said(message))
    acked = until(lambda: "ack" in gateway.trace(message).lower(), 10)
    return ("ok" if came else "lost"), ("ok" if acked else gateway.trace(message))


def meet(agent_build, gateway_build, port, place):
    row, notes = {}, []
    gateway = Gateway(gateway_build, os.path.join(place, "g"), port)
    if not gateway.reach:
        return {"login": "the gateway does not start"}, notes
    agent = Agent(agent_build, os.path.join(place, "a"), gateway)
    try:
        agent.login(gateway.token(True))
        row["login"] = "ok" if agent.online() else f"no: {agent.status()}"
        row["message"], row["ack"] = delivered(gateway, agent, "first")
        agent.stop()
        waiting = gateway.send("while the agent was away")
        agent.start()
        row["agent restarted"] = "ok" if agent.online() and until(lambda: agent.said(waiting)) else f"no: {agent.status()}"
        gateway.stop()
        gateway.start()
        back = until(lambda: delivered(gateway, agent, "after the gateway's restart")[0] == "ok", 60)
        row["gateway restarted"] = "ok" if back else f"no: {agent.status()}"
        how = gateway.kick()
        notes.append(f"kick by {how}")
        kicked = until(lambda: str(agent.status().get("state", "")).lower() not in ("online",), 10)
        row["kick"] = str(agent.status().get("state")) if kicked else "stays online"
        notes.append(json.dumps(agent.status())[:600])
        agent.login(gateway.token(False))
        row["login again"] = "ok" if agent.online() else f"no: {agent.status()}"
        agent.run("logout")
        row["logout"] = str(agent.status().get("state"))
        message = gateway.send("after the logout")
        time.sleep(2)
        if message and agent.said(message):
            row["logout"] += ", and still hears"
        for log, who in [(agent.home, "agent"), (gateway.home, "gateway")]:
            for line in open(os.path.join(log, "log")):
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if event.get("level") in ("warn", "error", "WARN", "ERROR"):
                    notes.append(f"{who}: {line.strip()[:300]}")
    finally:
        agent.stop()
        gateway.stop()
    return row, notes


def back(gateway, agent, text):
    """A message comes, from where it is."""
    return "ok" if until(lambda: delivered(gateway, agent, text)[0] == "ok", 90) else f"no: {agent.status().get('cause')}"


def replaced(who, build):
    """Starts another build on the same state; its last words where it does not start."""
    who.stop()
    who.build = build
    who.start()
    if isinstance(who, Gateway) and not who.reach:
        return open(os.path.join(who.home, "log")).read().strip().splitlines()[-1][-300:]
    return None


def taken_over(new, old, which, port, place):
    """The state of an old program under the new one, and under the old one again; the other program is the new one."""
    row = {}
    gateway = Gateway(old if which == "gateway" else new, os.path.join(place, "g"), port)
    agent = Agent(old if which == "agent" else new, os.path.join(place, "a"), gateway)
    changed = gateway if which == "gateway" else agent
    try:
        agent.login(gateway.token(True))
        agent.online()
        for build, name in [(new, "new"), (old, "old")]:
            refused = replaced(changed, build)
            row[f"{which}, {name} on its state"] = refused or back(gateway, agent, name)
            if refused and name == "new":
                break
    finally:
        agent.stop()
        gateway.stop()
    return row


def main():
    new, olds = sys.argv[1], sys.argv[2:]
    port = 23400
    for old in olds:
        for agent, gateway in [(old, new), (new, old)]:
            place = tempfile.mkdtemp(prefix="versions-")
            row, notes = meet(agent, gateway, port, place)
            port += 2
            print(f"agent {os.path.basename(agent)} on gateway {os.path.basename(gateway)}:")
            for word in WORDS:
                print(f"    {word}: {row.get(word, '-')}")
            for note in notes:
                print(f"    # {note}")
            sys.stdout.flush()
            shutil.rmtree(place)
        for which in ["agent", "gateway"]:
            place = tempfile.mkdtemp(prefix="versions-")
            row = taken_over(new, old, which, port, place)
            port += 2
            for word, said in row.items():
                print(f"{os.path.basename(old)}: {word}: {said}")
            sys.stdout.flush()
            shutil.rmtree(place)


main()
