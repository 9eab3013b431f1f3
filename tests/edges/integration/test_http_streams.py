"""Streams give every event once, in order, from where the client left off, and end when they should."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshwright import Client
from meshwright.edges.http.server import serving
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from tests.agents.unit.test_run_streaming import Said, Typist, Writer
from tests.support.http_mesh import Api, http_mesh
from tests.support.mqtt_broker import client, mosquitto
from tests.support.settings import load_settings


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path) as api:
        yield api


async def test_a_stream_follows_a_task_to_its_end(api):
    task_id = await api.submit(agent_id="gate")
    async with api.stream(f"/tasks/{task_id}/events") as stream:
        first = await stream.event()
        assert first["event_type"] == "task.accepted"
        api.gate.set()
        events = [first, *await stream.rest()]
    assert events[-1]["event_type"] == "task.succeeded"
    assert events[-1]["payload"]["result"]["text"] == "opened"
    seqs = [event["seq"] for event in events]
    assert seqs == sorted(set(seqs))
    assert {event["task_id"] for event in events} == {task_id}


async def test_a_stream_goes_on_behind_the_last_event_that_was_seen(api):
    task_id = await api.finished(agent_id="echo")
    async with api.stream(f"/tasks/{task_id}/events") as stream:
        events = await stream.rest()
    for seen in range(len(events) - 1):
        async with api.stream(f"/tasks/{task_id}/events", last_id=events[seen]["seq"]) as stream:
            assert await stream.rest() == events[seen + 1 :]


async def test_whoever_has_seen_the_end_is_told_not_to_come_back(api):
    task_id = await api.finished(agent_id="echo")
    async with api.stream(f"/tasks/{task_id}/events") as stream:
        events = await stream.rest()
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(events[-1]["seq"])}
    async with api.session.get(f"/tasks/{task_id}/events", headers=headers) as response:
        assert response.status == 204


async def test_a_stream_waits_for_an_end_that_the_log_gets_after_the_outcome(api, tmp_path):
    task_id = await api.finished(agent_id="echo")
    filter_ = EventFilter(task_id=task_id, event_type="task.succeeded")
    (end,) = await api.mesh.log.query(filter_)
    with closing(sqlite3.connect(tmp_path / ".mesh" / "mesh.db")) as file, file:
        file.execute("DELETE FROM events WHERE seq = ?", (end.seq,))
    async with api.stream(f"/tasks/{task_id}/events") as stream:
        await api.mesh.log.append([end.model_copy(update={"id": f"{end.id}-late", "seq": None})])
        events = await stream.rest()
    assert [event["event_type"] for event in events if event["seq"] >= end.seq] == ["task.succeeded"]


async def test_the_stream_of_the_mesh_resumes_and_filters(api):
    task_ids = [await api.finished(agent_id="echo") for _ in range(3)]
    async with api.stream("/events/stream", last_id=0, event_type="task.succeeded") as stream:
        seen = [await stream.event() for _ in range(3)]
        assert [event["task_id"] for event in seen] == task_ids
        task_ids.append(await api.finished(agent_id="echo"))
        assert (await stream.event())["task_id"] == task_ids[-1]
    async with api.stream("/events/stream", last_id=seen[1]["seq"], event_type="task.succeeded") as stream:
        assert [(await stream.event())["task_id"] for _ in range(2)] == task_ids[2:]


@pytest.mark.parametrize("value", ["abc", "-1", "1.5", "9" * 30, "9" * 5000])
async def test_a_last_event_id_that_is_none_of_ours_is_refused(api, value):
    for path in ("/events/stream", f"/tasks/{await api.finished(agent_id='echo')}/events"):
        headers = {"Accept": "text/event-stream", "Last-Event-ID": value}
        status, problem = await api.call("GET", path, headers=headers)
        assert (status, problem["field"]) == (422, "Last-Event-ID")


async def test_a_client_that_leaves_leaves_nothing_behind(api):
    readers = api.mesh.log.readers
    async with api.stream("/events/stream") as stream:
        await api.finished(agent_id="echo")
        assert await stream.event()
        assert api.mesh.log.readers == readers + 1
    await no_more_readers(api, readers)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "event-stream"]


async def no_more_readers(api: Api, readers: int) -> None:
    async with asyncio.timeout(240):
        while api.mesh.log.readers > readers:
            await asyncio.sleep(0.01)


# What a model writes, while it writes


@asynccontextmanager
async def writing(project: Path, *answer: Said, **settings: Any) -> AsyncIterator[Api]:
    """A mesh whose model writes this answer."""
    chosen = load_settings(project, durability="normal", **settings)
    mesh = build_mesh(chosen, project=project, agents=[Writer], model=Typist(*answer))
    async with (
        mesh,
        serving(mesh, "127.0.0.1", 0) as server,
        aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=20)) as session,
        Client(server.url) as remote,
    ):
        yield Api(mesh, session, remote, asyncio.Event(), server.url)


BEGINNING = "The beginning of a longer answer,"


@pytest.mark.parametrize("path", ["/tasks/t1/events", "/events/stream", "/events/stream?task_id=t1"])
async def test_words_reach_a_stream_while_the_model_writes(tmp_path, path):
    begun, opened = asyncio.Event(), asyncio.Event()
    async with writing(tmp_path, [begun.wait, BEGINNING, opened.wait, " and its end."]) as api:
        await api.submit(agent_id="writer", task_id="t1", payload={"text": "Write."})
        async with api.stream(path, last_id=0) as stream:
            blocks = [await stream.block()]
            begun.set()
            while (blocks[-1]["event"]) != "model.delta":
                blocks.append(await stream.block())
            assert "model.called" not in [block["event"] for block in blocks]
            opened.set()
            while blocks[-1]["event"] != "task.succeeded":
                blocks.append(await stream.block())
        async with api.stream("/tasks/t1/events") as later:
            assert "model.delta" not in [event["event_type"] for event in await later.rest()]
    texts = [json.loads(each["data"])["payload"]["text"] for each in blocks if each["event"] == "model.delta"]
    assert texts == [BEGINNING, " and its end."]
    assert all(("id" in block) == (block["event"] != "model.delta") for block in blocks)


async def test_whoever_comes_in_the_middle_sees_what_comes_from_then_on(tmp_path):
    opened = asyncio.Event()
    async with writing(tmp_path, [BEGINNING, opened.wait, " and its end."]) as api:
        task_id = await api.submit(agent_id="writer", payload={"text": "Write."})
        async with Client(api.url) as remote:
            seen = []
            async for event in remote.follow(task_id):
                seen.append(event)
                if event.event_type == "task.started":
                    opened.set()
    texts = [event.payload["text"] for event in seen if event.event_type == "model.delta"]
    assert texts[-1] == " and its end."
    assert seen[-1].payload["result"]["text"] == BEGINNING + " and its end."


async def test_a_client_that_goes_away_costs_the_answer_nothing(tmp_path):
    left, opened = asyncio.Event(), asyncio.Event()
    async with writing(tmp_path, [BEGINNING, left.wait, *["more "] * 100, opened.wait, "end."]) as api:
        readers = api.mesh.log.readers
        async with api.stream("/events/stream") as stream:
            task_id = await api.submit(agent_id="writer", payload={"text": "Write."})
            while "id" in await stream.block():
                pass
        left.set()
        await no_more_readers(api, readers)
        opened.set()
        outcome = await api.mesh.get(Tasks).outcome(task_id)
    assert outcome.text == BEGINNING + "more " * 100 + "end."


@pytest.mark.needs("mosquitto")
async def test_words_reach_a_tasks_topic_at_the_broker(tmp_path):
    opened = asyncio.Event()
    async with (
        mosquitto(tmp_path / "broker") as broker,
        writing(tmp_path, [BEGINNING, opened.wait, " and its end."], mqtt_url=broker.url) as api,
        client(broker) as caller,
    ):
        await caller.subscribe("mesh/default/tasks/t1/progress")
        await api.submit(agent_id="writer", task_id="t1", payload={"text": "Write."})
        while (event := await caller.document())["event_type"] != "model.delta":
            pass
        assert event["payload"]["text"] == BEGINNING
        opened.set()
        while (event := await caller.document())["event_type"] != "model.delta":
            pass
        assert event["payload"]["text"] == " and its end."
