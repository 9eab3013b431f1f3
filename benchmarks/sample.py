"""What one task writes: the floors write as many rows of the same content."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from typing import Any

from pydantic_core import from_json

from benchmarks.stand import Stand, build_stand
from meshwright.engine.sql.sqlite import SqliteSession
from meshwright.mesh.orchestration.tasks import Tasks

ALONE, TOGETHER, IN_FLIGHT = 50, 1280, 128


class Watch:
    """Counts commits, and rows by table, on the writer's connection."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.commits = 0
        self._table = ""
        self._changes = 0

    def on(self, session: SqliteSession) -> None:
        connection = session.connection
        self._changes = connection.total_changes
        connection.set_trace_callback(lambda statement: self._saw(connection, statement))

    def off(self, session: SqliteSession) -> None:
        session.connection.set_trace_callback(None)

    def _saw(self, connection: sqlite3.Connection, statement: str) -> None:
        """A statement begins, so that what has changed is the work of the one before."""
        words = statement.split(None, 3)
        changes = connection.total_changes
        self.rows[self._table] += changes - self._changes
        self._changes = changes
        self._table = words[2] if words[0] in ("INSERT", "DELETE") else ""
        self.commits += words[0] == "COMMIT"


async def take(folder: str) -> dict[str, Any]:
    """Run tasks one by one and side by side; count what they write, and return the rows of the last one."""
    stand = build_stand(folder, writer="thread")
    async with stand.running():
        await asyncio.gather(*(stand.task() for _ in range(IN_FLIGHT)))
        alone = await watched(stand, ALONE, 1)
        together = await watched(stand, TOGETHER, IN_FLIGHT)
        receipt = await stand.mesh.get(Tasks).ask(
            "bench-agent", "What changed between the last two releases?"
        )
    content = read_rows(stand.database.path, receipt.task_id) if stand.database.path.exists() else {}
    return {
        "commits": alone.commits / ALONE,
        "rows_alone": {table: count / ALONE for table, count in alone.rows.items() if table},
        "rows": {table: count / TOGETHER for table, count in together.rows.items() if table},
        **content,
    }


async def watched(stand: Stand, tasks: int, in_flight: int) -> Watch:
    watch = Watch()
    await stand.database.write(watch.on)
    slots = asyncio.Semaphore(in_flight)

    async def task() -> None:
        async with slots:
            await stand.task()

    await asyncio.gather(*(task() for _ in range(tasks)))
    await stand.database.write(watch.off)
    return watch


def read_rows(path: Any, task_id: str) -> dict[str, Any]:
    """The documents of one task as they lie in the file."""
    connection = sqlite3.connect(path)
    heads = connection.execute("SELECT state FROM heads WHERE id LIKE ? ORDER BY type", (f"%{task_id}",))
    steps = connection.execute("SELECT value FROM records WHERE id LIKE ?", (f"%{task_id}",))
    events = connection.execute(
        "SELECT event_type, topic, payload FROM events WHERE task_id = ?1 OR event_type = 'trace.spans' "
        "AND trace_id = (SELECT max(trace_id) FROM events WHERE task_id = ?1) ORDER BY seq",
        (task_id,),
    )
    content = {
        "documents": [from_json(state) for (state,) in heads],
        "steps": [from_json(value) for (value,) in steps],
        "events": [[kind, topic, from_json(payload)] for kind, topic, payload in events],
    }
    connection.close()
    return content
