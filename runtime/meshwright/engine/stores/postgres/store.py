"""PostgreSQL as the store of several workers, each a whole mesh or its agents alone.

Messages land on the worker that their actor is placed on. Each worker holds an advisory lock and a lease.
If the lock is free or the lease has run out, and stays so for a moment, others remove the worker, end its
open commit, which holds locks, and adopt what is left: messages, actors with pending work and alarms, each
worker those of the types that it runs. A worker whose connection ends connects again, and keeps its
incarnation and all that it works on unless another has removed it.
Notifications tell of messages, events and workers; they may be lost, so that every few seconds a worker looks
for itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import psycopg
from pydantic_core import from_json, to_json

from meshwright.core.errors import Conflict, StoreFailed, StoreMoved, StoreUnavailable
from meshwright.core.events import Event
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Message, Record
from meshwright.engine.kernel.rows import MAX_N, SELECT_RECORDS, delete_streams, read_record
from meshwright.engine.kernel.store import Batch, Delivery, Receiver, SharedStore, Takeover
from meshwright.engine.sql.database import Row, Session
from meshwright.engine.sql.folder import make_private
from meshwright.engine.sql.meta import refuse_if_moved
from meshwright.engine.sql.postgres import PostgresDatabase, PostgresSession, own_channel
from meshwright.engine.sql.writer import Together
from meshwright.engine.stores.postgres.commits import (
    HAS_ORPHANS,
    Commits,
    News,
    adopt,
    delete_locked,
    place,
    write_batches,
    write_unless_known,
)
from meshwright.engine.stores.postgres.marks import MarkFile, own_store_id

_logger = logging.getLogger("meshwright.store")

_OLDER = (
    "%s came back older than it was: events %d to %d are gone, with the tasks that were accepted in them, as "
    "after a failover to a standby that was behind, or a restore. "
    "Restore a newer state, or submit these tasks again: they are unknown now, and what they did stays done"
)
_ANOTHER = (
    "%s is another database, or another schema of one, than the data folder %s was used with before: its "
    "tasks are not here. If that is not meant, check the address, and the search_path of the role"
)
LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0
_MARK_SECONDS = 1.0  # between the marks of the events that were seen
LOOK_SECONDS = 0.25  # between looks at who is alive
GONE_SECONDS = 1.0  # that a worker has without lock or lease: its connection alone may have ended
_RECONNECT_SECONDS = 0.1  # between tries; less than others wait
_HEAR_SECONDS = 0.005  # between notifications, so that those of many commits are heard together
_STOP_SECONDS = 5.0  # for a query of a server that does not answer
_ALARM_SECONDS = 35.0  # ahead: the runtime asks for alarms every 30 seconds
_PART_CHARS = 3900  # of a broadcast: a notification has at most 8,000 bytes

_SELECT_HEADS = """
    SELECT type, id, revision, last_turn, sent, wake_at, obliged, seen, state FROM heads
    WHERE (type, id) IN (SELECT * FROM unnest(?::text[], ?::text[])) AND revision > 0
"""
_ALIVE = """
    expires_at > clock_timestamp() AND EXISTS (
        SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (classid::bigint << 32) + objid::bigint = lock_key)
"""
_SELECT_WORKERS = f"SELECT incarnation, kinds, loads, {_ALIVE} FROM workers"  # noqa: S608 code
_SET_LOADS = "UPDATE workers SET loads = %s WHERE incarnation = %s"
JOIN = """
    INSERT INTO workers SELECT %s, %s, clock_timestamp() + make_interval(secs => %s), %s
"""
_RENEW = """
    UPDATE workers SET expires_at = clock_timestamp() + make_interval(secs => %s)
    WHERE incarnation = %s AND expires_at > clock_timestamp()
