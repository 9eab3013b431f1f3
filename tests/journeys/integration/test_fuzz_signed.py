"""Whatever a service signs: taken, or refused with an error of ours, and nothing behind it waits.

The time, the number and the chance are those of test_fuzz.py.
"""

import base64
import hashlib
import hmac
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.fake_chats import (
    SLACK_SECRET,
    WHATSAPP_SECRET,
    WHSEC,
    FakeChats,
    slack_headers,
    standard_headers,
    whatsapp_headers,
)
from tests.support.fuzz import CANARY, TIMEOUT, body, mutated, nothing_left, turns
from tests.support.fuzz_http import check, header_of, post
from tests.support.http_mesh import http_mesh

pytestmark = pytest.mark.timeout(TIMEOUT)
SECRET = f"the secret that they know, {CANARY}"
ISSUE = {
    "action": "opened",
    "issue": {"number": 7, "title": "It is broken", "labels": [{"name": "bug"}]},
    "repository": {"full_name": "acme/api"},
    "object_kind": "issue",
    "alerts": [{"status": "firing", "labels": {"alertname": "Down"}, "startsAt": "2030-01-01T00:00:00Z"}],
}
KINDS = ("github", "gitlab", "alertmanager", "grafana", "generic", "signed", "basic")


def webhook_of(chance: random.Random, kind: str, number: int) -> bytes:
    """A delivery of a source that is signed as it should be."""
    sent = body(chance, ISSUE)
    signed = hmac.new(SECRET.encode(), sent, hashlib.sha256).hexdigest()
    named = chance.choice(("issues", "Issue Hook", "push", "*"))
    authorization = f"Bearer {SECRET}"
    if kind == "basic":
        authorization = f"Basic {base64.b64encode(SECRET.encode()).decode()}"
    headers = {
        "Content-Type": "application/json",
        "Authorization": authorization,
        "X-Hub-Signature-256": f"sha256={signed}",
        "X-GitHub-Event": named,
        "X-GitHub-Delivery": str(number),
        "X-Gitlab-Token": SECRET,
        "X-Gitlab-Event": named,
        "X-Grafana-Alerting-Signature": signed,
        **(standard_headers(str(number), sent) if kind == "signed" else {}),
    }
    extra = header_of(chance) if chance.random() < 0.2 else b""
    return post(f"/webhooks/{kind}", sent, headers, extra)


SLACK = {
    "type": "event_callback",
    "event_id": "Ev1",
    "event": {
        **{"type": "app_mention", "user": "U1", "text": "<@UBOT> hello", "channel": "C1", "ts": "1.5"},
        **{"thread_ts": "1.5", "channel_type": "im", "subtype": None},
    },
}
WHATSAPP = {
    "object": "whatsapp_business_account",
    "entry": [
        {
            "changes": [
                {
                    "field": "messages",
                    "value": {
                        "metadata": {"phone_number_id": "123"},
                        "messages": [
                            {
                                **{
                                    "from": "4917",
                                    "id": "wamid.1",
                                    "timestamp": "1700000000",
                                    "type": "text",
                                },
                                **{"text": {"body": "hello"}, "context": {"id": "wamid.0"}},
                            }
                        ],
                    },
                }
            ]
        }
    ],
}
MESSAGE = {"id": "m-1", "sender": "ada", "content": "hello", "thread_id": "t-1", "context": {"a": [1]}}
POST = {
    "id": "p-1",
    "user_id": "ada",
    "channel_id": "town",
    "message": "@mira hello",
    "root_id": "",
    "type": "",
}
CHATS: dict[str, tuple[dict[str, Any], Callable[[bytes], dict[str, str]]]] = {
    "slack": (SLACK, slack_headers),
    "whatsapp": (WHATSAPP, whatsapp_headers),
    "http": (MESSAGE, lambda sent: standard_headers("m-1", sent)),
}


def channels_at(url: str) -> dict[str, Any]:
    whatsapp = {"verify_token": f"prove {CANARY}", "phone_number_id": "123", "token": "wa-test"}
    return {
        "slack": {"kind": "slack", "secret": SLACK_SECRET, "token": "xoxb-test", "url": f"{url}/slack"},
        "whatsapp": {"kind": "whatsapp", "secret": WHATSAPP_SECRET, "url": f"{url}/whatsapp", **whatsapp},
        "http": {"kind": "http", "secret": WHSEC, "url": f"{url}/in", "networks": ["127.0.0.0/8"]},
        "mattermost": {"kind": "mattermost", "token": "mm-test", "url": url},
    }


async def test_signed_messages(tmp_path: Path, chance: random.Random, no_errors: None) -> None:
    sources: dict[str, Any] = {kind: {"kind": kind, "secret": SECRET} for kind in KINDS[:4]}
    sources["generic"] = {"insecure": True, "event_field": "action", "id_fields": ["issue.number"]}
    sources["signed"] = {"scheme": "standard", "secret": WHSEC}
    sources["basic"] = {"scheme": "basic", "secret": SECRET}
    text = {"text": "{{issue.title}} {{alerts}} {{issue.labels}}", "agent": "echo"}
    rules = [{"source": kind, "match": {}, **text} for kind in KINDS]
    async with FakeChats() as chats:
        channels = {
            name: {"agent": "echo", "answer_by": ["ada", "U1"], **one}
            for name, one in channels_at(chats.url).items()
        }
        settings = {"webhooks": {"sources": sources, "rules": rules}, "channels": channels}
        async with http_mesh(tmp_path, max_open_tasks=1_000_000, **settings) as api:
            await chats.linked(1)
            for number, kind in enumerate(KINDS):
                await check(api.url, webhook_of(chance, kind, number))
            async with nothing_left():
                for number in turns("Mattermost", 0.06, least=30):
                    await chats.mattermost_sends(mattermost_of(chance))
                    if number % 30 == 29:  # what came before is dealt with
                        await chats.mattermost_says(f"good-{number}", "@mira still there?")
                        await chats.until_posted(root_id=f"good-{number}")
                for number in turns("signed webhooks", 0.12, least=60):
                    await check(api.url, webhook_of(chance, KINDS[number % len(KINDS)], number))
                for number in turns("signed chat messages", 0.12, least=60):
                    name = chance.choice([*CHATS])
                    document, sign = CHATS[name]
                    sent = (
                        body(chance, document)
                        .replace(b"1.5", b"%d.5" % number)
                        .replace(b"-1", b"-%d" % number)
                    )
                    await check(api.url, post(f"/channels/{name}", sent, sign(sent)))
            received = await api.get("/events", event_type="webhook.received")
            assert received["items"], "none was taken at all"
            task_id = await api.submit(agent_id="echo", payload={"text": "still there?"})
            assert (await api.mesh.get(Tasks).outcome(task_id)).text == "you said: still there?"


def mattermost_of(chance: random.Random) -> str:
    inner = mutated(chance, {**POST, "create_at": time.time() * 1000, "props": {"from_bot": "false"}})
    data = {"channel_type": chance.choice("OD"), "post": json.dumps(inner)}
    event = {"event": "posted", "data": data, "seq": 5}
    return body(chance, event).decode(errors="replace") if chance.random() < 0.5 else json.dumps(event)
