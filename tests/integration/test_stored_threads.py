"""Data that the first version wrote opens, and its open tasks go on."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

from meshwright.sql.migrations import migration_steps
from meshwright.sql.sqlite import FILE_NAME
from tests.support.faults.oracle import complaints
from tests.support.sqlite_mesh import evidence_of, up

FIRST_SCHEMA = 5  # steps of the schema that the first version had


async def test_open_tasks_of_first_version_go_on(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        queued = [await running.submit("gate", f"{n}", thread_id="one") for n in range(4)]
        await running.event("task.started", queued[0])
        parent = await running.submit("boss", "gate:please")
        await running.event("task.waiting", parent)
    rewrite_as_first_version(tmp_path / "data" / FILE_NAME)
    async with up(tmp_path) as running:
        [wait] = (await running.mesh.task(parent)).waits
        assert (wait.kind, wait.child_task_id is None) == ("task", False)
        running.gate.set()
        outcomes = [await running.outcome(task_id) for task_id in (*queued, parent)]
        started = [await running.types(task_id) for task_id in queued]
        order = [event.time for event in [await running.event("task.succeeded", each) for each in queued]]
    assert [outcome.text for outcome in outcomes] == ["opened"] * 5
    assert [types["task.succeeded"] for types in started] == [1] * 4
    assert order == sorted(order)
    assert complaints(await evidence_of(tmp_path)) == []


def rewrite_as_first_version(file: Path) -> None:
    """Write threads and the list of tasks as the first version did: whole dispatches in every inbox."""
    connection = sqlite3.connect(file)
    with connection:
        rows = connection.execute(
            "SELECT type, id, state FROM heads WHERE type IN ('gate', 'boss')"
        ).fetchall()
        for kind, name, state in rows:
            document = json.loads(state)
            document["inbox"] = [old_entry(connection, kind, entry) for entry in document["inbox"]]
            change = "UPDATE heads SET state = ? WHERE type = ? AND id = ?"
            connection.execute(change, (json.dumps(document).encode(), kind, name))
        assert Counter(kind for kind, _, _ in rows) == {"gate": 2, "boss": 1}
    columns = first_tables(connection)
    assert "task_id TEXT NOT NULL UNIQUE" in columns
    connection.close()


def old_entry(connection: sqlite3.Connection, kind: str, entry: dict[str, Any]) -> dict[str, Any]:
    select = "SELECT state FROM heads WHERE type = 'Orchestrator' AND id = ?"
    record = json.loads(connection.execute(select, (entry["task_id"],)).fetchone()[0])
    [attempt] = record["attempts"]
    dispatch = {"task": record["task"], "attempt": 1, "agent_id": kind, "score_card": attempt["score_card"]}
    empty = {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0, "reasoning_tokens": 0}
    return {
        "dispatch": dispatch,
        "queued_at": entry["queued_at"],
        "status": entry.get("status", "queued"),
        "fence": entry.get("fence", 0),
        "redriven": False,
        "owner": entry.get("owner"),
        "suspended": old_suspend(entry["waits"][0]) if "waits" in entry else None,
        "seconds": entry.get("seconds", 0.0),
        "usage": empty,
        "cost_usd": "0",
        "cancelled": None,
    }


def old_suspend(wait: dict[str, Any]) -> dict[str, Any]:
    step = wait["step"]
    asked = {"step": step["number"], "kind": step["kind"], "request_hash": step["hash"]}
    return {**asked, "key": wait["wait_id"], "known": {"child_task_id": wait["child_task_id"]}}


def tables_of(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def first_tables(connection: sqlite3.Connection) -> str:
    """Make the tables as they were, the tasks with their rows; returns how that table is declared."""
    first = sqlite3.connect(":memory:")
    steps = migration_steps(resources.files("meshwright.sql.migrations"), "sqlite")
    for number in range(1, FIRST_SCHEMA + 1):
        first.executescript(steps[number])
    rows = connection.execute("SELECT * FROM tasks").fetchall()
    later = tables_of(connection) - tables_of(first)
    for table in (*later, "event_blocks", "tasks"):
        connection.execute(f"DROP TABLE {table}")
    select = "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL"
    for table in ("tasks", "event_keys", "event_blocks", "projections"):
        declared = [sql for (sql,) in first.execute(select, (table,))]
        connection.executescript(";\n".join(declared))
    connection.execute("ALTER TABLE events DROP COLUMN link")
    connection.execute("INSERT INTO projections SELECT 2, max(seq) FROM events")
    [(declaration,)] = first.execute("SELECT sql FROM sqlite_master WHERE name = 'tasks'").fetchall()
    for row in rows:
        connection.execute(f"INSERT INTO tasks VALUES ({','.join('?' * len(row))})", row)
    connection.execute(f"PRAGMA user_version={FIRST_SCHEMA}")
    connection.commit()
    return declaration
