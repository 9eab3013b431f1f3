"""Commits on PostgreSQL: waiting batches share one transaction; listeners see the events of all workers.

The writer commits a group of batches by one call of the server; each batch stands or falls by itself. The
function `mesh_commit`, which a migration makes, locks actors first, in one order for all workers, and numbers
events last, so that no two transactions wait for each other.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from meshwright.core.errors import Conflict, StoreFailed, StoreUnavailable
from meshwright.core.events import Event
from meshwright.engine.events import table
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.table import NEWS_SECONDS, Written, fill_blocks, newest, pruned_through
from meshwright.engine.events.tails import read_news
from meshwright.engine.kernel.envelope import ActorRef, Record
from meshwright.engine.kernel.rows import delete_heads, head_row, record_row
from meshwright.engine.kernel.store import AlreadyTaken, Batch, Delivery, Receiver
from meshwright.engine.sql.database import Database, Row, Session, by_one_call
from meshwright.engine.sql.postgres import array
from meshwright.engine.stores.postgres.marks import Marks

_MAX_BATCHES = 96  # in a group: the others are prepared while it is written
_GATHERING_TURNS = 8  # of the event loop: a turn of an actor leads to its commit in about that many
_SHOWN_AT_ONCE = 500  # events
_QUIET_LOOKS = 2
_REMEMBERED = 256  # of the last events, by which a database that came back older is noticed


class _Waiting(NamedTuple):
    batch: Batch
    future: asyncio.Future[None]


class Commits:
    """Hands batches to the writer: one group is filled while another is written."""

    def __init__(
        self,
        database: Database,
        log: EventLog,
        owner_of: Callable[[ActorRef], str],
        deliver: Callable[[Delivery], None],
        tell: Callable[[Sequence[Event]], None],
    ) -> None:
        self._database, self._log = database, log
        self._choose_owner = owner_of
        self._deliver, self._tell = deliver, tell
        self._filling: list[_Waiting] = []
        self._writing = False
        self.incarnation = ""
        self.is_alone = True
        """Whether no other worker lives."""

    async def commit(self, batch: Batch) -> None:
        """Write a batch; durable when this returns. Raises Conflict, AlreadyTaken and StoreUnavailable."""
        waiting = _Waiting(batch, asyncio.get_running_loop().create_future())
        self._filling.append(waiting)
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().call_soon(self._flush)  # with all that comes by then
        await waiting.future

    def _flush(self) -> None:
        size = _size_of_group(self._filling)
        group, self._filling = self._filling[:size], self._filling[size:]
        rows = [tuple(self._batch_rows(waiting.batch)) for waiting in group]
        settled = partial(self._settled, group, self.incarnation)
        if isinstance(group[0].batch.unless, str):
            self._database.submit(write_unless_known, (self.incarnation, rows[0]), settled)
        else:
            self._database.submit(write_batches, (self.incarnation, rows), settled)

    def _batch_rows(self, batch: Batch) -> BatchRows:
        unless, unless_id = _unless(batch)
        return BatchRows(
            expected=[(ref.type, ref.id, revision) for ref, revision in batch.expected.items()],
            ahead=[tuple(ref) for ref in batch.ahead],
            heads=[(*head_row(ref, record), self._choose_owner(ref)) for ref, record in batch.actors.items()],
            taken_numbers=batch.taken_numbers,
            records=[record_row(record) for record in batch.records],
            messages=[self._delivery_row(item) for item in batch.messages],
            events=self._log.rows(batch.events)[0],
            unless=unless,
            unless_id=unless_id,
        )

    def _delivery_row(self, item: Delivery) -> tuple[str, str, str, bool, bool, bytes]:
        to = item.message.to
        owner, is_for_one = item.worker or self._choose_owner(to), bool(item.worker)
        return to.type, to.id, owner, is_for_one, item.remember, item.message.encode()

    def _settled(
        self,
        group: Sequence[_Waiting],
        incarnation: str,
        outcome: tuple[Sequence[BatchResult], Written | None, bool] | None,
        error: StoreFailed | None,
    ) -> None:
        """Go on with the next group, and tell the callers of this one. On the event loop.

        A worker that is alone writes the next group meanwhile. Others wait for the batches that these lead
        to: a group wakes every worker and locks the log, so that fewer and larger ones are cheaper for all.
        """
        self._go_on(0 if len(group) == 1 or self.is_alone else _GATHERING_TURNS)
        if outcome is None:
            problem = StoreUnavailable(str(error))
            for waiting in group:
                _settle(waiting, problem)
            return
        results, log_result, is_block_full = outcome
        if is_block_full:
            self._database.submit(fill_blocks, (time.time(),), _written_later)
        for waiting, (state, detail, numbers, owners) in zip(group, results, strict=True):
            if state == "written":
                for item, number, owner in zip(waiting.batch.messages, numbers, owners, strict=True):
                    item.number = number
                    if owner == incarnation:
                        self._deliver(Delivery(item.message, item.number, item.remember))
            _settle(waiting, _problem(state, detail))
        if log_result is not None:
            standing = zip(group, results, strict=True)
            events = [
                event for (batch, _), result in standing if result[0] == "written" for event in batch.events
            ]
            # Behind the callers: a listener may read an actor of another batch, and wait for its next event.
            asyncio.get_running_loop().call_soon(self._tell, self._log.number(events, log_result))

    def _go_on(self, turns: int) -> None:
        """Write the batches that wait, after so many turns of the event loop."""
        if turns:
            asyncio.get_running_loop().call_soon(self._go_on, turns - 1)
            return
        self._writing = bool(self._filling)
        if self._filling:
            self._flush()


def _size_of_group(waiting: Sequence[_Waiting]) -> int:
    """How many batches are written together: an event from outside is looked up first, alone."""
    apart = (n for n, (batch, _) in enumerate(waiting[:_MAX_BATCHES]) if isinstance(batch.unless, str))
    return max(1, next(apart, _MAX_BATCHES))


def _written_later(result: None, error: StoreFailed | None) -> None:
    """Summaries are written with the next block, or at the next start."""


def _unless(batch: Batch) -> tuple[Unless, str]:
    if isinstance(batch.unless, Record):
        return "record", ""
    return ("event", batch.unless) if batch.unless is not None else ("", "")


def _problem(state: str, detail: Sequence[Any]) -> Exception | None:
    if state == "moved":
        return Conflict(f"{ActorRef(*detail)} is not at its revision any more")
    if state == "expired":
        return StoreUnavailable("the lease of this worker has run out; another may have taken over the work")
    return AlreadyTaken(detail) if state == "taken" else None


def _settle(waiting: _Waiting, problem: Exception | None) -> None:
    if not waiting.future.done():
        waiting.future.set_result(None) if problem is None else waiting.future.set_exception(problem)


class News:
    """Shows listeners the events of all workers: our own as they are committed, others' as they are read."""

    def __init__(self, database: Database, log: EventLog) -> None:
        self._database, self._log = database, log
        self._receiver: Receiver | None = None
        self._shown = 0  # the seq through which all events were shown to listeners
        self._own: set[int] = set()  # shown out of order, since they are this worker's
        self._seen: deque[tuple[int, str]] = deque(maxlen=_REMEMBERED)  # the last events: seq and id
        self._is_due = asyncio.Event()

    def begin(self, receiver: Receiver, newest: int) -> None:
        """Show the events behind a `seq`."""
        self._receiver, self._shown = receiver, newest
        self._own.clear()
        self._seen.clear()

    @property
    def marks(self) -> Marks:
        """The last events that were seen."""
        return sorted(self._seen)

    def recall(self, marks: Marks) -> None:
        """Take up what was seen before a start."""
        self._seen.extend(marks)

    async def loss(self) -> tuple[int, int] | None:
        """The last `seq` that the database still has, and the last that this worker knows of.

        None where nothing is gone: a server that is restored, or a standby that lagged, lacks events.
        """
        marks = self.marks
        last_known = max(self._shown, marks[-1][0] if marks else 0)
        newest, still_there, read_through = await self._database.read(_still_there, marks)
        missing_seqs = [seq for seq, _ in marks if seq <= read_through and seq not in still_there]
        if not missing_seqs and newest >= last_known:
            return None
        return min([newest, *(seq - 1 for seq in missing_seqs)]), last_known

    def has_shown(self, seq: int) -> bool:
        """Whether listeners have heard of all events through a `seq`."""
        return seq <= self._shown

    def look(self) -> None:
        """Look for events of other workers."""
        self._is_due.set()

    def tell(self, events: Sequence[Event]) -> None:
        """Show events of this worker: durable, and perhaps before earlier ones of others."""
        assert self._receiver is not None
        self._log.committed(events)
        for event in events:
            seq = event.seq or 0
            self._seen.append((seq, event.id))
            if seq > self._shown:  # else the notification of this commit was faster
                self._own.add(seq)
                self._receiver.bus.notify(event)
        self._pass_own()

    async def show(self) -> None:
        """Show the events of the other workers, in the order of the log, for ever.

        Events that follow a notification closely have none of their own, and their commits take time: it
        looks again until two looks in a row find nothing.
        """
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            quiet_looks = 0
            while quiet_looks < _QUIET_LOOKS:
                quiet_looks += 1
                with suppress(StoreFailed):  # it is away, and news come when it is back
                    while await self._show_some():
                        quiet_looks = 0
                await asyncio.sleep(NEWS_SECONDS)

    async def _show_some(self) -> bool:
        """Show some events; whether there were any, and may be more."""
        assert self._receiver is not None
        first, bus = self._shown + 1, self._receiver.bus
        is_followed = bool(self._log.readers)
        unheard = () if is_followed else tuple(bus.unheard)
        events, reached = await self._database.read(_read_new, first, unheard)
        if reached < first:
            return False
        if not bus.unheard.issuperset(unheard):
            return True  # somebody listens to more since then: they are read again
        first = self._shown + 1  # events of this worker may have come meanwhile
        own = self._own.intersection(range(first, reached + 1))
        self._own -= own
        self._shown = max(self._shown, reached)
        if is_followed:
            self._log.committed(events)
        else:
            self._log.reach(reached)
        for event in events:
            if (event.seq or 0) >= first and event.seq not in own:
                self._seen.append((event.seq or 0, event.id))
                self._receiver.moved(ActorRef.parse(event.aggregate_id))
                bus.notify(event)
        self._pass_own()
        return True

    def _pass_own(self) -> None:
        while self._shown + 1 in self._own:
            self._shown += 1
            self._own.discard(self._shown)


