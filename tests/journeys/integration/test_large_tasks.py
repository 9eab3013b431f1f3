"""Large tasks: pages, streams, buffers and actors in memory are bounded by bytes, not by number alone."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from meshwright import Client
from meshwright.core.clock import SystemClock
from meshwright.core.events import Event
from meshwright.core.messages import Caller
from meshwright.edges.broker.topics import Topics
from meshwright.edges.http.errors import CALLER
from meshwright.edges.http.events import Streams
from meshwright.edges.http.sessions import CREDENTIALS, Sessions
from meshwright.edges.mqtt.outgoing_messages import Notices, Views
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.kernel import cells
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.stores.sqlite import SqliteStore
from meshwright.mesh.identity.auth import Credentials
from meshwright.mesh.identity.events import EventFeed
from meshwright.mesh.orchestration.settings import TenantsSettings
from meshwright.mesh.orchestration.tenants import Tenants
from tests.support.event_logs import LogOnFile, event, open_log
from tests.support.function_calls import FunctionCalls
from tests.support.http_mesh import Api, http_mesh
from tests.support.sample_actors import Diary, Line

MIB = 1024 * 1024
TEXT = "x" * 200_000


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path) as api:
        for _ in range(40):
            await api.submit(agent_id="gate", payload={"text": TEXT})
        yield api


# Pages


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_of_events_end_at_some_megabytes_and_go_on_behind_it(api: Api, order: str) -> None:
    newest = await api.mesh.log.last_seq()
    seen: list[int] = []
    bound = {"before_seq": newest + 1}
    while True:
        async with api.session.get("/events", params={"limit": 1000, "order": order, **bound}) as response:
            body = await response.read()
            page = await response.json()
        assert len(body) < 6 * MIB
        seen += [item["seq"] for item in page["items"]]
        if page["next_seq"] is None:
            break
        bound["before_seq" if order == "desc" else "after_seq"] = page["next_seq"]
    assert seen == sorted(range(1, newest + 1), reverse=order == "desc")


async def test_the_client_follows_the_pages(api: Api) -> None:
    async with Client(api.url) as remote:
        found = await remote.events(limit=1000, event_type="task.dispatched")
        last = await remote.events(limit=3)
    assert [event.payload["task"]["payload"]["text"] for event in found] == [TEXT] * 40
    assert len(last) == 3


# Streams


async def test_a_tail_that_is_not_read_holds_some_megabytes(tmp_path: Path) -> None:
    async with open_log(tmp_path) as kept, aclosing(kept.log.tail(EventFilter())) as tail:
        first = asyncio.ensure_future(anext(tail))
        await asyncio.sleep(0)
        await kept.write([event(0)])
        await first
        held = await held_after(pour(kept, 200))
        seen = [(await anext(tail)).seq for _ in range(200)]
    assert held < 12 * MIB
    assert seen == list(range(2, 202))


async def pour(kept: LogOnFile, count: int) -> None:
    for number in range(1, count + 1):
        await kept.write([event(number, payload={"text": f"{number}{TEXT}"})])


async def held_after(work: Any) -> int:
    """The bytes that are allocated by some work, and are still held after it."""
    tracemalloc.start()
    try:
        await work
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


class Anyone:
    """Takes any credentials."""

    async def authenticate(self, credentials: Credentials) -> Caller:
        return Caller()


async def nothing_stored() -> dict[str, int]:
    return {}


async def test_a_stream_that_nobody_reads_takes_no_more_events() -> None:
    taken, stuck = 0, asyncio.Event()

    async def events() -> AsyncGenerator[list[Event]]:
        nonlocal taken
        for seq in range(1, 301):
            taken += 1
            yield [event(seq, payload={"text": TEXT}).model_copy(update={"seq": seq})]

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and TEXT.encode() in message["body"]:
            stuck.set()
            await asyncio.Event().wait()  # a client that reads no more

    app = FastAPI()
    tenants = Tenants(
        TenantsSettings(), SystemClock(), lambda *told, **known: None, nothing_stored, max_open_tasks=100
    )
    app.state.sessions = Sessions(Anyone(), lambda: datetime.now(UTC), tenants=tenants, max_streams=1)
    shown = {CREDENTIALS: Credentials(), CALLER: Caller(), "app": app, "path": "/events/stream"}
    scope = {"type": "http", "asgi": {"spec_version": "2.4"}, **shown}
    serving = asyncio.create_task(Streams().respond(EventFeed(events(), is_whole=True))(scope, receive, send))
    async with asyncio.timeout(240):
        await stuck.wait()
    for _ in range(2000):
        await asyncio.sleep(0)
    serving.cancel()
    await asyncio.wait([serving])
    assert 0 < taken <= 8


async def test_what_waits_for_a_broker_is_bounded_and_says_what_it_drops() -> None:
    told: list[str] = []
    notices = Notices(lambda payload: told.append(payload.event_type))
    views = Views(Topics("mesh", "replies"), notices, kinds=None)

    async def hear() -> None:
        for number in range(500):
            views.add(event(number, payload={"text": f"{number}{TEXT}"}))

    assert await held_after(hear()) < 20 * MIB
    assert told == ["edge.dropped"]
    notices.close()


# Actors


async def test_idle_actors_are_dropped_by_the_size_of_their_states(tmp_path: Path) -> None:
    runtime = Runtime(SqliteStore.in_folder(tmp_path, durability="off"), max_active_bytes=MIB)
    runtime.register(ActorKind.from_class(Diary))
    await runtime.start()
    try:
        for number in range(50):
            await runtime.call(ActorRef("Diary", f"large-{number}"), "write", Line(text=TEXT))
        assert runtime.active <= 6
        for number in range(50):
            page = await runtime.call(ActorRef("Diary", f"large-{number}"), "write", Line(text="more"))
            assert page.lines == [TEXT, "more"]
        assert runtime.active <= 6
    finally:
        await runtime.stop()


class OpenDiary(Diary):
    """Has pending work from its first line on."""

    @property
    def has_pending_work(self) -> bool:
        return bool(self.state.lines)


async def test_actors_at_rest_are_bounded_by_number_and_those_with_work_stay(tmp_path: Path) -> None:
    runtime = Runtime(SqliteStore.in_folder(tmp_path, durability="off"), max_resting=10)
    for kind in (Diary, OpenDiary):
        runtime.register(ActorKind.from_class(kind))
    await runtime.start()
    try:
        for number in range(40):
            for kind in ("Diary", "OpenDiary"):
                await runtime.call(ActorRef(kind, f"{number}"), "write", Line(text="first"))
        assert 40 <= runtime.active <= 51, "40 with work, at most 10 at rest, and one under way"
        for number in range(40):
            page = await runtime.call(ActorRef("Diary", f"{number}"), "write", Line(text="more"))
            assert page.lines == ["first", "more"]
    finally:
        await runtime.stop()


async def test_actors_at_rest_cost_as_much_beside_many_with_work(tmp_path: Path) -> None:
    counts = {}
    for busy in (40, 800):
        store = SqliteStore.in_folder(tmp_path / f"{busy}", durability="off")
        runtime = Runtime(store, max_resting=10)
        for kind in (Diary, OpenDiary):
            runtime.register(ActorKind.from_class(kind))
        await runtime.start()
        try:
            for number in range(busy):
                await runtime.call(ActorRef("OpenDiary", f"{number}"), "write", Line(text="first"))
            with FunctionCalls(cells) as calls:
                for number in range(400):
                    await runtime.call(ActorRef("Diary", f"{number}"), "write", Line(text="first"))
        finally:
            await runtime.stop()
        counts[busy] = calls.count
    assert counts[800] <= 2 * counts[40]


async def test_ended_tasks_do_not_stay_in_memory_for_their_payloads(tmp_path: Path) -> None:
    async with http_mesh(tmp_path) as api:
        tracemalloc.start()
        try:
            held = []
            for number in range(600):
                await api.finished(agent_id="echo", payload={"text": TEXT})
                if number in (299, 599):
                    held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert held[1] - held[0] < 20 * MIB, "300 tasks of 200 kB more are 57 MiB if one copy of each stays"
        assert held[1] < 200 * MIB
