"""Tools that are not async: threads of each agent's own, limits of time, and threads that do not end."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, tool
from meshwright.core.errors import ConfigError
from meshwright.core.events import Event
from meshwright.core.messages import Outcome
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for, tool_call
from meshwright.tools import FileTools

SHARED_THREADS = min(32, (os.cpu_count() or 1) + 4)  # of the executor that everything else uses


class Sleeper(Agent):
    """Blocks in its tools until the test opens them."""

    agent_id = "sleeper"
    capabilities = (Capability("sleeping"),)
    max_concurrency = SHARED_THREADS
    opened: threading.Event
    names: set[str]

    @tool(idempotent=True)
    def sleep(self) -> str:
        """Sleep until the test ends it."""
        self.names.add(threading.current_thread().name)
        self.opened.wait()
        return "slept"

    @tool(timeout=0.5)
    def nap(self) -> str:
        """Sleep too long."""
        self.opened.wait()
        return "napped"

    @tool(idempotent=True, timeout=0.5)
    async def dawdle(self) -> str:
        """Wait too long."""
        await asyncio.Event().wait()
        return "waited"

    @tool(idempotent=True)
    def blink(self) -> str:
        """Take no time."""
        return "blinked"


class Reader(Agent):
    """Reads files."""

    agent_id = "reader"
    capabilities = (Capability("reading"),)
    toolsets = (FileTools,)


def sleeper(**fields: Any) -> type[Sleeper]:
    return type("TestSleeper", (Sleeper,), {"opened": threading.Event(), "names": set(), **fields})


def asks_for(name: str) -> Callable[[Any], Any]:
    """A model that calls a tool once, then answers with its result."""

    def reply(request: Any) -> Any:
        last = request.messages[-1]
        if last.role == "tool":
            return ScriptedModel(last.content)._reply(request)
        return ScriptedModel(tool_call(name))._reply(request)

    return reply


async def until(mesh: MeshUnderTest, what: Callable[[Event], bool]) -> Event:
    """Wait for an event."""
    found: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

    def hear(event: Event) -> None:
        if what(event) and not found.done():
            found.set_result(event)

    stop = mesh.mesh.runtime.listen("#", hear)
    for event in mesh.events():
        hear(event)
    try:
        return await found
    finally:
        stop()


def overran(ended: bool) -> Callable[[Event], bool]:
    return lambda event: event.event_type == "tool.overran" and event.payload["ended"] is ended


async def test_blocked_tools_of_one_agent_leave_the_others_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    blocked, model = sleeper(), ScriptedModel()
    model.replies(*[asks_for("sleep")] * 2 * SHARED_THREADS, to="sleeper")
    model.replies(tool_call("list_files"), "done", to="reader")
    async with mesh_for(blocked, Reader, model=model, tools={"workspace": tmp_path}) as mesh:
        try:
            receipts = [
                await mesh.submit(agent_id="sleeper", payload={"text": "Sleep."})
                for _ in range(SHARED_THREADS)
            ]
            async with asyncio.timeout(240):
                while len(blocked.names) < SHARED_THREADS:
                    await asyncio.sleep(0.01)
                assert (await mesh.ask("reader", "What is there?")).text == "done"
            assert mesh.events("tool.called").names == ["list_files"]
        finally:
            blocked.opened.set()
        outcomes = [await mesh.outcome(receipt.task_id) for receipt in receipts]
        assert {outcome.text for outcome in outcomes} == {"slept"}
    assert all(name.startswith("sleeper:sleep:") for name in blocked.names)


async def told(mesh: MeshUnderTest, model: ScriptedModel, *names: str) -> tuple[Outcome, list[str]]:
    """Have the agent call tools, and return what its model was told of each."""
    model.replies(*[tool_call(name) for name in names], "done")
    outcome = await mesh.ask("sleeper", "Do it.")
    return outcome, [message.content for message in model.requests[-1].messages if message.role == "tool"]


async def test_a_tool_that_takes_too_long_is_given_up_and_its_thread_reported() -> None:
    agent, model = sleeper(max_concurrency=1), ScriptedModel()
    async with mesh_for(agent, model=model) as mesh:
        try:
            outcome, results = await told(mesh, model, "nap", "blink", "dawdle")
            assert outcome.text == "done"
            assert "nap did not end within 0.5 seconds and was given up" in results[0]
            assert "may still take effect" in results[0]
            assert "all 1 threads of sleeper are held by calls that were given up" in results[1]
            assert "(nap)" in results[1]
            assert "dawdle did not end within 0.5 seconds" in results[2]
            assert "take effect" not in results[2]
            [running] = mesh.events("tool.overran")
            assert (running.task_id, running.agent_id) == (outcome.task_id, "sleeper")
            assert running.payload["tool"] == "nap"
            assert running.payload["ended"] is False
            assert running.payload["seconds"] >= 0.5
        finally:
            agent.opened.set()
        ended = await until(mesh, overran(ended=True))
        assert ended.payload["seconds"] >= running.payload["seconds"]
        assert (await told(mesh, model, "blink"))[1] == ["blinked"]


async def test_a_thread_that_outlives_its_task_is_reported() -> None:
    agent = sleeper()
    async with mesh_for(agent, model=ScriptedModel(tool_call("sleep"))) as mesh:
        try:
            receipt = await mesh.submit(agent_id="sleeper", payload={"text": "Sleep."})
            async with asyncio.timeout(240):
                while not agent.names:
                    await asyncio.sleep(0.01)
            await mesh.mesh.get(Tasks).cancel(receipt.task_id)
            assert (await mesh.outcome(receipt.task_id)).status == "cancelled"
            event = await until(mesh, overran(ended=False))
            assert event.task_id == receipt.task_id
        finally:
            agent.opened.set()
        await until(mesh, overran(ended=True))


async def test_the_setting_limits_tools_that_declare_no_timeout() -> None:
    agent, model = sleeper(), ScriptedModel()
    async with mesh_for(agent, model=model, tools={"timeout_seconds": 0.5}) as mesh:
        try:
            _, results = await told(mesh, model, "sleep")
        finally:
            agent.opened.set()
        assert "sleep did not end within 0.5 seconds" in results[0]
        await until(mesh, overran(ended=True))


def test_a_timeout_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="has a timeout of 0"):

        @tool(timeout=0)
        def never() -> str:
            """Never end."""
            return ""


class Broken(Agent):
    """Has a tool with a fault."""

    agent_id = "broken"
    capabilities = (Capability("breaking"),)

    @tool
    def look(self, key: str) -> str:
        """Look something up."""
        return {"a": "b"}[key]


async def test_a_failed_tool_names_the_authors_line_and_leaves_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    line = look_line()
    with caplog.at_level(logging.WARNING):
        async with mesh_for(
            Broken, model=ScriptedModel(tool_call("look", key="password='hunter2'"), "done")
        ) as mesh:
            await mesh.ask("broken", "Look.")
            [called] = mesh.events("tool.called").payloads
    assert f"(unit/test_tool_threads.py:{line})" in called["error"]
    [record] = [record for record in caplog.records if record.name == "meshwright.tools"]
    assert record.getMessage() == f"tool look failed at {__file__}:{line}"
    assert record.exc_info and isinstance(record.exc_info[1], KeyError)
    assert "hunter2" not in called["error"]
    assert "hunter2" not in called["arguments"]


def look_line() -> int:
    return Broken.look.__code__.co_firstlineno + 3
