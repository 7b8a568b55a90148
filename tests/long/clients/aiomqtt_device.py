"""A device over aiomqtt: it comes online, takes one message, and leaves.

    aiomqtt_device.py PORT CA TOKEN DEVICE
"""

import asyncio
import json
import secrets
import ssl
import sys

import aiomqtt

port, ca, token, device = int(sys.argv[1]), *sys.argv[2:5]
TOPICS = f"im/v1/org%23app/ann/{device}/"
NONCE = secrets.token_hex(8)


def state(online):
    return json.dumps({"v": 1, "online": online, "nonce": NONCE})


async def main():
    async with aiomqtt.Client(
        "localhost",
        port,
        identifier=f"ann:{device}@org%23app",
        username="org%23app/ann",
        password=token,
        protocol=aiomqtt.ProtocolVersion.V5,
        tls_context=ssl.create_default_context(cafile=ca),
        will=aiomqtt.Will(TOPICS + "state", state(False), qos=1, retain=True),
    ) as client:

        async def up(**word):
            await client.publish(TOPICS + "up", json.dumps({"v": 1, **word}), qos=1)

        await client.subscribe(TOPICS + "down", qos=1)
        await client.publish(TOPICS + "state", state(True), qos=1, retain=True)
        await up(type="hello", nonce=NONCE, agent="aiomqtt", channel="none", platform="linux", login=device)
        async for message in client.messages:
            said = json.loads(message.payload)
            if said["type"] != "message":
                continue
            await up(type="ack", ids=[said["id"]], attached=True)
            await up(type="taken", ids=[said["id"]])
            await client.publish(TOPICS + "state", state(False), qos=1, retain=True)
            print("TEXT", said["body"]["msg"])
            return


asyncio.run(asyncio.wait_for(main(), 30))