def _read_new(
    session: Session, first: int, unheard: Sequence[tuple[str, str]]
) -> tuple[Sequence[Event], int]:
    """The events from a `seq` on, some at once, and the `seq` through which these are all."""
    last = min(newest(session), first + _SHOWN_AT_ONCE - 1)
    if last < first:
        return (), last
    events, reached, _ = read_news(session, first, last, unheard)
    return events, reached


def _still_there(session: Session, marks: Sequence[tuple[int, str]]) -> tuple[int, set[int], int]:
    """The last `seq`, those of some events that are there still, and through which `seq` that is known."""
    last = newest(session)
    if not marks or marks[0][0] <= pruned_through(session):
        return last, set(), 0
    events, read_through, _ = read_news(session, marks[0][0], marks[-1][0], [])
    ids = {event.seq: event.id for event in events}
    return last, {seq for seq, event_id in marks if ids.get(seq) == event_id}, read_through


def place(ref: ActorRef, workers: Sequence[str]) -> str:
    """The worker on which the messages of an actor land: the same for all, as long as it lives."""

    def rank(incarnation: str) -> bytes:
        return blake2b(f"{incarnation} {ref.type}/{ref.id}".encode(), digest_size=8).digest()

    return max(workers, key=rank)


_LOCK_HEADS = """
    SELECT type, id, revision FROM heads
    WHERE (type, id) IN (SELECT * FROM unnest(?::text[], ?::text[])) ORDER BY type, id FOR UPDATE
"""

