"""Verifies a store: its lists are what its events make, and its tasks keep what the mesh promises of them.

It reads one moment of the database, and writes nothing there. A deviation is one line, with its place.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from itertools import islice

from pydantic import BaseModel

from meshwright import Event
from meshwright.component import ActorRef, TaskKey
from meshwright.core.encoding import Json
from meshwright.core.errors import StoreTooOld
from meshwright.core.task_events import TaskStarted
from meshwright.engine.events.rows import COLUMN_LIST, ERASED_EVENT, read_row
from meshwright.engine.events.tasks import PRUNED, RECORDS_PRUNED, pruned_tasks, read_outcome
from meshwright.engine.sql.migrations import pending_upgrade
from meshwright.engine.work.entry import ThreadState
from meshwright.engine.work.protocol import ORCHESTRATOR
from meshwright.engine.work.record import TaskRecord
from meshwright.kit import ENDED, FINAL, Database, Projection, Session, from_pico, marks
from meshwright.mesh.orchestration.acceptance import OPENED
from meshwright.parts.maintenance.rebuilt_lists import Rebuilt

CLAIMS = frozenset({"task.started", "task.resumed"})
_ATTEMPT = "attempt.ended"
_TYPES = FINAL | OPENED | CLAIMS | {_ATTEMPT, ERASED_EVENT, PRUNED, RECORDS_PRUNED}
_AT_ONCE = 1_000  # events
MAX_FAULTS = 1_000
_MILLION = 1_000_000
_SELECT_NUMBERS = (
    "SELECT seq, aggregate_id, own_id, task_id FROM events WHERE seq <= ? AND own_id IS NOT NULL ORDER BY seq"
)
Progress = Callable[[int, int], None]
"""Called with the number of the event that was reached, and of the last."""


class StoreVerification(BaseModel):
    """The result of a verification: how much was compared, and each deviation in a line of `faults`."""

    events: int
    lists: int
    tasks: int
    open_tasks: int
    faults: list[str]
    notes: list[str]

    def sentence(self) -> str:
        """The compared things as a sentence."""
        return (
            f"{self.lists} lists compared with {self.events:,} events, and {self.tasks:,} tasks, "
            f"{self.open_tasks:,} of them open"
        )


def verify_store(
    database: Database,
    projections: Sequence[Projection],
    migrations: Mapping[str, Traversable],
    progress: Progress | None = None,
    *,
    has_actors: bool = True,
) -> StoreVerification:
    """Verify a store on connections of its own; the mesh may run meanwhile.

    Raises StoreFailed; StoreTooOld and StoreTooNew for tables of another version.

    `has_actors` says whether the tasks themselves are in the database (`keeps_actors`). Elsewhere
    `verify_records` compares them.
    """
    with database.reading_apart() as store:
        store.execute("BEGIN" if store.dialect == "sqlite" else "BEGIN ISOLATION LEVEL REPEATABLE READ")
        _check_version(store, database.location, migrations)
        check = _StoreCheck(store, Rebuilt(projections, migrations, store), has_actors=has_actors)
        faults = list(islice(check.run(progress), MAX_FAULTS + 1))
        check.rebuilt.session.close()
    if len(faults) > MAX_FAULTS:
        faults[-1] = f"There are more deviations than the {MAX_FAULTS:,} above"
    return StoreVerification(
        events=check.events,
        lists=len(projections),
        tasks=check.tasks,
        open_tasks=check.open_tasks,
        faults=faults,
        notes=check.rebuilt.notes,
    )


def _check_version(store: Session, location: str, migrations: Mapping[str, Traversable]) -> None:
    for component, folder in migrations.items():
        if older := pending_upgrade(store, component, folder, location):
            raise StoreTooOld(
                f"{location} has the tables of an older version ({older})",
                remedy="verify it with that version, or its log alone with --audit; mesh up upgrades it",
            )


def keeps_actors(store: str) -> bool:
    """Whether the store of a mesh is its database, and so has the tasks themselves."""
    return store in ("sqlite", "postgres")


class _StoreCheck:
    def __init__(self, store: Session, rebuilt: Rebuilt, *, has_actors: bool) -> None:
        self.store, self.rebuilt, self._has_actors = store, rebuilt, has_actors
        self.events = self.tasks = self.open_tasks = 0
        self._erased: set[str] = set()
        self._pruned: set[str] = set()  # from the lists
        self._forgotten: set[str] = set()  # whose records are gone: their ids may be those of other tasks
        self._fences: dict[str, tuple[int, str | None]] = {}  # of each thread, and whose it was
        rows = store.execute("SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) FROM events").fetchall()
        [(self._oldest, self._last)] = rows
        rebuilt.session.execute("CREATE TEMP TABLE ends (type, tenant, task, generation, attempt, seq)")

    def run(self, progress: Progress | None) -> Iterator[str]:
        for events in self._batches():
            self.events += len(events)
            yield from self.rebuilt.take(events)
            for event in events:
                yield from self._take(event)
            if progress is not None:
                progress(events[-1].seq or 0, self._last)
        yield from self.rebuilt.deviations(self.store, oldest=self._oldest, erased=self._erased)
        yield from self.rebuilt.go_on()
        yield from self._doubled()
        if self._has_actors:
            yield from self._numbers()
            yield from self._heads()
        yield from self._costs()

    def _batches(self) -> Iterator[list[Event]]:
        types = sorted(self.rebuilt.types | _TYPES)
        query = (
            f"SELECT {COLUMN_LIST} FROM events WHERE seq > ? AND seq <= ? "  # noqa: S608 names in code
            f"AND event_type IN ({marks(len(types))}) ORDER BY seq LIMIT ?"
        )
        reached = 0
        while rows := self.store.execute(query, (reached, self._last, *types, _AT_ONCE)).fetchall():
            yield [read_row(row, Json) for row in rows]
            reached = rows[-1][0]

    # Events

    def _take(self, event: Event) -> Iterator[str]:
        if event.event_type in CLAIMS:
            if self._has_actors:  # else the log may have the claims of several workers in another order
                yield from self._claim(event)
        elif event.event_type == ERASED_EVENT:
            self._erased.add(event.task_id or "")
        elif event.event_type == PRUNED:
            self._pruned.update(pruned_tasks(event))
        elif event.event_type == RECORDS_PRUNED:
            self._forgotten.update(pruned_tasks(event))
        elif event.event_type == _ATTEMPT or event.event_type in FINAL:
            outcome = read_outcome(event)
            generation, attempt = (outcome.generation, outcome.attempt) if outcome else (0, 0)
            if outcome is not None:
                kind = _ATTEMPT if event.event_type == _ATTEMPT else "outcome"
                row = (kind, event.tenant_id, event.task_id, generation, attempt, event.seq)
                self.rebuilt.session.execute("INSERT INTO ends VALUES (?, ?, ?, ?, ?, ?)", row)

    def _claim(self, event: Event) -> Iterator[str]:
        fence, before = TaskStarted.from_payload(event.payload).fence, self._fences.get(event.aggregate_id)
        if fence is None:
            return  # erased
        if before is not None and fence != before[0] + 1 and not (fence == 1 and before[1] in self._pruned):
            yield (
                f"Event {event.seq:,} of {event.aggregate_id}: task {event.task_id} is claimed under fence "
                f"{fence}, and the claim before it was under {before[0]}"
            )
        self._fences[event.aggregate_id] = fence, event.task_id

    def _doubled(self) -> Iterator[str]:
        by = "type, tenant, task, generation"
        for kind, keys in (("outcome", by), (_ATTEMPT, f"{by}, attempt")):
            query = (
                "SELECT tenant, task, generation, attempt, count(*), max(seq) FROM ends "  # noqa: S608 code
                f"WHERE type = ? GROUP BY {keys} HAVING count(*) > 1"
            )
            for row in self.rebuilt.session.execute(query, (kind,)).fetchall():
                tenant, task_id, generation, attempt, count, seq = row
                if task_id in self._forgotten:
                    continue
                times_ended = "has" if kind == "outcome" else f"ended attempt {attempt}"
                times = f"{count} outcomes" if kind == "outcome" else f"{count} times"
                place = f"Event {seq:,}: task {task_id} of tenant {tenant}"
                yield f"{place} {times_ended} {times} in generation {generation}"

    def _numbers(self) -> Iterator[str]:
        """The numbers that actors give to what they send: each is used once, and their heads know them.

        An actor whose tasks were pruned may be without a record, or have another, which counts from 1. The
        thread of tasks that are pruned just now may be without one too.
        """
        query = "SELECT task_id FROM tasks WHERE completed_at IS NULL"
        opened = {task_id for (task_id,) in self.rebuilt.session.execute(query).fetchall()}
        needed = set[str]()  # threads of open tasks
        sent: dict[str, int] = {}
        all_pruned: dict[str, bool] = {}  # whether all tasks of an actor were pruned
        for seq, aggregate_id, own, task_id in self.store.stream(_SELECT_NUMBERS, (self._last,)):
            if not own.isdecimal():
                continue
            if int(own) <= sent.get(aggregate_id, 0) and not all_pruned[aggregate_id]:
                yield f"Event {seq:,}: {aggregate_id} has published its number {own} already"
            sent[aggregate_id] = int(own)
            all_pruned[aggregate_id] = task_id in self._pruned and all_pruned.get(aggregate_id, True)
            if task_id in opened or aggregate_id.startswith(f"{ORCHESTRATOR}/"):
                needed.add(aggregate_id)
        heads = self.store.stream("SELECT type, id, sent FROM heads")
        numbers = {f"{kind}/{name}": number for kind, name, number in heads}
        for aggregate_id, number in sent.items():
            if aggregate_id not in numbers and (all_pruned[aggregate_id] or aggregate_id not in needed):
                continue
            if aggregate_id not in numbers:
                yield f"Actor {aggregate_id}: it has published events, and has no record"
            elif number > numbers[aggregate_id]:
                own = numbers[aggregate_id]
                yield f"Actor {aggregate_id}: it has published number {number}, and knows of {own}"

    # Tasks

    def _heads(self) -> Iterator[str]:
        """Each accepted task has its one outcome, or is open and somebody has it; the list says the same."""
        query = "SELECT tenant_id, task_id, seq, status, attempts FROM tasks"
        listed = {TaskKey(*row[:2]): row[2:] for row in self.rebuilt.session.execute(query).fetchall()}
        query = "SELECT tenant, task, generation FROM ends WHERE type = 'outcome'"
        outcomes = {(TaskKey(*row[:2]), row[2]) for row in self.rebuilt.session.execute(query).fetchall()}
        waiting = self._messages()
        opened: list[tuple[str, TaskKey, TaskRecord, bool]] = []  # a connection reads one query at a time
        rows = self.store.stream("SELECT id, obliged, state FROM heads WHERE type = ?", (ORCHESTRATOR,))
        for name, obliged, state in rows:
            key = TaskKey.from_ref(ActorRef(ORCHESTRATOR, name))
            place = f"Task {key.task_id} of tenant {key.tenant_id}"
            try:
                record = TaskRecord.model_validate_json(state)
                task = record.task
            except ValueError as error:
                yield f"{place}: its record cannot be read: {error}"
                continue
            if task is None:
                continue
            self.tasks += 1
            if record.is_open:
                self.open_tasks += 1
                opened.append((place, key, record, bool(obliged)))
            elif (key, task.generation) not in outcomes and not self._is_gone(key, listed):
                yield f"{place}: it has ended ({record.status}), and no event says so"
            yield from self._listed(place, key, record, listed.pop(key, None))
        for place, key, record, obliged in opened:
            yield from self._open(place, key, record, obliged, waiting)
        for key, (seq, *_) in listed.items():
            place = f"Event {seq:,}: task {key.task_id} of tenant {key.tenant_id}"
            yield f"{place} was accepted, and has no record"

    def _is_gone(self, key: TaskKey, listed: Mapping[TaskKey, Sequence[object]]) -> bool:
        """Whether the events of an ended task were erased or pruned."""
        return key.task_id in self._erased or (self._oldest > 1 and key not in listed)

    def _open(
        self, place: str, key: TaskKey, record: TaskRecord, obliged: bool, waiting: Sequence[bytes]
    ) -> Iterator[str]:
        if not obliged:
            yield f"{place}: it is open ({record.status}), and no start resumes it"
        attempt, task = record.open_attempt, record.task
        if attempt is None or task is None:
            return  # it waits for the task before it, or its outcome is on its way
        thread = ActorRef(attempt.agent_id, f"{key.tenant_id}:{task.thread_id}")
        row = self.store.execute("SELECT state FROM heads WHERE type = ? AND id = ?", thread).fetchone()
        state = ThreadState.model_validate_json(row[0]) if row else ThreadState()
        entries = [entry for entry in state.inbox if entry.task_id == key.task_id]
        for wait in [wait for entry in entries for wait in entry.waits if wait.child_task_id is not None]:
            child = self._read_record(TaskKey(key.tenant_id, wait.child_task_id or ""))
            is_on_its_way = any(wait.wait_id.encode() in message for message in waiting)
            if child is not None and child.outcome is not None and not is_on_its_way:
                yield (
                    f"{place}: it waits for task {wait.child_task_id}, which has ended ({child.status}), and "
                    f"its outcome did not arrive; a start of the mesh with agent {thread.type} asks for it"
                )
        if not entries and not any(key.task_id.encode() in message for message in waiting):
            yield f"{place}: it is open, and neither its thread {thread} nor a message has it"

    def _read_record(self, key: TaskKey) -> TaskRecord | None:
        row = self.store.execute("SELECT state FROM heads WHERE type = ? AND id = ?", key.ref).fetchone()
        return TaskRecord.model_validate_json(row[0]) if row and row[0] else None

    def _listed(
        self, place: str, key: TaskKey, record: TaskRecord, row: Sequence[object] | None
    ) -> Iterator[str]:
        if key.task_id in self._erased or key.task_id in self._pruned:
            return
        if row is None:
            if self._oldest == 1:
                yield f"{place}: it has a record, and no event says that it was accepted"
            return
        _, status, attempts = row
        attempt_count = max(1, len(record.attempts))  # that of its outcome, where nobody could try
        if (record.status in ENDED or status in ENDED) and (record.status, attempt_count) != (
            status,
            attempts,
        ):
            recorded = f"{record.status} in attempt {attempt_count}"
            yield f"{place}: its record says {recorded}, its events {status} in {attempts}"

    def _messages(self) -> list[bytes]:
        table = "mailbox" if self.store.dialect == "sqlite" else "messages"
        return [bytes(row[0]) for row in self.store.execute(f"SELECT message FROM {table}").fetchall()]  # noqa: S608

    # Money

    def _costs(self) -> Iterator[str]:
        """A task that succeeded says what the calls of it, and of all that it delegated, have cost."""
        calls = (
            f"SELECT tenant_id, task_id, sum(cost_pico / {_MILLION}), sum(cost_pico % {_MILLION}), "  # noqa: S608
            "max(cost_pico IS NULL OR outcome <> 'ok' OR cost_source = 'estimated') "
            "FROM calls WHERE task_id IS NOT NULL GROUP BY tenant_id, task_id"
        )
        own = {row[:2]: row[2:] for row in self.rebuilt.session.execute(calls).fetchall()}
        total: defaultdict[tuple[str, str], int] = defaultdict(int)
        unsure = Counter[tuple[str, str]]()
        tasks = (
            "SELECT tenant_id, task_id, parent_task_id, status, cost_usd FROM tasks WHERE seq >= ? "
            "ORDER BY seq DESC"  # what a task delegates comes after it
        )
        for tenant_id, task_id, parent_id, status, cost in self.rebuilt.session.stream(
            tasks, (self._oldest,)
        ):
            key = (tenant_id, task_id)
            millions, rest, is_unsure = own.get(key, (0, 0, 0))
            total[key] += (millions or 0) * _MILLION + (rest or 0)
            unsure[key] += bool(is_unsure) + (status != "succeeded") + (task_id in self._erased)
            if parent_id is not None:
                total[tenant_id, parent_id] += total[key]
                unsure[tenant_id, parent_id] += unsure[key]
            if cost is None or unsure[key]:
                continue
            spent = from_pico(total[key])
            if spent != type(spent)(cost):
                yield (
                    f"Task {task_id} of tenant {tenant_id}: its outcome says ${cost}, "
                    f"and its calls of models cost ${spent:f}"
                )
