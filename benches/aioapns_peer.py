"""A public APNs client (PyPI: aioapns) against the emulated cloud: the peer of `impush-lab bench gateway`.

Usage: aioapns_peer.py PORT CA_FILE KEY_FILE KEY_ID TEAM_ID TOPIC DEVICE_TOKEN COUNT; prints notifications a second, and a
second of processor time.
"""

import asyncio
import ssl
import sys
import time

from aioapns import APNs, NotificationRequest, connection


async def main() -> None:
    port, ca_file, key_file, key_id, team_id, topic, token, count = sys.argv[1:]
    for protocol in (connection.APNsBaseClientProtocol, connection.APNsProductionClientProtocol):
        protocol.APNS_SERVER = "localhost"
        protocol.APNS_PORT = int(port)
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["h2"])
    with open(key_file) as file:
        key = file.read()
    client = APNs(key=key, key_id=key_id, team_id=team_id, topic=topic, ssl_context=context, max_connections=4)
    limit = asyncio.Semaphore(64)

    async def one(number: int) -> bool:
        async with limit:
            message = {"aps": {"alert": {"title": "t", "body": f"hello {number}"}}}
            request = NotificationRequest(device_token=token, message=message, time_to_live=60)
            return (await client.send_notification(request)).is_successful

    assert await one(0)
    started, busy = time.monotonic(), time.process_time()
    results = await asyncio.gather(*(one(number) for number in range(int(count))))
    assert all(results)
    print(int(count) / (time.monotonic() - started), int(count) / (time.process_time() - busy))


asyncio.run(main())
