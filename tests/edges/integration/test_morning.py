"""The message of the morning: once a day at its time, also after restarts, with a link on each line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Run, TaskRequest
from meshwright.core.errors import ConfigError
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ManualClock, ScriptedModel
from tests.support.chat_mesh import http_channel, mattermost_channel, slack_channel
from tests.support.fake_chats import FakeChats
from tests.support.http_mesh import Echo
from tests.support.settings import load_settings

MORNING = {"at": "07:30", "zone": "Europe/Berlin", "to": "ops"}
PAGE = "https://mesh.example.com"
MINUTE = 60


class Sour(Agent):
    """Fails with an error of its own for each text."""

    agent_id = "sour"
    capabilities = (Capability("sourness"),)
    remembers = False

    async def run(self, run: Run) -> str:
        raise type(run.task.text, (ValueError,), {})("not today")


@asynccontextmanager
async def living(
    folder: Path, clock: ManualClock, channel: dict[str, Any], **page: str
) -> AsyncIterator[Mesh]:
    """A mesh by that clock, with that channel."""
    settings = load_settings(folder, channels={"ops": channel}, page=page, models={"park": False})
    mesh = build_mesh(settings, project=folder, agents=[Echo, Sour], model=ScriptedModel(), clock=clock)
    await mesh.start()
    try:
        yield mesh
    finally:
        await mesh.stop(drain_seconds=0)


async def told(mesh: Mesh, event_type: str, count: int = 1) -> None:
    """Wait until the log has so many events of the type."""
    async with (
        asyncio.timeout(60),
        aclosing(mesh.log.tail(EventFilter(event_type=event_type, after_seq=0))) as events,
    ):
        for _ in range(count):
            await anext(events)


async def fail(mesh: Mesh, *names: str) -> None:
    """Have tasks fail with errors of these types."""
    for name in names:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="sour", payload={"text": name}))
        await mesh.get(Tasks).outcome(receipt.task_id)


async def test_it_is_posted_once_a_day_and_after_a_restart(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 11, 29, 6, 20, tzinfo=UTC))  # 07:20 in Berlin
    async with FakeChats() as chats:
        channel = http_channel(chats) | {"morning": MORNING}
        async with living(tmp_path, clock, channel, url=PAGE) as mesh:
            await fail(mesh, "Rotten", "Rotten")
            await clock.advance(9 * MINUTE)
            assert chats.posts == []
            await clock.advance(2 * MINUTE)
            await told(mesh, "story.posted")
        [first] = chats.posts
        assert (first["thread_id"], first["sender"], first["context"]) == ("ops", "echo", {"kind": "morning"})
        assert first["content"].splitlines() == [
            "Sun 07:20 to Sun 07:30 (Europe/Berlin): no calls of models",
            "- Sun 07:20: 2 tasks of sour failed: Rotten",
            f"  {PAGE}/#/tasks?status=failed&error=Rotten&agent_id=sour&since=2026-11-29T06%3A20%3A00Z",
        ]
        async with living(tmp_path, clock, channel) as mesh:  # the same morning: it is not posted again
            await clock.advance(2 * MINUTE)
            await fail(mesh, *(f"E{number}" for number in range(25)))
        later = ManualClock(datetime(2026, 11, 30, 9, 0, tzinfo=UTC))  # it was away when the next one was due
        async with living(tmp_path, later, channel) as mesh:
            await told(mesh, "story.posted", 2)
        [_, second] = chats.posts
        lines = second["content"].splitlines()
        assert lines[0].startswith("Sun 07:30 to Mon 07:30 ")
        assert len(lines) == 22 and lines[-1] == "5 more: mesh story --since 2026-11-29T06:30:00Z"
        assert PAGE not in second["content"] and second["id"] != first["id"]


@pytest.mark.parametrize("kind", ["slack", "mattermost", "http"])
async def test_one_that_arrived_without_a_word_is_not_posted_twice(tmp_path: Path, kind: str) -> None:
    clock = ManualClock(datetime(2026, 11, 29, 7, 29, tzinfo=UTC))
    kinds = {"slack": slack_channel, "mattermost": mattermost_channel, "http": http_channel}
    async with FakeChats() as chats:
        chats.lost = 1
        morning = {"at": "07:30", "to": "town"}
        async with living(tmp_path, clock, kinds[kind](chats) | {"morning": morning}) as mesh:
            while not await mesh.log.query(EventFilter(event_type="story.posted")):
                await clock.advance(10)
        assert len(chats.posts) == 1 and chats.lost == 0


def test_a_morning_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for morning, problem in (
        ({"at": "7:30", "to": "x"}, "at"),
        ({"at": "07:30", "to": "x", "zone": "Mars"}, "no time zone 'Mars'"),
    ):
        slack = {"kind": "slack", "agent": "echo", "secret": "s", "token": "t", "morning": morning}
        with pytest.raises(ConfigError, match=problem):
            load_settings(tmp_path, channels={"ops": slack})
