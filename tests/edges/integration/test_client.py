"""One client, three ways: over HTTP, on a mesh in this process, and blocking."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest
from pydantic import SecretStr

from meshwright import BlockingClient, Client
from meshwright.client import ClientClosed
from meshwright.core.errors import (
    Draining,
    IdempotencyConflict,
    InvalidInput,
    MeshError,
    NotFound,
    TooLarge,
    Unauthenticated,
)
from meshwright.mesh.app import build_mesh
from meshwright.mesh.identity.settings import ADMIN_PREFIX
from tests.support.http_mesh import Api, Echo, http_mesh
from tests.support.settings import load_settings

ADMIN = f"{ADMIN_PREFIX}{'x' * 32}"


@pytest.fixture(params=["http", "in process"])
async def mesh(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Client, Api]]:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(
            http_mesh(tmp_path, admin_token=SecretStr(ADMIN), store="memory")
        )
        client = Client(api.url, ADMIN) if request.param == "http" else Client.local(api.mesh)
        yield await stack.enter_async_context(client), api


Ready = tuple[Client, Api]


async def test_a_task_is_asked_followed_and_listed(mesh: Ready) -> None:
    client, _ = mesh
    outcome = await client.ask("echo", "Hello")
    assert (outcome.status, outcome.text) == ("succeeded", "you said: Hello")
    types = [event.event_type async for event in client.follow(outcome.task_id)]
    assert (types[0], types[-1]) == ("task.accepted", "task.succeeded")
    assert (await client.outcome(outcome.task_id)) == outcome == (await client.task(outcome.task_id)).outcome
    [listed] = await client.tasks(status="succeeded", task_id=outcome.task_id[-6:])
    assert listed.task_id == outcome.task_id
    assert [event.event_type for event in await client.events(task_id=outcome.task_id)] == types


async def test_a_client_that_is_closed_says_so(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, store="memory") as api:
        async with Client(api.url) as client:
            await client.tasks()
            schedules = client.resource("schedules")
        for call in (client.tasks, client.is_alive, schedules.list, lambda: client.ask("echo", "Hello")):
            with pytest.raises(ClientClosed, match=r"The client of .* is closed.*make another"):
                await call()


async def test_a_task_in_progress_is_followed_and_cancelled(mesh: Ready) -> None:
    client, _ = mesh
    receipt = await client.submit(agent_id="gate", priority=7)
    async with aclosing(client.follow(receipt.task_id)) as events:
        async for event in events:
            if event.event_type == "task.started":
                await client.cancel(receipt.task_id)
            last = event
    assert last.event_type == "task.cancelled"
    assert (await client.task(receipt.task_id)).priority == 7


async def test_the_stream_goes_on_from_now_and_is_left_at_any_time(mesh: Ready) -> None:
    client, _ = mesh
    before = await client.ask("echo", "before")

    async def first() -> str | None:
        async with aclosing(client.stream(event_type="task.accepted")) as events:
            return (await anext(events)).task_id

    watching = asyncio.create_task(first())
    while not watching.done():
        after = await client.ask("echo", "after")
    assert await watching != before.task_id
    assert after.success


async def test_a_key_of_idempotency_makes_one_task(mesh: Ready) -> None:
    client, _ = mesh
    first = await client.submit("echo", "Hello", idempotency_key="order-7")
    assert (await client.submit("echo", "Hello", idempotency_key="order-7")).task_id == first.task_id
    with pytest.raises(IdempotencyConflict):
        await client.submit("echo", "Goodbye", idempotency_key="order-7")


@pytest.mark.parametrize(
    ("kind", "field", "call"),
    [
        (NotFound, "task_id", lambda client: client.task("nope")),
        (NotFound, "capability", lambda client: client.scores("painting")),
        (InvalidInput, "priority", lambda client: client.submit("echo", "x", priority=11)),
        (TooLarge, "body", lambda client: client.submit("echo", "x" * 300_000)),
        (InvalidInput, "since", lambda client: client.costs(since="yesterday")),
    ],
)
async def test_a_refusal_is_the_meshs_own_error(
    mesh: Ready, kind: type[MeshError], field: str, call: Callable[[Client], Awaitable[object]]
) -> None:
    client, _ = mesh
    with pytest.raises(kind) as raised:
        await call(client)
    assert raised.value.field == field


async def test_a_route_that_only_another_version_has_is_said_to_be_so(mesh: Ready) -> None:
    client, _ = mesh
    with pytest.raises(NotFound, match=r"has no GET /of-tomorrow\. It may be older or newer than"):
        await client.call("GET", "/of-tomorrow")


async def test_what_else_the_mesh_knows_is_typed(mesh: Ready) -> None:
    client, _ = mesh
    await client.ask("echo", "Hello")
    assert [agent.agent_id for agent in await client.agents() if agent.kind == "agent"] == ["echo", "gate"]
    assert (await client.scores("echoing"))[0].agent_id == "echo"
    assert await client.budgets() == []
    assert (await client.costs("model", since="24h")).by == "model"
    assert "quality" in await client.models()
    assert "offline" in (await client.complete("Hello", model="fast")).content
    assert await client.is_alive()


async def test_keys_are_managed_with_the_admin_token(mesh: Ready) -> None:
    client, api = mesh
    assert not await client.keys_required()
    made = await client.create_key("echo", budget="5.00/day")
    assert [key.key_id for key in await client.keys()] == [made.key_id]
    async with Client(api.url, made.key) as holder, Client(api.url) as nobody:
        assert (await holder.ask("echo", "Hello")).success
        with pytest.raises(Unauthenticated):
            await nobody.tasks()
    await client.revoke_key(made.key_id)
    assert await client.keys_required()
    assert await client.open_keys() == 0 and not await client.keys_required()


async def test_what_parts_keep_is_changed_by_their_verbs(mesh: Ready) -> None:
    client, _ = mesh
    schedules = client.resource("schedules")
    task = {"agent_id": "echo", "payload": {"text": "hi"}}
    assert (await schedules.create(id="tick", every_seconds=3600, task=task))["status"] == "active"
    assert (await schedules.put("tick", every_seconds=60, task=task))["every_seconds"] == 60
    paused = await schedules.do("pause", "tick")
    assert paused is not None and paused["status"] == "paused"
    assert [found["id"] for found in await schedules.list()] == ["tick"]
    with pytest.raises(InvalidInput, match="schedules have no verb 'stop'"):
        await schedules.do("stop", "tick")
    await schedules.delete("tick")
    with pytest.raises(NotFound):
        await schedules.get("tick")
    with pytest.raises(NotFound, match="No part of the mesh keeps 'pages'") as error:
        client.resource("pages")
    assert "agent_configs" in (error.value.remedy or "")


async def test_long_lists_are_read_page_by_page(mesh: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = mesh
    task_ids = [(await client.ask("echo", str(number))).task_id for number in range(3)]
    whole = await client.events(task_id=task_ids[0])
    monkeypatch.setattr("meshwright.edges.client.client.MAX_EVENTS", 2)
    monkeypatch.setattr("meshwright.edges.client.client.MAX_TASKS", 2)
    assert len(whole) > 4 and await client.events(task_id=task_ids[0]) == whole
    assert await client.events(task_id=task_ids[0], limit=3) == whole[-3:]
    assert [task.task_id for task in await client.tasks()] == task_ids[::-1]
    assert await client.last_seq() >= (whole[-1].seq or 0)


async def test_a_client_in_process_hears_that_its_mesh_has_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshwright.edges.client.transports.RETRY_SECONDS", 0.0)
    running = build_mesh(load_settings(tmp_path, store="memory", model="offline"), agents=[Echo])
    async with running, Client.local(running) as client:
        await client.ask("echo", "Hello")
    with pytest.raises(Draining):
        await client.submit("echo", "Hello")


def test_the_blocking_client_runs_a_mesh_of_its_own(tmp_path: Path) -> None:
    running = build_mesh(load_settings(tmp_path, store="memory", model="offline"), agents=[Echo])
    with BlockingClient.local(running) as mesh:
        receipt = mesh.submit("echo", "Hello")
        types = [event.event_type for event in mesh.follow(receipt.task_id)]
        assert types[-1] == "task.succeeded"
        assert mesh.outcome(receipt.task_id).text == "you said: Hello"
        with pytest.raises(NotFound):
            mesh.task("nope")
        for event in mesh.stream(after_seq=0):  # left in the middle
            assert event.seq
            break
    with pytest.raises(ClientClosed, match=r"The client of .* is closed"):
        mesh.tasks()


async def test_the_blocking_client_talks_over_http(tmp_path: Path) -> None:
    def use(url: str) -> str:
        with BlockingClient(url) as mesh:
            return mesh.ask("echo", "Hello").text

    async with http_mesh(tmp_path, store="memory") as api:
        assert await asyncio.to_thread(use, api.url) == "you said: Hello"
