"""While an agent is at work, or cannot be, its chat shows so."""

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from meshwright import Agent, Capability, Run
from meshwright.engine.events.filter import EventFilter
from meshwright.models.circuits import MAX_TRIES
from meshwright.models.errors import RateLimited
from meshwright.testing import ScriptedModel
from tests.support.chat_mesh import (
    PERSONA,
    channels,
    http_channel,
    mattermost_channel,
    mention,
    say,
    slack,
    slack_channel,
    whatsapp,
    whatsapp_channel,
)
from tests.support.fake_chats import FakeChats


class Thinker(Agent):
    """Says how far it is, and goes on when the test lets it."""

    agent_id = "thinker"
    capabilities = (Capability("thinking"),)
    remembers = False
    go_on: asyncio.Event

    async def run(self, run: Run) -> str:
        await run.progress("is reading\nthe catalogue")
        await type(self).go_on.wait()
        return "done"


SHOWN: dict[str, dict[str, Any]] = {
    "http": {"thread_id": "t-1", "reply_to": "m-1", "status": "is reading the catalogue"},
    "slack": {"channel_id": "C1", "thread_ts": "1.5", "status": "is reading the catalogue"},
    "mattermost": {"channel_id": "town", "parent_id": "p-1"},
    "whatsapp": {"status": "read", "message_id": "wamid.1", "typing_indicator": {"type": "text"}},
}


@pytest.mark.parametrize("kind", SHOWN)
async def test_chat_shows_typing_until_the_reply(tmp_path: Path, kind: str) -> None:
    Thinker.go_on = asyncio.Event()
    of_kind = {"http": http_channel, "slack": slack_channel, "mattermost": mattermost_channel}
    async with FakeChats() as chats:
        given = of_kind.get(kind, whatsapp_channel)(chats) | {"agent": "thinker"}
        await chats.mattermost_says("p-1", "@mira hello")
        async with channels(tmp_path, Thinker, chat=given) as api:
            if kind == "http":
                await say(api, "chat", "m-1", "hello")
            if kind == "slack":
                await slack(api, mention())
            if kind == "whatsapp":
                await whatsapp(api, "wamid.1")
            await chats.until_typing(**SHOWN[kind])
            Thinker.go_on.set()
            [post] = await chats.until(1)
    assert "done" in json.dumps(post)


async def test_typing_that_a_chat_does_not_take_changes_nothing(tmp_path: Path) -> None:
    Thinker.go_on = asyncio.Event()
    async with FakeChats() as chats:
        limited = web.Response(status=429, headers={"Retry-After": "3600"})
        chats.typing_answers = [web.json_response({"ok": False, "error": "missing_scope"}), limited]
        async with channels(tmp_path, Thinker, chat=slack_channel(chats) | {"agent": "thinker"}) as api:
            for ts in ("1.3", "1.5"):  # to the first it is refused, by the second it is put off
                await slack(api, mention(ts))
                await chats.until_typing(thread_ts=ts)
            Thinker.go_on.set()
            posts = await chats.until(2)
            delayed = await api.mesh.log.query(EventFilter(event_type="reply.delayed"))
    assert [post["text"] for post in posts] == ["done", "done"]
    assert not delayed


class Clerk(Agent):
    """Asks its model."""

    agent_id = "clerk"
    capabilities = (Capability("clerking"),)
    remembers = False


class Delegating(Agent):
    """Has the clerk do it."""

    agent_id = "delegating"
    capabilities = (Capability("delegation"),)
    delegates_to = ("clerk",)
    remembers = False

    async def run(self, run: Run) -> str:
        return await run.delegate("clerk", run.task.text)


@pytest.mark.parametrize(
    ("agent", "after", "said"),
    [
        (None, 0.0, ["fallback", "reply"]),
        (None, 0.2, ["fallback", "reply"]),
        ("delegating", 0.0, ["fallback", "reply"]),
        (None, 3600.0, ["reply"]),
    ],
)
async def test_polite_fallback_is_said_once_while_no_model_answers(
    tmp_path: Path, agent: str | None, after: float, said: list[str]
) -> None:
    away = RateLimited("The provider wants us to wait", retry_after_seconds=0.05)
    model = ScriptedModel(*[away] * (MAX_TRIES * 3 + 1), "here I am")
    parking = {"park": True, "park_seconds": 0.1}
    async with FakeChats() as chats:
        given = http_channel(chats, agent=agent, persona=None if agent else PERSONA, fallback_after=after)
        given |= {"typing": False}
        async with channels(tmp_path, Clerk, Delegating, script=model, models=parking, chat=given) as api:
            await say(api, "chat", "m-1", "hi")
            posts = await chats.until(len(said))
            waits = await api.mesh.log.query(EventFilter(event_type="task.waiting"))
    away_at = [wait.time for wait in waits if wait.fields["kind"] == "provider"]
    assert len(away_at) > 2, "it was parked more than twice"
    assert [post["context"]["kind"] for post in posts] == said
    assert posts[-1]["content"] == "here I am"
    if after == 0.2:
        assert datetime.fromisoformat(posts[0]["timestamp"]) > away_at[0], "it could have answered by then"


@pytest.mark.parametrize("kind", ["mattermost", "whatsapp"])
async def test_polite_fallback_reaches_every_chat(tmp_path: Path, kind: str) -> None:
    away = RateLimited("The provider wants us to wait", retry_after_seconds=0.05)
    model = ScriptedModel(*[away] * (MAX_TRIES + 1), "here I am")
    parking = {"park": True, "park_seconds": 0.1}
    async with FakeChats() as chats:
        given = mattermost_channel(chats) if kind == "mattermost" else whatsapp_channel(chats)
        given |= {"agent": None, "persona": PERSONA, "fallback": "A moment, please.", "typing": False}
        async with channels(tmp_path, script=model, models=parking, chat=given) as api:
            if kind == "mattermost":
                await chats.linked(1)
                await chats.mattermost_says("m-1", "@mira hi")
            else:
                await whatsapp(api, "wamid.1")
            posts = await chats.until(2)
    texts = [post["message"] if kind == "mattermost" else post["text"]["body"] for post in posts]
    assert texts == ["A moment, please.", "here I am"]
