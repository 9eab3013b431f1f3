"""What is asked of open tasks costs the same whatever has ended, and counts agents, not their tasks."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability
from meshwright.engine.events.status import count_open, missing_agents, open_agents
from meshwright.engine.sql.database import Session
from tests.support.event_logs import open_log
from tests.support.http_mesh import http_mesh

OPEN = 30
FEW, MANY = 100, 10_000
MAX_MORE = 200
"""Steps: an index is a level deeper."""
_INSERT = """
    INSERT INTO tasks (
        seq, last_seq, task_id, tenant_id, capability, status, agent_id, created_at, updated_at, completed_at
    )
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
    SELECT n + :first, n + :first, :first || '-' || n, :tenant_id, 'writing', :status, :agent_id,
        0, 0, :ended_at
    FROM numbers
"""


class Writer(Agent):
    """Has some open tasks."""

    agent_id = "writer"
    capabilities = (Capability("writing"),)


class Reader(Agent):
    """Has many."""

    agent_id = "reader"
    capabilities = (Capability("reading"),)


class Steps:
    """Counts the steps of SQLite's machine in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._count = 0
        connect = sqlite3.connect

        def counted(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **options)
            connection.set_progress_handler(self._add, 1)
            return connection

        monkeypatch.setattr(sqlite3, "connect", counted)

    def _add(self) -> int:
        self._count += 1
        return 0

    async def of(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> int:
        before = self._count
        await function(*arguments)
        return self._count - before


def insert(
    session: Session, first: int, count: int, status: str, agent_id: str, tenant_id: str = "default"
) -> None:
    ended_at = 1.0 if status in ("succeeded", "failed") else None
    values = {"first": first, "count": count, "status": status, "agent_id": agent_id, "ended_at": ended_at}
    session.execute(_INSERT, {**values, "tenant_id": tenant_id})


async def counts(folder: Path, steps: Steps, tasks: int, status: str, tenant_id: str) -> dict[str, int]:
    """The steps of each reading beside so many other tasks of a status."""
    folder.mkdir()
    async with open_log(folder) as store:
        await store.database.write(insert, 0, OPEN, "running", "writer")
        await store.database.write(insert, 100, OPEN, "waiting", "reader")
        await store.database.write(insert, 1_000, tasks, status, "writer", tenant_id)
        assert await store.database.read(open_agents, "default") == ["reader", "writer"]
        assert await store.database.read(count_open, "default") == {"running": OPEN, "waiting": OPEN}
        return {
            "agents": await steps.of(store.database.read, open_agents, "default"),
            "all agents": await steps.of(store.database.read, open_agents, None),
            "missing": await steps.of(store.database.read, missing_agents, "default", ["reader", "absent"]),
            "statuses": await steps.of(store.database.read, count_open, "default"),
        }


@pytest.mark.parametrize(
    ("status", "tenant_id"), [("succeeded", "default"), ("failed", "default"), ("running", "acme")]
)
async def test_reads_of_open_tasks_do_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, tenant_id: str
) -> None:
    steps = Steps(monkeypatch)
    few = await counts(tmp_path / "few", steps, FEW, status, tenant_id)
    many = await counts(tmp_path / "many", steps, MANY, status, tenant_id)
    assert min(few.values()) > 0
    assert {name: (few[name], many[name]) for name in few if many[name] > few[name] + MAX_MORE} == {}


async def test_a_missing_agent_has_its_oldest_tasks(tmp_path: Path) -> None:
    async with open_log(tmp_path) as store:
        await store.database.write(insert, 0, OPEN, "running", "writer")
        await store.database.write(insert, 100, 2, "running", "writer", "acme")
        [of_all] = await store.database.read(missing_agents, None, ["writer", "absent"])
        [of_acme] = await store.database.read(missing_agents, "acme", ["writer"])
    assert (of_all.tasks, of_all.task_ids) == (OPEN + 2, tuple(f"0-{n}" for n in range(1, 6)))
    assert (of_acme.tasks, of_acme.task_ids) == (2, ("100-1", "100-2"))


async def test_the_scale_of_an_agent_does_not_grow_with_tasks_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    async with http_mesh(tmp_path, Writer, Reader) as api:
        database = api.mesh.database
        await database.write(insert, 10_000, OPEN, "running", "writer")
        few = await steps.of(api.get, "/scale/writer")
        await database.write(insert, 20_000, MANY, "running", "reader")
        many = await steps.of(api.get, "/scale/writer")
        assert (await api.get("/scale/writer"))["running"] == OPEN
    assert 0 < many <= few + MAX_MORE
