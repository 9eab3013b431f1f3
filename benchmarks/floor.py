"""The floor of the lifecycle: the same work written by hand for this one purpose, without actors.

One loop, one SQLite writer thread that groups commits, the same codec, and for each task as many rows of the
same content as the mesh writes (`sample.py`). It keeps what the lifecycle keeps (the request, each step, each
event, the outcome, a list of tasks), and it has no recovery, no fences, no slots, no traces and no second
kind of task.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from benchmarks.instant import QUESTION, InstantModel
from meshwright.core.ids import new_id
from meshwright.models.port import CallContext, ChatMessage, ModelRequest

SCHEMA = """
CREATE TABLE documents (id TEXT PRIMARY KEY, revision INTEGER, body BLOB);
CREATE TABLE steps (id TEXT, n INTEGER, body BLOB, PRIMARY KEY (id, n));
CREATE TABLE events (seq INTEGER PRIMARY KEY, id TEXT, time REAL, kind TEXT, topic TEXT, tenant TEXT,
    task_id TEXT, agent TEXT, trace_id TEXT, body BLOB);
CREATE TABLE tasks (task_id TEXT PRIMARY KEY, status TEXT, capability TEXT, agent TEXT, created REAL,
    updated REAL) WITHOUT ROWID;
CREATE TABLE keys (kind TEXT, key TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID;
"""
COLUMNS = {"documents": 3, "steps": 3, "events": 10, "tasks": 6, "keys": 2}
MAX_ROWS = 100
STAGES = {
    "accept": ("task.accepted", "task.dispatched"),
    "enqueue": (),
    "claim": ("task.started",),
    "complete": ("model.called", "attempt.ended"),
    "settle": ("task.succeeded", "trace.spans"),
}
# Which stages write the document and the list's row, where the mesh writes them less often than at each.
DOCUMENT_STAGES = ("accept", "settle", "complete", "claim", "enqueue")
LIST_STAGES = ("accept", "settle", "claim", "complete", "enqueue")
Rows = list[tuple[str, tuple[Any, ...]]]


class Writer:
    """One thread that writes; what waits shares a commit."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self.connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=1024
        )
        self.connection.executescript(
            f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=4000; {SCHEMA}"
        )
        self._waiting: queue.SimpleQueue[tuple[Rows, asyncio.Future[None]]] = queue.SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()

    def commit(self, rows: Rows) -> asyncio.Future[None]:
        """Write rows; the future is done when they are durable."""
        durable = self._loop.create_future()
        self._waiting.put((rows, durable))
        return durable

    def _write(self) -> None:
        while True:
            group = [self._waiting.get()]
            while not self._waiting.empty():
                group.append(self._waiting.get())
            by_table: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
            for rows, _ in group:
                for table, row in rows:
                    by_table[table].append(row)
            self.connection.execute("BEGIN IMMEDIATE")
            for table, rows in by_table.items():
                self._insert(table, rows)
            self.connection.execute("COMMIT")
            self._loop.call_soon_threadsafe(tell, [durable for _, durable in group])

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        for start in range(0, len(rows), MAX_ROWS):
            chunk = rows[start : start + MAX_ROWS]
            self.connection.execute(statement(table, len(chunk)), [value for row in chunk for value in row])


class Floor:
    """Runs tasks through their lifecycle. `commits` is 5 (one for each stage, as turns have), or 2.

    Events are numbered behind `last_seq`.
    """

    def __init__(
        self, writer: Writer, sample: dict[str, Any], *, commits: int, model: InstantModel, last_seq: int = 0
    ) -> None:
        self._writer = writer
        self._sample = sample
        self._model = model
        self._parts = split(sample)
        self._groups = [[stage] for stage in STAGES]
        if commits == 2:
            self._groups = [["accept", "enqueue", "claim"], ["complete", "settle"]]
        self._seq = last_seq

    async def accept(self, body: bytes) -> str:
        """Take a request: durable when this returns."""
        task = {**from_json(body), "task_id": new_id()}
        await self._writer.commit(self._rows(self._groups[0], task["task_id"]))
        return task["task_id"]

    async def finish(self, task_id: str) -> str:
        """Do the rest of the lifecycle, and return the answer."""
        answer = ""
        for group in self._groups[1:]:
            if "complete" in group:
                answer = await self._ask(task_id)
            await self._writer.commit(self._rows(group, task_id))
        return answer

    async def _ask(self, task_id: str) -> str:
        messages = (
            ChatMessage(role="system", content="You do tasks."),
            ChatMessage(role="user", content=QUESTION),
        )
        reply = await self._model.complete(
            ModelRequest(messages=messages, user="bench-agent", context=CallContext(task_id=task_id))
        )
        return reply.content

    def _rows(self, stages: Sequence[str], task_id: str) -> Rows:
        rows: Rows = []
        now = time.time()
        for stage in stages:
            part = self._parts[stage]
            for document in part["documents"]:
                rows.append(("documents", (f"{stage[0]}{task_id}", self._seq, to_json(document))))
            for n, step in enumerate(part["steps"]):
                rows.append(("steps", (task_id, n, to_json(step))))
            for kind, topic, payload in part["events"]:
                self._seq += 1
                rows.append(
                    (
                        "events",
                        (
                            *(self._seq, f"{task_id}/{self._seq}", now, kind, topic, "default", task_id),
                            *("bench-agent", task_id, to_json(payload)),
                        ),
                    )
                )
            for _ in range(part["tasks"]):
                rows.append(("tasks", (task_id, stage, "bench", "bench-agent", now, now)))
            for n in range(part["keys"]):
                rows.append(("keys", (str(n), task_id)))
        return rows


def split(sample: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each stage writes, so that a task writes as many rows of each kind as in the sample."""
    rows = {name: round(count) for name, count in sample["rows"].items()}
    documents = DOCUMENT_STAGES[: rows.get("heads", 0)]
    listed = LIST_STAGES[: rows.get("tasks", 0)]
    head = max(sample["documents"], key=lambda document: len(to_json(document)))
    parts: dict[str, dict[str, Any]] = {}
    for stage, kinds in STAGES.items():
        parts[stage] = {
            "documents": [head] if stage in documents else [],
            "steps": sample["steps"] if stage == "complete" else [],
            "events": [event for event in sample["events"] if event[0] in kinds],
            "tasks": int(stage in listed),
            "keys": rows.get("event_keys", 0) if stage == "settle" else 0,
        }
    return parts


@lru_cache
def statement(table: str, rows: int) -> str:
    """An insert of so many rows; documents and tasks replace what was there."""
    row = f"({','.join('?' * COLUMNS[table])})"
    verb = "INSERT OR REPLACE" if table in ("documents", "tasks") else "INSERT"
    return f"{verb} INTO {table} VALUES {','.join([row] * rows)}"


def tell(waiting: list[asyncio.Future[None]]) -> None:
    """Say that commits are durable."""
    for durable in waiting:
        durable.set_result(None)
