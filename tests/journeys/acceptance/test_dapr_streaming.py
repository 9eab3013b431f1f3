"""Answers as they are written, on a whole mesh on Dapr: from a worker to the clients of the front."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshwright.client import ENDINGS
from tests.run import DAPR
from tests.support.fake_openai import FakeOpenAI, Fault
from tests.support.running_mesh import MESH, ROOT, RunningMesh, mesh_up

pytestmark = pytest.mark.needs(*DAPR)
UP = [*MESH, "up", "--host", "dapr", "--per-agent"]
A_SECOND = 10  # pieces, at most
Events = list[dict[str, Any]]


async def test_words_of_a_worker_reach_the_clients_of_the_front_while_the_model_writes(
    tmp_path: Path,
) -> None:
    (tmp_path / "actors").mkdir()
    shutil.copy(ROOT / "actors" / "simple_agent.py", tmp_path / "actors")
    async with FakeOpenAI() as fake:
        names = {"LITELLM_BASE_URL": fake.url, "LITELLM_API_KEY": "sk-fake", "MESH_MODELS__ADAPTER": "http"}
        names["MESH_AGENTS__DIR"] = str(tmp_path / "actors")
        async with mesh_up(tmp_path / "data", up=UP, **names) as running:
            await a_slow_answer_comes_in_pieces_whoever_leaves(running, fake)
            await a_fast_answer_comes_in_few(running, fake)
        assert len(fake.calls) == 2
        assert not fake.abandoned.is_set()


async def a_slow_answer_comes_in_pieces_whoever_leaves(running: RunningMesh, fake: FakeOpenAI) -> None:
    text = " ".join(f"word-{number}" for number in range(60))
    fake.replies.append({"content": text})
    fake.faults.append(Fault(kind="drip", seconds=0.05))
    stays, leaves = await followed(running, fake, leave_at=2)
    pieces = pieces_of(stays)
    assert joined(pieces) == text == text_of(stays)
    assert len(pieces) >= A_SECOND
    assert few_enough(pieces)
    assert leaves[-1] in pieces[:2]
    assert stays.index(pieces[-1]) < [event["event_type"] for event in stays].index("model.called")


async def a_fast_answer_comes_in_few(running: RunningMesh, fake: FakeOpenAI) -> None:
    text = " ".join(f"word-{number}" for number in range(5000))
    fake.replies.append({"content": text})
    stays, _ = await followed(running, fake, leave_at=1)
    pieces = pieces_of(stays)
    assert joined(pieces) == text == text_of(stays)
    assert few_enough(pieces)


async def followed(running: RunningMesh, fake: FakeOpenAI, *, leave_at: int) -> tuple[Events, Events]:
    """Have two clients follow a task; what each saw. The second leaves with its so many-th piece."""
    fake.gate = asyncio.Barrier(2)  # no word is written before both are there
    task_id = await running.submit("Count, please.")
    there = [asyncio.Event(), asyncio.Event()]
    following = [
        asyncio.create_task(follow(running, task_id, there[0])),
        asyncio.create_task(follow(running, task_id, there[1], leave_at=leave_at)),
    ]
    async with asyncio.timeout(240):
        for each in there:
            await each.wait()
        await fake.gate.wait()
        fake.gate = None
        stays, leaves = await asyncio.gather(*following)
    return stays, leaves


async def follow(
    running: RunningMesh, task_id: str, there: asyncio.Event, *, leave_at: int | None = None
) -> Events:
    """The events of a task as one client sees them, to the end or until it leaves."""
    seen: Events = []
    async with aiohttp.ClientSession() as session:  # its own connection, which is cut at the end
        async for event in events_of(session, f"{running.url}/tasks/{task_id}/events"):
            seen.append(event)
            there.set()
            if event["event_type"] in ENDINGS or len(pieces_of(seen)) == leave_at:
                break
    return seen


async def events_of(session: aiohttp.ClientSession, url: str) -> AsyncIterator[dict[str, Any]]:
    async with session.get(url, headers={"Accept": "text/event-stream"}) as response:
        async for line in response.content:
            name, _, value = line.decode().rstrip("\r\n").partition(": ")
            if name == "data":
                yield json.loads(value)


def pieces_of(events: Events) -> Events:
    return [event for event in events if event["event_type"] == "model.delta"]


def joined(pieces: Events) -> str:
    """The text of an answer, of which no piece may be missing, twice or out of its turn."""
    assert [piece["payload"]["n"] for piece in pieces] == list(range(1, len(pieces) + 1))
    return "".join(piece["payload"]["text"] for piece in pieces)


def few_enough(pieces: Events) -> bool:
    """Whether they are no more than ten a second, beside the first and the last."""
    first, last = (datetime.fromisoformat(pieces[at]["time"]) for at in (0, -1))
    return len(pieces) <= A_SECOND * (last - first).total_seconds() + 2


def text_of(events: Events) -> str:
    """The answer, by the event that ends the task."""
    assert events[-1]["event_type"] == "task.succeeded"
    return events[-1]["payload"]["result"]["text"]
