#!/usr/bin/env python3
"""Reads messages from the agent's control socket and takes each once it is printed.

Only the standard library: an HTTP connection over a Unix socket. After a break the stream goes on behind
the last message that was taken.

    client.py [SOCKET]
"""

import http.client
import json
import socket
import sys
import time

SOCKET = "/run/impush/control.sock"


class Agent(http.client.HTTPConnection):
    """HTTP over the agent's Unix socket."""

    def __init__(self, path):
        super().__init__("impush")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def ask(path, method, url, body=None):
    """One request, one JSON answer."""
    agent = Agent(path)
    agent.request(method, url, None if body is None else json.dumps(body), {"content-type": "application/json"})
    response = agent.getresponse()
    answer = json.loads(response.read())
    if response.status >= 400:
        raise RuntimeError(answer["error"]["message"])
    return answer


def messages(path, after):
    """Messages after that number, as they come."""
    agent = Agent(path)
    agent.request("GET", f"/v1/messages?after={after}&stream=true")
    for line in agent.getresponse():
        yield json.loads(line)


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else SOCKET
    status = ask(path, "GET", "/v1/status")
    print(f"{status['state']}, user {status['user']}, channel {status['channel']}", flush=True)
    last = 0
    while True:
        try:
            for entry in messages(path, last):
                if "message" not in entry:
                    # The login ended, or messages were given up for want of room.
                    print(f"told: {entry}", file=sys.stderr)
                    last = 0 if "end" in entry else last
                    continue
                message = entry["message"]
                print(f"{message['from']}: {message['body']}", flush=True)
                ask(path, "POST", "/v1/messages/ack", {"ids": [message["id"]]})
                last = entry["number"]
        except (OSError, http.client.HTTPException) as error:
            print(f"the agent is away ({error}); trying again", file=sys.stderr)
        time.sleep(1)


if __name__ == "__main__":
    main()
