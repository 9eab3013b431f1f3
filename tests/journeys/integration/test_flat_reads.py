"""A task costs the same whatever was done before: SQLite's steps, counted at 500 tasks and at 20,000."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.grown import grow
from meshwright import Agent, Capability, Run
from meshwright.engine.events.inbox import Inbox
from meshwright.engine.events.task_lists import EndedTask, ended_tasks
from meshwright.mesh.orchestration.status import StatusReader
from meshwright.money.spending import read_activity
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import Api, http_mesh

STEPS_AT_ONCE = 20
FEW, MANY = 500, 20_000
MAX_MORE = {"view": 3_000, "events": 3_000, "steps": 5_000, "tree": 3_000, "stream": 3_000, "summaries": 500}
"""An index is a level deeper, and the newest block may be fuller."""
QUIET_LOOKS = 10


class Writer(Agent):
    """Asks a model."""

    agent_id = "writer"
    capabilities = (Capability("writing"),)
    prompt_text = "Write."


class Steps:
    """Counts the steps of SQLite's machine, and the summaries of blocks, that this process reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._count = 0
        self._searches: list[str] = []
        connect = sqlite3.connect

        def counted(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **options)
            connection.set_progress_handler(self._add, STEPS_AT_ONCE)
            connection.set_trace_callback(self._note)
            return connection

        monkeypatch.setattr(sqlite3, "connect", counted)

    def _add(self) -> int:
        self._count += STEPS_AT_ONCE
        return 0

    def _note(self, statement: str) -> None:
        if statement.startswith("SELECT") and ("event_blocks" in statement or "event_keys" in statement):
            self._searches.append(statement.replace("Inf", "9e999"))

    def summaries(self, store: Path) -> int:
        """The rows of blocks that searches have read since the last time."""
        searches = [*self._searches]
        with closing(sqlite3.connect(store)) as connection:
            connection.set_trace_callback(None)
            rows = sum(len(connection.execute(search).fetchall()) for search in searches)
        self._searches.clear()
        return rows

    async def rest(self) -> None:
        """Wait until the duties of the start have read what they read: no step in ten looks."""
        quiet, before = 0, self._count
        while quiet < QUIET_LOOKS:
            await asyncio.sleep(0.02)
            quiet = quiet + 1 if self._count == before else 0
            before = self._count

    async def of(self, work: Callable[[], Any]) -> int:
        """The steps of one call: the least of five, since regular duties read beside it."""
        counts = []
        for _ in range(5):
            before = self._count
            await work()
            counts.append(self._count - before)
        return min(counts)


async def followed(api: Api, path: str) -> None:
    """Read the stream of a task that has ended."""
    async with api.stream(path) as stream:
        await stream.rest()