"""
_END_COMMITS = """
    SELECT pg_terminate_backend(pid) FROM gone
    JOIN pg_locks ON locktype = 'advisory' AND objsubid = 2 AND classid::bigint = lock_key >> 32
    JOIN pg_stat_activity USING (pid) WHERE datname = current_database() AND usename = current_user
"""
_REMOVE = f"""
    WITH gone AS (DELETE FROM workers WHERE incarnation IN (
        SELECT incarnation FROM workers WHERE incarnation = ANY(%s) AND NOT ({_ALIVE}) FOR UPDATE SKIP LOCKED)
        RETURNING lock_key) {_END_COMMITS}
"""  # noqa: S608 code
_REJOIN = """
    UPDATE workers SET lock_key = %s, expires_at = clock_timestamp() + make_interval(secs => %s)
    WHERE incarnation = %s
"""
_HAS_LOCKS = """
    SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid::bigint = ?
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 1
"""
_UNLOCK_OTHERS = """
    SELECT pg_advisory_unlock(key)
    FROM (SELECT (classid::bigint << 32) + objid::bigint AS key FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND pid = pg_backend_pid()) AS held
    WHERE key <> %s
"""
_GIVE_UP = f"WITH gone AS (DELETE FROM workers WHERE incarnation = %s RETURNING lock_key) {_END_COMMITS}"  # noqa: S608 code
_SELECT_SENT_HERE = """
    SELECT n, remember, CASE WHEN n = ANY(?::bigint[]) THEN NULL ELSE message END
    FROM messages WHERE owner = ? AND fetched = 0 ORDER BY n
