"""A mesh with channels, and what is said there."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from meshwright import Agent
from meshwright.testing import ScriptedModel
from tests.support.fake_chats import (
    SLACK_SECRET,
    WHATSAPP_SECRET,
    WHSEC,
    FakeChats,
    slack_headers,
    standard_headers,
    whatsapp_headers,
)
from tests.support.http_mesh import Api, http_mesh

LOCAL = ["127.0.0.0/8"]
PERSONA = {"name": "Mira", "role": "support at Acme"}


def http_channel(chats: FakeChats, **changes: Any) -> dict[str, Any]:
    """Settings of a channel of any chat."""
    given = {"kind": "http", "agent": "echo", "secret": WHSEC, "url": f"{chats.url}/in", "networks": LOCAL}
    return given | changes


@asynccontextmanager
async def channels(
    folder: Path, *agents: type[Agent], script: ScriptedModel | None = None, models: Any = None, **kinds: Any
) -> AsyncIterator[Api]:
    """A mesh with these channels, whose model is the offline one or a scripted one."""
    async with http_mesh(folder, *agents, script=script, models=models or {}, channels=kinds) as api:
        yield api


async def say(api: Api, channel: str, message_id: str, content: str, **more: Any) -> tuple[int, Any]:
    """Say something in a chat, signed."""
    message = {"id": message_id, "sender": "ada", "content": content, "thread_id": "t-1", **more}
    body = json.dumps(message).encode()
    headers = standard_headers(message_id, body)
    return await api.call("POST", f"/channels/{channel}", data=body, headers=headers)


async def slack(api: Api, event: dict[str, Any], *, age: int = 0, **more: Any) -> tuple[int, Any]:
    """Have Slack deliver an event, signed, so many seconds old."""
    body = json.dumps({"type": "event_callback", "event_id": "Ev1", "event": event, **more}).encode()
    return await api.call("POST", "/channels/chat", data=body, headers=slack_headers(body, age=age))


def slack_channel(chats: FakeChats) -> dict[str, Any]:
    """Settings of a channel of Slack's."""
    given = {"kind": "slack", "agent": "echo", "secret": SLACK_SECRET, "token": "xoxb-test"}
    return given | {"url": f"{chats.url}/slack"}


def mattermost_channel(chats: FakeChats) -> dict[str, Any]:
    """Settings of a channel of Mattermost's."""
    return {"kind": "mattermost", "agent": "echo", "token": "mm-test", "url": chats.url}


def whatsapp_channel(chats: FakeChats) -> dict[str, Any]:
    """Settings of a channel of WhatsApp's."""
    given = {"kind": "whatsapp", "agent": "echo", "secret": WHATSAPP_SECRET, "token": "wa-test"}
    number = {"verify_token": "prove it", "phone_number_id": "123", "url": f"{chats.url}/whatsapp"}
    return given | number


async def whatsapp(api: Api, message_id: str, content: str = "hello") -> tuple[int, Any]:
    """Have WhatsApp deliver a message, signed."""
    text = {"from": "4917", "id": message_id, "timestamp": "1700000000", "type": "text"}
    value = {"metadata": {"phone_number_id": "123"}, "messages": [text | {"text": {"body": content}}]}
    status = {"value": {"metadata": {"phone_number_id": "123"}, "statuses": [{"id": "wamid.0"}]}}
    changes = [{"field": "messages", "value": value}, status]
    body = json.dumps({"object": "whatsapp_business_account", "entry": [{"changes": changes}]}).encode()
    return await api.call("POST", "/channels/chat", data=body, headers=whatsapp_headers(body))


def mention(ts: str = "1.5", **more: Any) -> dict[str, Any]:
    """A message in Slack that names the bot."""
    event = {"type": "app_mention", "user": "U1", "text": "<@UBOT> hello", "channel": "C1", "ts": ts}
    return event | more