Unless = Literal["", "record", "event"]
BatchResult = tuple[str, Sequence[Any], Sequence[int], Sequence[str]]
"""`written`, `skipped`, `expired` (a record of a worker whose lease is over), `moved` (an actor had another
revision: its type and id) or `taken` (the numbers of messages that were gone); then the numbers and owners of
the messages that were sent."""


class BatchRows(NamedTuple):
    """A batch as plain rows."""

    expected: Sequence[tuple[str, str, int]]
    """Type, id and revision of each actor that the batch rests on; revision 0 for one without a record."""
    ahead: Sequence[tuple[str, str]]
    """Type and id of actors for which no message may wait."""
    heads: Sequence[Row]
    taken_numbers: Sequence[int]
    records: Sequence[Row]
    messages: Sequence[tuple[str, str, str, bool, bool, bytes]]
    """Type and id of the receiver, an owner, whether it is for this owner alone, `remember`, and the message.

    Else it is for the owner of the messages that wait for that receiver, or of its record, if there is one.
    Without an owner (""), the message waits for a worker that runs the type.
    """
    events: Sequence[Row]
    unless: Unless
    """Skip the batch where its record, or the event of `unless_id`, is known."""
    unless_id: str


_EXPECTED = "text", "text", "bigint"
_REFS = "text", "text"
_HEADS = (
    *("boolean", "text", "text", "bigint", "text", "bigint"),
    *("double precision", "smallint", "bytea", "bytea", "text"),
)
_TAKEN = ("bigint",)
_RECORDS = "text", "text", "text", "bigint", "bytea"
_MESSAGES = "text", "text", "text", "boolean", "smallint", "bytea"


