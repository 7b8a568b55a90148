"""aioapns as an app's server: says what it read of each answer, `case<TAB>expected<TAB>got`."""

import asyncio
import os
import ssl

from aioapns import APNs, NotificationRequest
from aioapns.connection import APNsProductionClientProtocol

# The SDK has no setting for its server.
APNsProductionClientProtocol.APNS_SERVER = "localhost"
APNsProductionClientProtocol.APNS_PORT = int(os.environ["CLOUD_PORT"])


def client(key, topic):
    with open(os.environ[key], encoding="ascii") as file:
        secret = file.read()
    context = ssl.create_default_context(cafile=os.environ["CLOUD_CA"])
    return APNs(key=secret, key_id="ABC123DEFG", team_id="DEF123GHIJ", topic=topic, max_connections=1, ssl_context=context)


async def read(what, expected, sdk, token):
    message = {"aps": {"alert": {"title": "hello from aioapns", "body": "hi"}}}
    request = NotificationRequest(device_token=token, message=message, time_to_live=3600)
    answer = await asyncio.wait_for(sdk.send_notification(request), 10)
    got = "sent" if answer.is_successful else f"{answer.status} {answer.description}"
    print(what, expected, got, sep="\t", flush=True)


async def main():
    own, other = client("APNS_KEY", "com.acme.demo"), client("APNS_KEY", "com.acme.other")
    await read("a living token", "sent", own, os.environ["TOKEN"])
    await read("a dead token", "410 Unregistered", own, os.environ["DEAD"])
    await read("what is no token", "400 BadDeviceToken", own, "abcd")
    await read("a token never given out", "400 BadDeviceToken", own, "ab" * 32)
    await read("another app", "400 TopicDisallowed", other, os.environ["TOKEN"])
    await read("a wrong key", "403 InvalidProviderToken", client("WRONG_KEY", "com.acme.demo"), os.environ["TOKEN"])


asyncio.run(main())
