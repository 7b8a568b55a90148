"""Huawei's push_admin as an app's server: says what it read of each answer, `case<TAB>expected<TAB>got`."""

import importlib.util
import os
import sys
import types

# The package is published as `push_admin` but imports itself as `src.push_admin`.
package = importlib.util.find_spec("push_admin")
sys.modules["src"] = types.ModuleType("src")
sys.modules["src"].__path__ = [os.path.dirname(os.path.dirname(package.origin))]

from src import push_admin  # noqa: E402
from src.push_admin import messaging  # noqa: E402

CLOUD = f"https://localhost:{os.environ['CLOUD_PORT']}"
APP = "104412345"


def initialize(secret):
    # A second call for the same id is not taken.
    push_admin._apps.clear()
    push_admin.initialize_app(APP, secret, token_server=f"{CLOUD}/oauth2/v3/token", push_open_url=CLOUD)


def message(tokens, title, common):
    words = {"title": title, "body": "hi"}
    shown = messaging.AndroidNotification(
        click_action=messaging.AndroidClickAction(action_type=3), **({} if common else words)
    )
    return messaging.Message(
        notification=messaging.Notification(**words) if common else None,
        android=messaging.AndroidConfig(ttl="3600s", notification=shown),
        token=tokens,
    )


def data_only(tokens):
    return messaging.Message(data="{}", android=messaging.AndroidConfig(ttl="3600s"), token=tokens)


def read(what, expected, tokens, title="hello from huawei-admin", common=False, validate_only=False, data=False):
    try:
        sent = data_only(tokens) if data else message(tokens, title, common)
        answer = messaging.send_message(
            sent, validate_only, app_id=APP, verify_peer=os.environ["CLOUD_CA"]
        )
        got = f"{answer.code} {answer.reason}" if answer.requestId else "no request id"
    except messaging.ApiCallError as fault:
        got = str(fault)
    print(what, expected, got.replace(dead, "the dead one"), sep="\t", flush=True)


with open(os.environ["SECRET_FILE"], encoding="ascii") as file:
    initialize(file.read())
living, dead = os.environ["TOKEN"], os.environ["DEAD"]
read("a living token", "80000000 Success", [living])
read("a dead token", "80300007 All the tokens are invalid.", [dead])
read("what is no token", "80300007 All the tokens are invalid.", ["abcd"])
partial = '80100000 {"failure":1,"illegal_tokens":["the dead one"],"success":1}'
read("a living and a dead one at once", partial, [living, dead], "hello from huawei-admin-batch")
read("a title for all systems", "80000000 Success", [living], "hello from huawei-admin-all", common=True)
read("validated only, not shown", "80000000 Success", [living], "hello from huawei-admin-unsent", validate_only=True)
read("data for the app alone", "80000000 Success", [living], data=True)
initialize("wrong")
refused = "http status code is 400 in get access token"
read("a wrong secret", f"ApiCallError('{refused}')", [living])