@by_one_call
def write_batches(
    session: Session, incarnation: str, batches: Sequence[Sequence[Any]]
) -> tuple[Sequence[BatchResult], Written | None, bool]:
    """Write batches, each the fields of a `BatchRows`; returns their results, and the numbers of events.

    Last whether a block of the log is full, so that `table.fill_blocks` is due.
    """
    group = [BatchRows(*rows) for rows in batches]
    heads: list[list[Row]] = []
    expected: list[Sequence[Row]] = []
    shifted: list[Sequence[Row]] = []
    for batch in group:
        revisions = {(kind, name): revision for kind, name, revision in batch.expected}
        heads.append([(not revisions[row[:2]], *row) for row in batch.heads])
        created = {row[1:3] for row in heads[-1] if row[0]}
        expected.append([row for row in batch.expected if row[:2] not in created])
        # An actor that was handed a task to offer has it in memory alone until it is claimed: it moves here
        # with the message, though it changed nothing.
        unchanged = revisions.keys() - {row[:2] for row in batch.heads} if batch.taken_numbers else ()
        shifted.append(sorted(unchanged))
    values = [
        incarnation,
        session.channel,
        *session.lists(("boolean",), [[batch.unless == "record" for batch in group]]),
        *_lists(session, _EXPECTED, expected),
        *_lists(session, _REFS, [batch.ahead for batch in group]),
        *_lists(session, _HEADS, heads),
        *_lists(session, _REFS, shifted),
        *_lists(session, _TAKEN, [[(n,) for n in batch.taken_numbers] for batch in group]),
        *_lists(session, _RECORDS, [batch.records for batch in group]),
        *_lists(session, _MESSAGES, [batch.messages for batch in group]),
        *_lists(session, table.SEALED_KINDS, [table.sealed_rows(session, batch.events) for batch in group]),
    ]
    [row] = session.call("mesh_commit", values).fetchall()
    ends, moved, there, numbers, owners, first_seq, dropped, fills = row
    results = _results(group, ends, moved, there, zip(numbers or (), owners or (), strict=True))
    return results, None if first_seq is None else (first_seq, dropped), bool(fills)


def _lists(session: Session, kinds: Sequence[str], rows_of: Sequence[Sequence[Row]]) -> Sequence[Any]:
    """Rows of batches as lists of their columns, behind a list of the numbers of their batches."""
    rows = [(n, *row) for n, rows in enumerate(rows_of, 1) for row in rows]
    columns = zip(*rows, strict=True) if rows else [()] * (1 + len(kinds))
    return session.lists(("smallint", *kinds), columns)


def _results(
    group: Sequence[BatchRows],
    ends: Sequence[str],
    moved: Sequence[str | None],
    there: Sequence[int] | None,
    placements: Iterable[tuple[int, str]],
) -> Sequence[BatchResult]:
    results: list[BatchResult] = []
    placement, remaining = iter(placements), set(there or ())
    for batch, end, actor in zip(group, ends, moved, strict=True):
        if end == "written":
            remaining.difference_update(batch.taken_numbers)
            placed = [next(placement) for _ in batch.messages]
            results.append((end, (), [n for n, _ in placed], [owner for _, owner in placed]))
        elif end == "taken":
            results.append((end, [n for n in batch.taken_numbers if n not in remaining], (), ()))
        else:
            results.append((end, actor.split("/", 1) if actor else (), (), ()))
    return results