async def measured(folder: Path, tasks: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The steps of each look at a task that is submitted behind so many others."""
    folder.mkdir()
    script = ScriptedModel(*["Done."] * 20)
    async with http_mesh(folder, Writer, script=script) as api:
        for number in range(10):
            await api.client.outcome(await api.submit(agent_id="writer", payload={"text": f"t{number}"}))
        await api.mesh.log.flush()
        data = folder / api.mesh.settings.data_dir
    grow(data, tasks)
    steps = Steps(monkeypatch)
    async with http_mesh(folder, Writer, script=script) as api:
        task_id = await api.submit(agent_id="writer", payload={"text": "the last"})
        await api.client.outcome(task_id)
        await api.mesh.log.flush()
        path = f"/tasks/{task_id}"
        await api.get(path)
        looks = {
            "view": lambda: api.get(path),
            "events": lambda: api.get(f"{path}/events"),
            "steps": lambda: api.get(f"{path}/steps"),
            "tree": lambda: api.get(f"{path}/tree"),
            "stream": lambda: followed(api, f"{path}/events"),
        }
        await steps.rest()
        steps.summaries(data / "mesh.db")
        counts = {name: await steps.of(look) for name, look in looks.items()}
        return {**counts, "summaries": steps.summaries(data / "mesh.db")}


async def searched(folder: Path, tasks: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The rows of blocks that each look at the whole log reads."""
    folder.mkdir()
    script = ScriptedModel(*["Done."] * 10)
    async with http_mesh(folder, Writer, script=script) as api:
        await api.client.outcome(await api.submit(agent_id="writer", payload={"text": "one"}))
        await api.mesh.log.flush()
        data = folder / api.mesh.settings.data_dir
    grow(data, tasks)
    reads = Steps(monkeypatch)
    async with http_mesh(folder, Writer, script=script) as api:
        await api.mesh.log.flush()
        await reads.rest()
        counts = dict[str, int]()
        for name, look in {
            "status": lambda: api.mesh.get(StatusReader).status(None),
            "budgets": lambda: api.get("/budgets"),
            "page": lambda: api.get("/events", order="desc", limit="5"),
            "rare type": lambda: api.get("/events", event_type="nothing.such"),
            "rare topic": lambda: api.get("/events", topic="app.nothing"),
            "common": lambda: api.get("/events", event_type="task.succeeded", agent_id="writer", limit="5"),
            "last minute": lambda: api.get("/events", since=datetime.now(UTC).isoformat()),
            "publish": lambda: api.client.publish("app.one", "one.two", {}, idempotency_key="key"),
        }.items():
            reads.summaries(data / "mesh.db")
            await look()
            counts[name] = reads.summaries(data / "mesh.db")
        return counts


async def test_a_search_of_the_log_reads_no_summaries_of_other_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = await searched(tmp_path / "few", FEW, monkeypatch)
    many = await searched(tmp_path / "many", MANY, monkeypatch)
    assert {name: (few[name], many[name]) for name in few if many[name] > max(40, few[name])} == {}


class Asker(Agent):
    """Asks a person."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)
    prompt_text = "Ask."

    async def run(self, run: Run) -> str:
        return str(await run.ask_person("Which color?"))


_COPY_QUESTIONS = """
    WITH RECURSIVE copies (copy) AS (SELECT 1 UNION ALL SELECT copy + 1 FROM copies WHERE copy < ?)
    INSERT INTO inbox SELECT id || copy, seq, tenant_id, task_id || copy, generation, attempt, account,
        ended_at, document, rank FROM copies, inbox WHERE ended_at IS NOT NULL
"""


async def listed(folder: Path, tasks: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The steps of lists that have few entries, beside so many tasks and answered questions of others."""
    folder.mkdir()
    script = ScriptedModel(*["Done."] * 10)
    async with http_mesh(folder, Writer, Asker, script=script) as api:
        for text in ("answered", "open"):
            task_id = await api.submit(agent_id="asker", payload={"text": text})
            while not (questions := (await api.get("/inbox"))["items"]):
                await asyncio.sleep(0.02)
            if text == "answered":
                await api.client.answer(task_id, "blue", key=questions[0]["wait_id"])
                await api.client.outcome(task_id)
        await api.client.outcome(await api.submit(agent_id="writer", payload={"text": "one"}))
        await api.mesh.log.flush()
        data = folder / api.mesh.settings.data_dir
    with closing(sqlite3.connect(data / "mesh.db", isolation_level=None)) as store:
        store.execute(_COPY_QUESTIONS, (tasks,))
    grow(data, tasks)
    steps = Steps(monkeypatch)
    budgets = [
        {"name": "all", "scope": "mesh", "limit_usd": 5},
        {"name": "each", "scope": "agent", "limit_usd": 5},
    ]
    async with http_mesh(folder, Writer, Asker, script=script, budgets=budgets) as api:
        [question] = (await api.get("/inbox"))["items"]
        task = await api.get(f"/tasks/{question['task_id']}")
        inbox, log, now = api.mesh.get(Inbox), api.mesh.log, datetime.now(UTC)
        after = EndedTask(now.timestamp() - 3600, "", "")
        looks = {
            "inbox": lambda: api.get("/inbox"),
            "question": lambda: inbox.find("default", question["wait_id"]),
            "thread": lambda: inbox.next_question("default", task["thread_id"]),
            "tenants": inbox.tenants,
            "small tenant": lambda: log.tasks(tenant_id="small"),
            "agent": lambda: log.tasks(tenant_id="default", agent_id="asker"),
            "children": lambda: log.tasks(tenant_id="default", parent_task_id=question["task_id"]),
            "contents": lambda: log.view_apart(ended_tasks, after, now.timestamp(), 10),
            "estimate": lambda: api.get("/costs/estimate", agent_id="asker"),
            "activity": lambda: read_activity(log, "small", now, now),
            "budgets": lambda: api.get("/budgets"),
            "costs": lambda: api.get("/costs", by="agent,model"),
            "costs by day": lambda: api.get("/costs", by="tag", bucket="day", since="7d"),
            "a task's events": lambda: api.get("/events", task_id=task["task_id"], event_type="run.title"),
        }
        await steps.rest()
        assert await inbox.next_question("default", task["thread_id"]) is not None
        return {name: await steps.of(look) for name, look in looks.items()}


async def test_lists_do_not_grow_with_what_they_leave_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = await listed(tmp_path / "few", FEW, monkeypatch)
    many = await listed(tmp_path / "many", MANY, monkeypatch)
    assert {name: (few[name], many[name]) for name in few if many[name] > few[name] + 1_000} == {}


async def test_looks_at_one_task_do_not_grow_with_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = await measured(tmp_path / "few", FEW, monkeypatch)
    many = await measured(tmp_path / "many", MANY, monkeypatch)
    grown = {name: (few[name], many[name]) for name in few if many[name] > few[name] + MAX_MORE[name]}
    assert grown == {}
