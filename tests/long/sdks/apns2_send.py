"""apns2-up as an app's server: says what it read of each answer, `case<TAB>expected<TAB>got`."""

import os

import hyper.tls
from apns2.client import APNsClient, Notification
from apns2.credentials import TokenCredentials
from apns2.errors import APNsException
from apns2.payload import Payload, PayloadAlert

# The SDK has no setting for its server, nor for the authority it trusts.
APNsClient.LIVE_SERVER = "localhost"
APNsClient.DEFAULT_PORT = int(os.environ["CLOUD_PORT"])
hyper.tls.cert_loc = os.environ["CLOUD_CA"]

APP = "com.acme.demo"


def client(key):
    return APNsClient(TokenCredentials(os.environ[key], "ABC123DEFG", "DEF123GHIJ"))


def payload(title):
    return Payload(alert=PayloadAlert(title=title, body="hi"))


def read(what, expected, sdk, token, topic=APP):
    try:
        sdk.send_notification(token, payload("hello from apns2-up"), topic, expiration=4102444800)
        got = "sent"
    except APNsException as fault:
        # It makes a class of each reason.
        got = type(fault).__name__
    print(what, expected, got, sep="\t", flush=True)


living, dead = os.environ["TOKEN"], os.environ["DEAD"]
right = client("APNS_KEY")
read("a living token", "sent", right, living)
read("a dead token", "Unregistered", right, dead)
read("what is no token", "BadDeviceToken", right, "abcd")
read("a token never given out", "BadDeviceToken", right, "ab" * 32)
read("another app", "TopicDisallowed", right, living, "com.acme.other")
read("a wrong key", "InvalidProviderToken", client("WRONG_KEY"), living)
many = right.send_notification_batch(
    [Notification(token, payload("hello from apns2-up-batch")) for token in (living, dead)], APP
)
got = ", ".join(each if isinstance(each, str) else each[0] for each in (many[living], many[dead]))
print("a living and a dead one at once", "Success, Unregistered", got, sep="\t", flush=True)