def write_unless_known(
    session: Session, incarnation: str, batch: Sequence[Any]
) -> tuple[Sequence[BatchResult], Written | None, bool]:
    """Write a batch of an event from outside, unless the log has its id: as `write_batches` does for one."""
    event_id, reached = BatchRows(*batch).unless_id, newest(session)
    is_known = table.knows(session, event_id)  # the log first without its lock, for which all commits wait
    if not is_known:
        table.lock(session)  # no other worker writes one of that id meanwhile
        is_known = table.knows(session, event_id, after_seq=reached)
    if is_known:
        return [("skipped", (), (), ())], None, False
    return write_batches(session, incarnation, [batch])


def delete_locked(session: Session, heads: Sequence[tuple[str, str, int]]) -> list[tuple[str, str]]:
    """Delete the records of actors that are still at their revisions; returns the actors of those deleted."""
    columns = session.lists(_REFS, [[head[0] for head in heads], [head[1] for head in heads]])
    session.execute(_LOCK_HEADS, columns).fetchall()
    return delete_heads(session, heads)


HAS_ORPHANS = """
    WITH RECURSIVE of_messages AS (
        (SELECT owner FROM messages ORDER BY owner LIMIT 1)
        UNION ALL
        SELECT (SELECT owner FROM messages WHERE owner > before.owner ORDER BY owner LIMIT 1)
        FROM of_messages AS before WHERE before.owner IS NOT NULL
    ), of_heads AS (
        (SELECT owner FROM heads WHERE obliged = 1 OR wake_at IS NOT NULL ORDER BY owner LIMIT 1)
        UNION ALL
        SELECT (SELECT owner FROM heads WHERE (obliged = 1 OR wake_at IS NOT NULL) AND owner > before.owner
            ORDER BY owner LIMIT 1)
        FROM of_heads AS before WHERE before.owner IS NOT NULL
    )
    SELECT 1 FROM (SELECT owner FROM of_messages UNION ALL SELECT owner FROM of_heads) AS owners
    WHERE owner IS NOT NULL AND owner NOT IN (SELECT incarnation FROM workers) LIMIT 1
"""
"""One step for each owner, by the indices: there may be many open actors."""


_ADOPT_MESSAGES = """
    WITH mine AS (UPDATE messages SET owner = ?, fetched = 1 WHERE n IN (
        SELECT n FROM messages WHERE type = ANY(?::text[])
        AND NOT EXISTS (SELECT 1 FROM workers WHERE incarnation = owner)
        FOR UPDATE SKIP LOCKED) RETURNING n, remember, message)
    SELECT * FROM mine ORDER BY n
"""


_ADOPT_HEADS = """
    UPDATE heads SET owner = ? WHERE (type, id) IN (
        SELECT type, id FROM heads WHERE (obliged = 1 OR wake_at IS NOT NULL) AND type = ANY(?::text[])
        AND NOT EXISTS (SELECT 1 FROM workers WHERE incarnation = owner) FOR UPDATE SKIP LOCKED)
    RETURNING type, id, obliged, wake_at
"""


_SELECT_PASSED_OVER = """
    SELECT DISTINCT type FROM (
        SELECT type, owner FROM messages
        UNION ALL SELECT type, owner FROM heads WHERE obliged = 1 OR wake_at IS NOT NULL) AS left_open
    WHERE NOT EXISTS (SELECT 1 FROM workers WHERE incarnation = owner) AND type <> ALL(?::text[])
"""


def adopt(session: Session, incarnation: str, kinds: Sequence[str]) -> tuple[list[Row], ...]:
    """Adopt what no living worker has, of some types: returns messages, heads, and the types of the rest."""
    values = array("text", kinds)
    return (
        session.execute(_ADOPT_MESSAGES, (incarnation, values)).fetchall(),
        session.execute(_ADOPT_HEADS, (incarnation, values)).fetchall(),
        session.execute(_SELECT_PASSED_OVER, (values,)).fetchall(),
    )
