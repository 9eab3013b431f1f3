"""The records of a mesh on Dapr, as evidence for the oracle: heads from Redis, the log from the front."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from meshwright.core.events import Event
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.sql.sqlite import FILE_NAME, SqliteDatabase
from meshwright.engine.stores.dapr.documents import VALUES, Document, put_back
from meshwright.money.costs import CallProjection
from meshwright.parts.proving.evidence import read_money, read_summaries, recorded_fields, sort_by_number
from meshwright.parts.proving.oracle import Evidence
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.workload import AGENTS, MAX_CONCURRENCY
from tests.support.services import Services

DUMP = """
local prefix = 'state||' .. ARGV[1] .. '/'
local found = {}
for _, key in ipairs(redis.call('KEYS', prefix .. '*')) do
    local name = string.sub(key, #prefix + 1)
    if string.find(name, '^actor/') or string.find(name, '^value/') or string.find(name, '^record/') then
        table.insert(found, name)
        table.insert(found, redis.call('HGET', key, 'data'))
    end
end
return found
"""
"""The documents and records of a namespace, at one moment: names and JSON, in turns."""


async def gather(
    services: Services,
    namespace: str,
    books: Records,
    data: Path,
    *,
    kills: int,
    cost_usd: Decimal | None = None,
) -> Evidence:
    """Read a mesh that may be running: the store, a copy of the front's log, and the books."""
    stored = await read_store(services, namespace)
    heads = {ref: document.record for ref, document in stored.documents.items()}
    taken = frozenset(message_id for head in heads.values() for message_id in head.processed_ids)
    async with log_in(data) as log:
        events, listed = [event async for event in log.replay(EventFilter())], await read_summaries(log)
        money = None if cost_usd is None else await read_money(log, books, heads, cost_usd)
    return Evidence(
        **recorded_fields(books),
        events=sort_by_number(events),
        heads=heads,
        undelivered=undelivered(stored, events, taken),
        summaries=listed,
        money=money,
        kills=kills,
        max_in_flight=AGENTS * MAX_CONCURRENCY,
        processed_ids=taken,
        in_order=False,
    )


@asynccontextmanager
async def log_in(data: Path) -> AsyncIterator[EventLog]:
    """A copy of a log that may be written to meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        await asyncio.to_thread(copy, data / FILE_NAME, Path(folder) / FILE_NAME)
        database = SqliteDatabase(Path(folder))
        await database.open()
        try:
            log = EventLog(database)
            log.add(CallProjection())
            await log.start()
            yield log
        finally:
            await database.close()


def copy(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment."""
    reader = sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)
    writer = sqlite3.connect(target)
    reader.backup(writer)
    reader.close()
    writer.close()


@dataclass(frozen=True)
class Stored:
    documents: Mapping[ActorRef, Document]
    told: Sequence[Event]


async def read_store(services: Services, namespace: str) -> Stored:
    """Read all of a namespace, at one moment."""
    flat: list[str] = await ask_redis(services, "eval", DUMP, "0", namespace)
    found = dict(zip(flat[::2], flat[1::2], strict=True))
    documents = {
        ActorRef.parse(name.removeprefix("actor/")): document_of(from_json(text), found)
        for name, text in found.items()
        if name.startswith("actor/")
    }
    records = [from_json(text) for name, text in found.items() if name.startswith("record/")]
    told = [Event.model_validate(event) for record in records for event in record["events"]]
    return Stored(documents, told)


async def ask_redis(services: Services, *command: str) -> Any:
    """The answer to a command."""
    host, port = services.redis_host.split(":")
    process = await asyncio.create_subprocess_exec(
        *("redis-cli", "-h", host, "-p", port, "--no-auth-warning", "--json", *command),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "REDISCLI_AUTH": services.redis_password},
    )
    answer, _ = await process.communicate()
    assert process.returncode == 0, answer
    return json.loads(answer)


def document_of(data: dict[str, Any], found: Mapping[str, str]) -> Document:
    """A document, its large values in their places."""
    values = {name: found[f"value/{name}"].encode() for name in data.get(VALUES, ())}
    return Document.decode(to_json(put_back(data, values)))


def undelivered(stored: Stored, events: Sequence[Event], taken: Collection[str]) -> int:
    """How many entries of outboxes and records are neither with their receivers nor in the log.

    A cancelled attempt whose worker has died is ended without a look at its records, so nobody tells those.
    """
    cancelled = {event.task_id for event in events if event.event_type == "task.cancelled"}
    told = {event.id for event in stored.told if event.task_id not in cancelled}
    sent = {entry.item.id for document in stored.documents.values() for entry in document.outbox}
    return len((sent | told) - {event.id for event in events} - set(taken))
