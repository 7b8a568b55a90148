#!/usr/bin/env python3
"""The key that signs tokens is rotated under real agents that are online: does any of them notice?

    tests/long/rotation.py [AGENTS]

A gateway whose tokens live a minute, so that each agent (default 200) renews its own every 40 s, before, while and after the
new key takes over, a minute after it was made. Counted from the rotation to four minutes later: connections that ended,
renewals, those by the new key, those refused; then a message to each, and whether each comes back by a token of the new key when the gateway is
restarted. Fails when any connection ended, any renewal failed, or any agent or message is missing. Prints the old key's
end as `impush-gateway signing-key list` and REST say it.

Needs target/debug/impush and impush-gateway, or the directory named in PROGRAMS.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = pathlib.Path(os.environ.get("PROGRAMS", ROOT / "target/debug"))
WATCHED_S = 240
# When the new key signs.
ANNOUNCED_S = 60
PORT = 23990
BASE = f"http://127.0.0.1:{PORT}/org/app"


def ask(method, path, body=None, token=""):
    data = json.dumps(body).encode() if body is not None else None
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{BASE}/{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


class Log:
    """The events of a log, read as it grows."""

    def __init__(self, path):
        self.path, self.at, self.events = path, 0, []

    def read(self):
        with open(self.path, "rb") as file:
            file.seek(self.at)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.at += len(whole)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            event["read_at"] = time.monotonic()
            self.events.append(event)
        return self.events

    def count(self, name):
        return sum(event.get("event") == name for event in self.read())


def until(what, limit, is_so):
    end = time.monotonic() + limit
    while not is_so():
        if time.monotonic() > end:
            sys.exit(f"not so in {limit} s: {what}")
        time.sleep(0.3)


def gateway(home):
    log = open(home / "log", "a")
    command = [PROGRAMS / "impush-gateway", "--config", home / "gateway.toml", "serve", "--announce"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    return process, json.loads(process.stdout.readline())


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as place:
        run(pathlib.Path(place), count)


def run(place, count):
    home = place / "g"
    home.mkdir()
    (home / "gateway.toml").write_text(
        f"[api]\nlisten = '127.0.0.1:{PORT}'\nuser_token_s = 60\nrequests_per_s = 1000\n[broker]\nlisten = '127.0.0.1:{PORT + 1}'\n"
        f"[paths]\nstate = '{home}/state'\n[log]\nformat = 'json'\n"
    )
    server, reach = gateway(home)
    agents = []
    try:
        secret = pathlib.Path(reach["admin_secret_file"]).read_text().strip()
        grant = {"grant_type": "client_credentials", "client_id": "admin", "client_secret": secret}
        admin = ask("POST", "token", grant)["access_token"]
        logs = []
        for number in range(count):
            user, own = f"u{number}", place / f"a{number}"
            own.mkdir()
            ask("POST", "users", {"username": user, "password": "a password"}, admin)
            (own / "impush.toml").write_text(
                f"[server]\nurl = 'mqtts://localhost:{PORT + 1}'\napp = 'org#app'\nca_file = '{reach['ca_file']}'\n"
                f"[paths]\nstate = '{own}/state'\nsocket = '{own}/s'\n[control]\nport = 0\n[log]\nformat = 'json'\nlevel = 'debug'\n"
            )
            command = [PROGRAMS / "impush", "--config", own / "impush.toml"]
            log = open(own / "log", "a")
            agents.append(subprocess.Popen([*command, "run"], stdout=log, stderr=log))
            logs.append(Log(own / "log"))
            until("an agent listens", 30, (own / "s").exists)
            token = ask("POST", "token", {"grant_type": "password", "username": user, "password": "a password"})
            login = [*command, "login", user, "--no-wait", "--password-file", "-"]
            subprocess.run(login, input=token["access_token"], text=True, check=True, capture_output=True)
        until("all are online", 120, lambda: all(log.count("link.up") for log in logs))
        ours = Log(home / "log")

        listing = [PROGRAMS / "impush-gateway", "--config", home / "gateway.toml", "signing-key"]
        ups = [log.count("link.up") for log in logs]
        ours.read()
        before, start = len(ours.events), time.monotonic()
        subprocess.run([*listing, "rotate"], check=True, capture_output=True)
        while time.monotonic() - start < WATCHED_S:
            time.sleep(1)
            ours.read()
        renewed = [event for event in ours.events[before:] if event.get("event") == "login.renewed"]
        late = {event["device"] for event in renewed if event["read_at"] - start > ANNOUNCED_S + 1}
        failed = sum(event.get("event") == "login.not_renewed" for event in ours.events[before:])
        ended = sum(log.count("link.up") - up for log, up in zip(logs, ups))
        downs = sum(log.count("link.down") for log in logs)
        for number in range(count):
            message = {"to": [f"u{number}"], "type": "txt", "body": {"msg": "by the new key"}}
            ask("POST", "messages/users", message, admin)
        until("each has its message", 60, lambda: all(log.count("message.received") for log in logs))
        print(subprocess.run([*listing, "list"], check=True, capture_output=True, text=True).stdout, end="")
        for key in ask("GET", "signing-keys", None, admin)["entities"]:
            print(f"REST: {key}")

        ups = [log.count("link.up") for log in logs]
        server.send_signal(signal.SIGTERM)
        server.wait(30)
        server, _ = gateway(home)
        until("all are back", 180, lambda: all(log.count("link.up") > up for log, up in zip(logs, ups)))
        print(
            f"{count} agents, {WATCHED_S} s: connections that ended {ended + downs}, renewals {len(renewed)}, agents renewed by the new key"
            f" {len(late)}, renewals that failed {failed}; {count} of {count} got a message, and came back after a restart"
        )
        if ended + downs or failed or len(late) != count:
            sys.exit(1)
    finally:
        for process in [*agents, server]:
            process.kill()
            process.wait()


main()