"""
_SELECT_ALARMS = "SELECT type, id, wake_at FROM heads WHERE owner = ? AND wake_at <= ?"

_MAX_CONTESTED = 10_000


class PostgresStore(SharedStore):
    """Actors, messages, records and events in a database that other workers share."""

    name = "postgres"
    joins_actors = shows_moves = True

    def __init__(self, database: PostgresDatabase, log: EventLog) -> None:
        self._database, self._log = database, log
        self._receiver: Receiver | None = None
        self._incarnation, self._channel = "", ""
        self._workers: dict[str, frozenset[str]] = {}
        self._loads: dict[str, str] = {}  # of the workers, as JSON
        self._own_loads = ""  # those that are not written yet
        self._line: psycopg.AsyncConnection[Row] | None = None
        self._reader: PostgresSession | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._news, self._marks = News(database, log), MarkFile(database.folder)
        self._parts: dict[str, list[str]] = {}
        self._mail, self._orphans = asyncio.Event(), asyncio.Event()
        self._passed_over: set[str] = set()  # the types of work that waits for another worker
        self._fetched: set[int] = set()  # the messages from others that were delivered and are not taken
        self._look_at = self._renewed_at = 0.0
        self._suspects: dict[str, float] = {}  # the workers without lock or lease, and since when
        self._rejoined_at = -math.inf
        self.is_away = False
        self._adopts_since = math.inf
        self._commits: Commits | None = None
        self._heads = Together(self._read_heads)
        self._seem_new: dict[tuple[str, str], bool] = {}  # by type, and method of the first message
        self._contested: set[ActorRef] = set()  # those of which a guess was wrong

    # Lifetime

    async def open(self, receiver: Receiver) -> None:
        """Connect, and bring the tables up to date."""
        self._receiver = receiver
        await asyncio.to_thread(make_private, self._database.folder)
        await self._database.learn_timeline()
        self._database.preloaded += [write_batches, write_unless_known, delete_streams, delete_locked]
        await self._database.open()
        try:
            await self._log.start()
            await self._connect_reader()
            self._news.begin(receiver, await self._log.last_seq())
            self._marks.store = await self._database.write(own_store_id)
            marks = self._marks.read()
            if marks is None:
                _logger.warning(_ANOTHER, self._database.location, self._database.folder)
            self._news.recall(marks or ())
        except BaseException:  # a cancelled start too must give the connections back
            await self.close(abrupt=True)
            raise
        self._commits = Commits(
            self._database, self._log, self._choose_owner, receiver.deliver, self._news.tell
        )

    async def begin(self, incarnation: str) -> Takeover:
        """Join the workers under a name, and adopt what no living worker has."""
        receiver = self._receiver
        assert receiver is not None and self._commits is not None
        await self._stop_tasks()
        try:
            await self._connect(incarnation, sorted(receiver.kinds))
            await self._check_joined(incarnation)
            self._incarnation = self._commits.incarnation = incarnation
            await self._database.read(refuse_if_moved, self._database.location)
            await self._notice_loss(receiver)
            await self._look()
            self._fetched.clear()
            messages, heads = await self._adopt(receiver)
        except StoreMoved:
            raise
        except (psycopg.Error, StoreFailed) as error:
            raise StoreUnavailable(f"{self._database.location} cannot be joined: {error}") from error
        self._tasks = [
            asyncio.create_task(self._listen(incarnation), name="postgres: news"),
            asyncio.create_task(self._fetch(), name="postgres: messages"),
            asyncio.create_task(self._adopt_orphans(receiver), name="postgres: adoption"),
            asyncio.create_task(self._news.show(), name="postgres: events"),
            asyncio.create_task(self._mark(), name="postgres: marks"),
        ]
        return Takeover(_deliveries(messages), [ActorRef(*row[:2]) for row in heads if row[2]])

    async def _notice_loss(self, receiver: Receiver) -> None:
        """Say loudly that the database came back without events that this worker knows of."""
        loss = await self._news.loss()
        if loss is None:
            return
        last_seq, known_seq = loss
        _logger.error(_OLDER, self._database.location, last_seq + 1, known_seq)
        await self._log.note_loss(last_seq, known_seq)
        self._news.begin(receiver, await self._log.last_seq())

    async def _mark(self) -> None:
        """Keep in the folder which events were seen, for the next start."""
        while True:
            await asyncio.sleep(_MARK_SECONDS)
            await asyncio.to_thread(self._marks.write, self._news.marks)

    async def close(self, *, abrupt: bool = False) -> None:
        """Leave the workers, so that others adopt the remaining work, and disconnect."""
        await self._stop_tasks()
        if not abrupt and self._incarnation:
            self._marks.write(self._news.marks)
            with suppress(StoreFailed):  # then they find out by the lock
                await self._database.write(_leave, self._incarnation)
        if self._line is not None:
            await self._line.close()
            self._line = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._log.close()
        await self._database.close()
        self._receiver = None

    async def _connect_reader(self) -> None:
        """Connect what reads on the event loop, unless it is connected."""
        if self._reader is not None and self._reader.is_lost:
            self._reader.close()
            self._reader = None
        if self._reader is None:
            self._reader = await asyncio.to_thread(self._database.connect_reader)
            self._channel = self._reader.channel

    async def _connect(self, incarnation: str, kinds: Sequence[str]) -> None:
        """Take a lock and a lease on the connection that receives notifications.

        There is no moment without a lock: others would take the calls that run here for ended.
        """
        if self._line is None or self._line.closed:
            await self._database.learn_timeline()
            self._line = await self._database.connect_async(joins=True)
        await self._connect_reader()
        line, lock_class = self._line, self._database.lock_class
        await line.execute("DELETE FROM workers WHERE lock_key >> 32 = %s", (lock_class,))
        key = await self._lock(line, incarnation)
        async with line.transaction():
            await line.execute(JOIN, (incarnation, key, LEASE_SECONDS, to_json(kinds).decode()))
            await line.execute("SELECT pg_notify(%s, 'w')", (self._channel,))
        self._renewed_at = time.monotonic()

    async def _check_joined(self, incarnation: str) -> None:
        """Raise StoreFailed where a connection leads to another server than the one that was joined."""
        await self._database.write(check_joined, incarnation)
        await self._database.read(check_joined, incarnation)
        assert self._reader is not None
        check_joined(self._reader, incarnation)

    async def _lock(self, line: psycopg.AsyncConnection[Row], incarnation: str) -> int:
        """Listen on a connection, and take a lock of this process on it; returns the key of the lock."""
        key = (self._database.lock_class << 32) + secrets.randbits(31)
        await line.execute(b"UNLISTEN *")
        for channel in (self._channel, own_channel(self._channel, incarnation)):
            await line.execute(f'LISTEN "{channel}"'.encode())
        await line.execute("SELECT pg_advisory_lock(%s)", (key,))
        await line.execute(_UNLOCK_OTHERS, (key,))
        return key

    async def _stop_tasks(self) -> None:
        """Stop using the connections: one closed in a query leaves its descriptor on the event loop."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        self._tasks = []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)

    # The port

    async def load(self, ref: ActorRef, first: Message | None) -> ActorRecord | None:
        """The record of an actor, None where it has none; unread where its like was new the last time."""
        if first is not None and self.seems_new(first):
            return None
        try:
            row = (await self._heads.ask(ref)).get(ref)
        except StoreFailed as error:
            raise StoreUnavailable(str(error)) from error
        if first is not None:
            self._contested.discard(ref)
            self._seem_new[ref.type, first.method] = row is None
        return read_record(row) if row else None

    def seems_new(self, first: Message) -> bool:
        """Whether the last actor of a type that such a message activated was new."""
        to = first.to
        return to not in self._contested and self._seem_new.get((to.type, first.method), False)

    async def _read_heads(self, refs: Sequence[ActorRef]) -> dict[ActorRef, Row]:
        columns = [ref.type for ref in refs], [ref.id for ref in refs]
        rows = await self._database.read(_rows, _SELECT_HEADS, columns)
        return {ActorRef(*row[:2]): row[2:] for row in rows}

    async def commit(self, batch: Batch) -> None:
        """Write a batch, with others that wait."""
        if self._commits is None or self._receiver is None:
            raise Conflict("the store is closed")
        if self.is_away:  # it may have come back older
            raise StoreUnavailable(f"{self._database.location} is away")
        try:
            await self._commits.commit(batch)
        except Conflict:
            self._guess_less([ref for ref, revision in batch.expected.items() if not revision])
            raise

    def _guess_less(self, refs: Sequence[ActorRef]) -> None:
        """Read these actors, and others of their types, before their next turns: some are not new."""
        if len(self._contested) > _MAX_CONTESTED:  # others may have them by now
            self._contested.clear()
        self._contested.update(refs)
        for key in self._seem_new:
            if any(ref.type == key[0] for ref in refs):
                self._seem_new[key] = False

    async def records(self, ref: ActorRef, stream: str, first: int, last: int | None) -> list[Record]:
        """The records of a stream from one number to another, in order."""
        values = (*ref, stream, first, MAX_N if last is None else last)
        try:
            rows = await self._database.read(_rows, SELECT_RECORDS, values)
        except StoreFailed as error:
            raise StoreUnavailable(str(error)) from error
        return [Record(ref, stream, n, from_json(value)) for n, value in rows]

    async def delete_records(self, streams: Mapping[ActorRef, Sequence[str]]) -> None:
        """Delete whole streams of actors."""
        await self._database.write(delete_streams, [*streams.items()])

    async def delete_actors(self, revisions: Mapping[ActorRef, int]) -> set[ActorRef]:
        """Delete the records of actors."""
        heads = [(*ref, revision) for ref, revision in revisions.items()]
        return {ActorRef(*head) for head in await self._database.write(delete_locked, heads)}

    def alarms(self, until: datetime) -> Iterable[tuple[ActorRef, datetime]]:
        """The alarms of the actors that committed here last, or were adopted; none while it is away."""
        if self._reader is None:
            return []
        try:
            values = (self._incarnation, until.timestamp())
            rows = self._reader.execute(_SELECT_ALARMS, values).fetchall()
        except psycopg.Error:
            return []  # asked again in 30 seconds
        return [(ActorRef(kind, name), datetime.fromtimestamp(at, UTC)) for kind, name, at in rows]

    async def has_expired(self, incarnation: str) -> bool:
        """Whether a worker has left, or was removed since it lost its connection or its lease ran out."""
        query = "SELECT 1 FROM workers WHERE incarnation = ?"
        try:
            return not await self._database.read(_rows, query, (incarnation,))
        except StoreFailed as error:
            raise StoreUnavailable(str(error)) from error

    @property
    def process(self) -> str:
        """The class of the advisory locks of this process."""
        return str(self._database.lock_class)

    async def has_ended(self, process: str) -> bool:
        """Whether no connection of a process is left: a frozen one still has its own."""
        try:
            return not await self._database.read(_rows, _HAS_LOCKS, (int(process),))
        except StoreFailed as error:
            raise StoreUnavailable(str(error)) from error

    def publish_loads(self, loads: Mapping[str, int]) -> None:
        """Let other workers know, at the next look, how many tasks of each type this one has."""
        text = to_json(loads).decode()
        self._own_loads = "" if text == self._loads.get(self._incarnation) else text

    def loads(self) -> Mapping[str, Mapping[str, int]]:
        """The loads of the other workers, as of the last look."""
        return {name: from_json(text) for name, text in self._loads.items() if name != self._incarnation}

    def broadcast(self, event: Event) -> None:
        """Show an event to the listeners of every worker."""
        if self._receiver is None:
            return
        self._receiver.bus.notify(event)
        if len(self._workers) > 1:
            text, label = event.encode().decode("latin-1"), secrets.token_hex(4)
            parts = [text[start : start + _PART_CHARS] for start in range(0, len(text), _PART_CHARS)]
            payloads = [f"b{self._incarnation} {label} {len(parts)} {part}" for part in parts]
            self._database.submit(_notify, (payloads,), _sent_at_most_once)

    def show(self, events: Iterable[Event]) -> None:
        """Show events of this worker here; the other workers see them in the log."""
        self._news.tell(list(events))

    # News

    async def _listen(self, incarnation: str) -> None:
        """Receive notifications, renew the lease, watch the workers, until the lease is lost."""
        has_lease = True
        while has_lease:
            try:
                has_lease = await self._follow(incarnation)
            except (psycopg.Error, StoreFailed) as error:
                self.is_away = True
                has_lease = await self._rejoin(incarnation, error)
            finally:
                self.is_away = False
        if self._receiver is not None:
            self._receiver.lease_lost()  # the connection keeps its lock: this process still runs its calls

    async def _follow(self, incarnation: str) -> bool:
        """Do all that as long as the connection lasts; returns False once the lease is lost."""
        while self._line is not None and self._incarnation == incarnation:
            self._look_at = time.monotonic() + LOOK_SECONDS
            while (seconds := self._look_at - time.monotonic()) > 0:
                async for notice in self._line.notifies(timeout=seconds, stop_after=1):
                    self._hear(notice.payload.split("\n"))
                await asyncio.sleep(_HEAR_SECONDS)
            gone_workers = await self._look()
            due = time.monotonic() - self._renewed_at > RENEW_SECONDS
            if due:
                await self._connect_reader()
            if due and not await self._renew(incarnation):
                return False
            if gone_workers or due:
                self._orphans.set()
                self._mail.set()
        return False

    async def _rejoin(self, incarnation: str, error: Exception) -> bool:
        """Connect again with the lease that this worker has; False where it has none any more.

        Until then its work goes on: nobody has taken it over while the worker is not removed.
        """
        away_since = time.monotonic()
        warning = "%s is away: running work goes on, and commits once it is back: %s"
        _logger.warning(warning, self._database.location, " ".join(str(error).split()))
        while self._incarnation == incarnation:
            try:
                has_lease = await self._take_lease_again(incarnation)
            except StoreMoved:
                if self._line is not None:
                    await self._line.close()
                return False  # joining says why
            except (psycopg.Error, StoreFailed):
                await asyncio.sleep(_RECONNECT_SECONDS)
                continue
            if has_lease:
                seconds = time.monotonic() - away_since
                _logger.warning("%s is back after %.1f s", self._database.location, seconds)
                self._news.look()
                self._orphans.set()
                self._mail.set()
            return has_lease
        return False

    async def _take_lease_again(self, incarnation: str) -> bool:
        if self._line is not None:
            await self._line.close()
        await self._database.learn_timeline()
        self._line = line = await self._database.connect_async(joins=True)
        await self._connect_reader()
        await self._database.read(refuse_if_moved, self._database.location)
        key = await self._lock(line, incarnation)
        if (await line.execute(_REJOIN, (key, LEASE_SECONDS, incarnation))).rowcount != 1:
            return False
        await self._check_joined(incarnation)
        await line.execute("SELECT pg_notify(%s, 'w')", (self._channel,))
        self._renewed_at = self._rejoined_at = time.monotonic()
        self._suspects.clear()
        return await self._news.loss() is None  # joining anew says what is lost

    async def _renew(self, incarnation: str) -> bool:
        """Renew the lease, unless it has run out or this worker cannot write: then others must go on."""
        assert self._line is not None
        self._renewed_at = time.monotonic()
        if self._renewed_at - self._adopts_since > LEASE_SECONDS:
            await self._line.execute(_GIVE_UP.encode(), (incarnation,))
            return False
        self._news.look()
        return (await self._line.execute(_RENEW, (LEASE_SECONDS, incarnation))).rowcount == 1

    async def _look(self) -> list[str]:
        """Learn who is alive, with which loads, and remove the others, who are returned."""
        assert self._line is not None
        if self._own_loads and len(self._workers) > 1:
            loads, self._own_loads = self._own_loads, ""
            await self._line.execute(_SET_LOADS, (loads, self._incarnation))
        rows = await (await self._line.execute(_SELECT_WORKERS.encode())).fetchall()
        self._workers = {name: frozenset(from_json(kinds)) for name, kinds, _, alive in rows if alive}
        self._loads = {name: loads for name, _, loads, alive in rows if alive}
        if self._commits is not None and self._commits.is_alone != self._is_alone:
            self._commits.is_alone = self._is_alone
            self._news.look()
        gone_workers = self._gone({name for name, _, _, alive in rows if not alive})
        if gone_workers:
            await self._line.execute(_REMOVE.encode(), (gone_workers,))
        return gone_workers

    def _gone(self, suspects: set[str]) -> list[str]:
        """The workers that had neither lock nor lease for long enough.

        If this worker has just connected again, others may have lost their connections as well.
        """
        now = time.monotonic()
        suspects.discard(self._incarnation)
        self._suspects = {name: self._suspects.get(name, now) for name in suspects}
        if now < self._rejoined_at + LEASE_SECONDS:
            return []
        return [name for name, since in self._suspects.items() if now - since >= GONE_SECONDS]

    @property
    def _is_alone(self) -> bool:
        return len(self._workers) < 2

    def _hear(self, news: Sequence[str]) -> None:
        for line in news:
            kind, rest = line[:1], line[1:]
            if kind == "e" and not (self._is_alone and self._news.has_shown(int(rest))):
                self._news.look()
            elif kind == "w":
                self._look_at = 0.0
                self._orphans.set()
            elif kind == "m":
                self._mail.set()
            elif kind == "b":
                self._hear_part(*rest.split(" ", 3))

    def _hear_part(self, sender: str, label: str, count: str, part: str) -> None:
        """Hear a part of an event that another worker shows."""
        parts = self._parts.setdefault(label, [])
        parts.append(part)
        if len(parts) == int(count):
            del self._parts[label]
            if sender != self._incarnation and self._receiver is not None:
                self._workers.setdefault(sender, frozenset())  # its kinds come with the next look
                self._receiver.bus.notify(Event.model_validate_json("".join(parts).encode("latin-1")))

    async def _adopt_orphans(self, receiver: Receiver) -> None:
        """Take over what no living worker has, whenever there may be some."""
        while True:
            self._adopts_since = math.inf
            await self._orphans.wait()
            self._orphans.clear()
            self._adopts_since = time.monotonic()
            with suppress(StoreFailed):  # it is away, and is looked at again when it is back
                messages, heads = await self._adopt(receiver)
                self._deliver(messages)
                receiver.wake([ActorRef(*row[:2]) for row in heads if row[2]], "recover")
                for kind, name, _, wake_at in heads:
                    if wake_at is not None and (wait := wake_at - time.time()) < _ALARM_SECONDS:
                        loop = asyncio.get_running_loop()
                        loop.call_later(max(0.0, wait), receiver.wake, [ActorRef(kind, name)], "wake")

    async def _adopt(self, receiver: Receiver) -> tuple[list[Row], list[Row]]:
        """Make messages and actors without a living worker this worker's; other types wait for others."""
        if not await self._database.read(_rows, HAS_ORPHANS, ()):
            self._passed_over = set()
            return [], []
        kinds = sorted(receiver.kinds)
        messages, heads, others = await self._database.write(adopt, self._incarnation, kinds)
        passed_over = {kind for (kind,) in others}
        if new := passed_over - self._passed_over:
            _logger.warning("Open work waits for a worker that has %s", ", ".join(sorted(new)))
        self._passed_over = passed_over
        return messages, heads

    async def _fetch(self) -> None:
        """Deliver the messages that other workers leave here."""
        while True:
            await self._mail.wait()
            self._mail.clear()
            values = (list(self._fetched), self._incarnation)
            with suppress(StoreFailed):  # it is away, and news come when it is back
                rows = await self._database.read(_rows, _SELECT_SENT_HERE, values)
                self._fetched = {row[0] for row in rows}
                self._deliver([row for row in rows if row[2] is not None])

    def _deliver(self, rows: Sequence[Row]) -> None:
        for delivery in _deliveries(rows):
            if self._receiver is not None:
                self._receiver.deliver(delivery)

    def _choose_owner(self, ref: ActorRef) -> str:
        """The worker for an actor without one: this one if it can, so that actors of a task live together.

        It answers also for actors that commit here.
        """
        if self._receiver is not None and ref.type in self._receiver.kinds:
            return self._incarnation
        able = [name for name, kinds in self._workers.items() if ref.type in kinds]
        return place(ref, able) if able else ""


def _rows(session: Session, statement: str, values: Sequence[Any]) -> list[Row]:
    return session.execute(statement, values).fetchall()


def check_joined(session: Session, incarnation: str) -> None:
    """End a connection to another server than the one where a worker has joined, such as an old primary."""
    if not session.execute("SELECT 1 FROM workers WHERE incarnation = ?", (incarnation,)).fetchall():
        session.connection.close()
        raise StoreFailed("Connections of this worker led to several servers")


def _leave(session: Session, incarnation: str) -> None:
    session.execute("DELETE FROM workers WHERE incarnation = ?", (incarnation,))
    session.notify("w")


def _notify(session: Session, payloads: Sequence[str]) -> None:
    for payload in payloads:
        session.notify(payload)


def _sent_at_most_once(result: None, error: StoreFailed | None) -> None:
    """A broadcast has no caller that waits."""


def _deliveries(rows: Sequence[Row]) -> list[Delivery]:
    return [Delivery(Message.decode(data), n, bool(remember)) for n, remember, data in rows]
