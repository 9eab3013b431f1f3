"""The list of tasks: a projection of the log, one row for each task of a tenant.

An ended generation takes nothing more, and an attempt nothing from those before it, so that events which
arrive late do no harm. A payload that is not of its type's shape counts as empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeVar

from msgspec import Raw
from pydantic import BaseModel

from meshwright.core.encoding import Json, Struct, View, encode
from meshwright.core.errors import InvalidInput
from meshwright.core.events import Event
from meshwright.core.messages import Outcome, Parent, TaskStatus, Usage
from meshwright.core.money import Amount, exact
from meshwright.core.payloads import Fact
from meshwright.core.step_events import RunTitled
from meshwright.core.task_events import AttemptFailed, TaskAccepted, TaskStarted, TaskWaiting
from meshwright.engine.events.filter import seconds
from meshwright.engine.events.search import TextMatch, delete_texts
from meshwright.engine.sql.database import Row, Session

MAX_REASON_CHARS = 500
_MAX_TEXT_CHARS = 1_000  # of a request
_MAX_TITLE_CHARS = 120
_MAX_FIGURE = 2**53  # every part of the mesh can hold smaller ones exactly
USAGE = ("prompt_tokens", "completion_tokens")
_DELETE = "DELETE FROM tasks WHERE task_id = ? AND tenant_id = ?"
_HOUR_SECONDS = 3600
_INTO_HOURS = "task_hours (tenant_id, time, agent_id, status, tasks)"
_ADD_TO_HOURS = (
    "ON CONFLICT (tenant_id, time, agent_id, status) DO UPDATE SET tasks = task_hours.tasks + excluded.tasks"
)
_DELETE_EMPTY_HOUR = (
    "DELETE FROM task_hours WHERE tenant_id = ? AND time = ? AND agent_id = ? AND status = ? AND tasks = 0"
)
_HOUR = {"sqlite": "CAST(completed_at / 3600 AS INTEGER)", "postgres": "floor(completed_at / 3600)"}
_TIMES = ("created_at", "updated_at", "completed_at")
ModelT = TypeVar("ModelT", bound=Struct)
_End = tuple[str, float, str, str]


class TaskSummary(View):
    """One task in a list. `reason` says why it waits or how it failed; `seq` is of its first event.

    `title` is the one that its agent set, else the first line of its request.

    `error` is the type of the error by which it failed.

    `code` is the digest of its agent's code as its attempt began, `once` how many steps that are not
    idempotent had begun when it last waited.

    `cost_usd` is None if the price is unknown.

    `match` is a piece of a text with the words of the search, None without a search.
    """

    seq: Fact[int]
    last_seq: Fact[int]
    task_id: Fact[str]
    tenant_id: Fact[str]
    capability: Fact[str]
    status: Fact[TaskStatus]
    agent_id: Fact[str | None]
    priority: Fact[int | None]
    requested_by: Fact[str | None]
    thread_id: Fact[str | None]
    parent_task_id: Fact[str | None]
    trace_id: Fact[str | None]
    generation: Fact[int]
    attempts: Fact[int]
    reason: str | None
    error: Fact[str | None]
    created_at: Fact[datetime]
    updated_at: Fact[datetime]
    completed_at: Fact[datetime | None]
    duration_ms: Fact[float | None]
    model: Fact[str | None]
    usage: Fact[Usage]
    cost_usd: Fact[Amount | None]
    code: Fact[str | None] = None
    once: Fact[int] = 0
    title: str | None = None
    match: TextMatch | None = None

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)


class TaskPage(View):
    """Some tasks, newest first; `cursor` asks for those that follow, and is None at the end.

    `unindexed` is how many tasks a search may have missed: their newest texts are still being indexed.
    """

    items: Fact[tuple[TaskSummary, ...]]
    cursor: Fact[str | None] = None
    unindexed: Fact[int] = 0


PRUNED = "tasks.pruned"
"""The event of tasks of its tenant that have left the lists by age; its payload has their ids (`tasks`)."""
RECORDS_PRUNED = "records.pruned"
"""The event of such tasks whose records are gone too, since they were old enough; it has their ids too."""


class TaskProjection:
    """The tables `tasks` and `task_hours`."""

    name = "tasks"
    version = 2

    @property
    def event_types(self) -> Collection[str]:
        """The events that change a row."""
        return _TYPES

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """Go on with the rows of these events' tasks; each row is written once."""
        for is_pruning, some in by_pruning(events):
            if is_pruning:
                self._delete(session, some)
            else:
                self._change(session, some)

    def _delete(self, session: Session, events: Iterable[Event]) -> None:
        hours = Counter[_End]()
        for event in events:
            for task_id in pruned_tasks(event):
                row = _stored(session, {task_id}).get((task_id, event.tenant_id))
                if row is not None and row.end is not None:
                    hours[row.end] -= 1
                delete_texts(session, "task_id = ? AND tenant_id = ?", (task_id, event.tenant_id))
                session.execute(_DELETE, (task_id, event.tenant_id))
        _add_to_hours(session, hours)

    def _change(self, session: Session, events: Iterable[Event]) -> None:
        by_task: dict[tuple[str, str], list[Event]] = {}
        for event in events:
            if event.task_id and event.event_type in _CHANGES:
                by_task.setdefault((event.task_id, event.tenant_id), []).append(event)
        rows = _stored(session, {task_id for task_id, _ in by_task})
        for key, changes in by_task.items():
            if key not in rows:
                rows[key] = _TaskRow.from_event(changes[0], key[0])
            rows[key].take(changes)
        session.insert(_INTO, [_columns_of(rows[key]) for key in by_task], then=_REPLACE)
        for row in filter(_TaskRow.has_moved, rows.values()):
            values = *_place_of(row), row.task_id, row.tenant_id
            session.execute(_MOVE, [*map(session.bindable, values)])
        hours = Counter[_End]()
        for row in (rows[key] for key in by_task):
            if row.end != row.stored_end:
                hours.update({end: change for end, change in ((row.stored_end, -1), (row.end, 1)) if end})
        _add_to_hours(session, hours)

    def clear(self, session: Session, oldest: int) -> None:
        """Forget the tasks whose first event is in the log."""
        session.execute("DELETE FROM tasks WHERE seq >= ?", (oldest,))
        recount_ended(session)


def _add_to_hours(session: Session, hours: Counter[_End]) -> None:
    session.insert(_INTO_HOURS, [(*end, count) for end, count in hours.items()], then=_ADD_TO_HOURS)
    for end in (end for end, count in hours.items() if count <= 0):
        session.execute(_DELETE_EMPTY_HOUR, end)


def recount_ended(session: Session) -> None:
    """Count the tasks that ended in each hour again, by the list of tasks."""
    session.execute("DELETE FROM task_hours")
    session.execute(
        f"INSERT INTO {_INTO_HOURS} SELECT tenant_id, {_HOUR[session.dialect]} * {_HOUR_SECONDS}, agent_id, "  # noqa: S608
        "status, count(*) FROM tasks WHERE completed_at IS NOT NULL AND agent_id IS NOT NULL "
        "GROUP BY 1, 2, 3, 4"
    )


def by_pruning(events: Iterable[Event]) -> Iterator[tuple[bool, Iterator[Event]]]:
    """Events in parts: those by which tasks are pruned, and those between them, in which an id may return."""
    return groupby(events, lambda event: event.event_type in (PRUNED, RECORDS_PRUNED))


def pruned_tasks(event: Event) -> list[str]:
    """The ids of the tasks that were pruned with an event; none where its payload is of another shape."""
    ids = event.fields.get("tasks")  # the event is of a part above
    return [task_id for task_id in ids if isinstance(task_id, str)] if isinstance(ids, list) else []


def parse_cursor(cursor: str | None) -> int:
    """The `seq` below which the next page begins. Raises InvalidInput for a cursor that is not ours."""
    if cursor is None:
        return 2**63 - 1
    if not cursor.isdecimal() or not cursor.isascii() or len(cursor) > 18:
        raise InvalidInput(
            f"{cursor[:40]!r} is not a cursor",
            remedy="pass the `cursor` of the page before, or none for the first",
            field="cursor",
        )
    return int(cursor)


def task_summary(row: Row) -> TaskSummary:
    """A task of a list, of the columns `LISTED`."""
    fields = dict(zip(LISTED, row, strict=True))
    usage = Usage(**{name: fields.pop(name) for name in USAGE})
    fields["title"] = make_title(fields["title"])
    for name in _TIMES:
        if fields[name] is not None:
            fields[name] = datetime.fromtimestamp(fields[name], UTC)
    return TaskSummary(**fields, usage=usage)


def make_title(text: str | None) -> str | None:
    """The first line of a request that is not empty, at most 120 characters of it."""
    line = next(filter(None, map(str.strip, (text or "").splitlines())), None)
    return line if line is None or len(line) <= _MAX_TITLE_CHARS else f"{line[: _MAX_TITLE_CHARS - 1]}…"


def _stored(session: Session, task_ids: set[str]) -> dict[tuple[str, str], _TaskRow]:
    rows = session.select_in(f"SELECT {', '.join(_COLUMNS)} FROM tasks WHERE task_id", task_ids)  # noqa: S608
    tasks = [_TaskRow(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]
    for task in tasks:
        task.stored_place, task.stored_end = _place_of(task), task.end
    return {(task.task_id, task.tenant_id): task for task in tasks}


class _TaskRow:
    """A row of the table `tasks`; its fields are the table's columns, its times unix seconds."""

    seq: int
    last_seq: int
    task_id: str
    tenant_id: str
    capability: str = ""
    status: str = "accepted"
    agent_id: str | None = None
    priority: int | None = None
    requested_by: str | None = None
    thread_id: str | None = None
    parent_task_id: str | None = None
    trace_id: str | None = None
    generation: int = 1
    attempts: int = 0
    reason: str | None = None
    error: str | None = None
    created_at: float
    updated_at: float
    completed_at: float | None = None
    duration_ms: float | None = None
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: str | None = "0"
    code: str | None = None
    once: int = 0
    text: str | None = None
    forked_from: str | None = None
    title: str | None = None

    def __init__(self, **columns: Any) -> None:
        self.stored_place: tuple[Any, ...] | None = None
        self.stored_end: _End | None = None
        self.__dict__.update(columns)

    def has_moved(self) -> bool:
        """Whether it is stored, and indices have it in another place."""
        return self.stored_place is not None and self.stored_place != _place_of(self)

    @classmethod
    def from_event(cls, event: Event, task_id: str) -> _TaskRow:
        return cls(
            seq=event.seq,
            task_id=task_id,
            tenant_id=event.tenant_id,
            trace_id=event.trace_id,
            created_at=seconds(event.time),
        )

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            _CHANGES[event.event_type](self, event)
        self.last_seq = events[-1].seq or 0
        self.updated_at = seconds(events[-1].time)

    @property
    def ended(self) -> bool:
        return self.completed_at is not None

    @property
    def end(self) -> _End | None:
        """The tenant, the hour, the agent and the status with which it ended; None of one that is open."""
        if self.completed_at is None or self.agent_id is None:
            return None
        return (
            self.tenant_id,
            self.completed_at // _HOUR_SECONDS * _HOUR_SECONDS,
            self.agent_id,
            self.status,
        )

    def describe(self, task: _DispatchedTask) -> None:
        self.capability = task.capability
        self.priority = task.priority
        self.requested_by = task.requested_by
        self.thread_id = task.thread_id
        self.parent_task_id = task.parent.task_id if task.parent else None
        self.created_at = seconds(task.created_at)
        self.text = _request_text(task.payload)


_COLUMNS = tuple(_TaskRow.__annotations__)
LISTED = (*(name for name in TaskSummary.__struct_fields__ if name not in ("usage", "match")), *USAGE)
LISTED_COLUMNS = ", ".join(
    "coalesce(title, substr(text, 1, 300))" if name == "title" else name for name in LISTED
)
"""The columns that a query of a list selects."""
_INTO = f"tasks ({', '.join(_COLUMNS)})"
_PLACE = ("capability", "agent_id", "requested_by", "thread_id", "parent_task_id", "forked_from")
"""Columns of indices that seldom change: SQLite rewrites each index that has one of the columns it sets."""
_REPLACE = "ON CONFLICT (task_id, tenant_id) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in _COLUMNS if name not in ("seq", "task_id", "tenant_id", *_PLACE)
)
_MOVE = f"UPDATE tasks SET {', '.join(f'{name} = ?' for name in _PLACE)} WHERE task_id = ? AND tenant_id = ?"  # noqa: S608
_columns_of = attrgetter(*_COLUMNS)
_place_of = attrgetter(*_PLACE)


_NO_PAYLOAD = b"{}"


class _DispatchedTask(Struct, kw_only=True):
    """The fields of a task that its row has: to check all the others takes as long as to write the row."""

    capability: str = ""
    priority: int = 5
    requested_by: str = "anonymous"
    thread_id: str
    parent: Parent | None = None
    generation: int = 1
    created_at: datetime
    payload: Raw = Raw(_NO_PAYLOAD)


class _Request(Struct):
    text: Any = None


def _request_text(payload: Raw) -> str | None:
    """The beginning of a request in words; of one without words that of its JSON."""
    data = bytes(payload)
    text = _Request.model_validate_json(data).text if data.startswith(b"{") else None
    if isinstance(text, str):
        return text[:_MAX_TEXT_CHARS]
    return None if data == _NO_PAYLOAD else data[:_MAX_TEXT_CHARS].decode(errors="ignore")


class _Dispatch(Struct):
    attempt: int
    agent_id: str
    task: _DispatchedTask


def _accept(row: _TaskRow, event: Event) -> None:
    accepted = TaskAccepted.from_payload(event.payload)
    row.capability = row.capability or accepted.capability
    row.agent_id = row.agent_id or accepted.dispatched_to
    row.thread_id = row.thread_id or accepted.thread_id or None
    row.requested_by = row.requested_by or accepted.requested_by or None
    row.parent_task_id = row.parent_task_id or accepted.parent_task_id
    if isinstance(accepted.forked_from, dict):
        row.forked_from = _text(accepted.forked_from, "task_id")
    if row.priority is None:
        row.priority = _figure(accepted.priority)


def _dispatch(row: _TaskRow, event: Event) -> None:
    """task.dispatched: a new attempt, or with a later generation a new beginning."""
    dispatch = _shaped(_Dispatch, event)
    if dispatch is None:
        return
    task = dispatch.task
    if not (_sane(dispatch.attempt) and _sane(task.generation) and _sane(task.priority)):
        return
    row.describe(task)
    if task.generation > row.generation:
        row.generation, row.attempts = task.generation, 0
        row.completed_at = row.duration_ms = row.model = row.error = None
        row.prompt_tokens, row.completion_tokens, row.cost_usd = 0, 0, "0"
    if task.generation == row.generation and dispatch.attempt > row.attempts and not row.ended:
        row.status, row.attempts, row.reason = "dispatched", dispatch.attempt, None
        row.agent_id = dispatch.agent_id


def _work(status: str) -> Callable[[_TaskRow, Event], None]:
    def change(row: _TaskRow, event: Event) -> None:
        start, waiting = TaskStarted.read(event), TaskWaiting.read(event)
        work = start or waiting
        attempt = (_figure(work.attempt) if work is not None else None) or row.attempts
        if not row.ended and attempt >= row.attempts:
            row.status, row.attempts = status, attempt
            row.agent_id = event.agent_id or row.agent_id
            if start is not None and event.event_type == "task.started":
                row.code, row.once = start.code, 0
            if waiting is not None:
                row.once = max(row.once, _figure(waiting.once) or 0)
            row.reason = None if waiting is None else _waited_for(waiting)

    return change


def _waited_for(waiting: TaskWaiting) -> str | None:
    task = f"task {waiting.child_task_id}" if waiting.child_task_id else None
    return waiting.asked or task or waiting.key or None


def _go_on(row: _TaskRow, event: Event) -> None:
    """wait.ended: nothing but `updated_at`, from which on the task waits for a slot."""


def _title(row: _TaskRow, event: Event) -> None:
    row.title = make_title(RunTitled.from_payload(event.payload).title) or row.title


def _fail(row: _TaskRow, event: Event) -> None:
    failed = AttemptFailed.from_payload(event.payload)
    if not row.ended and (_figure(failed.attempt) or row.attempts) >= row.attempts:
        row.reason = _reason(failed.error)


def _end(status: str) -> Callable[[_TaskRow, Event], None]:
    def change(row: _TaskRow, event: Event) -> None:
        outcome = read_outcome(event)
        generation = row.generation if outcome is None else outcome.generation
        if generation < row.generation or (row.ended and generation == row.generation):
            return
        row.generation, row.status = generation, status
        row.completed_at = seconds(event.time)
        if outcome is not None:
            row.capability = row.capability or outcome.capability
            row.agent_id = outcome.agent_id
            row.attempts = max(row.attempts, outcome.attempt)
            row.reason = _reason(outcome.error)
            row.error = None if outcome.error is None else outcome.error.type
            row.completed_at = seconds(outcome.completed_at)
            row.duration_ms = outcome.duration_ms
            row.model = outcome.model
            row.prompt_tokens = outcome.usage.prompt_tokens
            row.completion_tokens = outcome.usage.completion_tokens
            row.cost_usd = None if outcome.cost_usd is None else f"{outcome.cost_usd:f}"

    return change


_CHANGES: dict[str, Callable[[_TaskRow, Event], None]] = {
    "task.accepted": _accept,
    "task.dispatched": _dispatch,
    "task.started": _work("running"),
    "task.waiting": _work("waiting"),
    "wait.ended": _go_on,
    "task.resumed": _work("running"),
    "attempt.failed": _fail,
    "run.title": _title,
    "task.succeeded": _end("succeeded"),
    "task.failed": _end("failed"),
    "task.cancelled": _end("cancelled"),
    "task.timed_out": _end("timed_out"),
}
"""The change that each type of event makes; all other events make none."""
_TYPES = frozenset({*_CHANGES, PRUNED})


def read_outcome(event: Event) -> Outcome | None:
    """The outcome that is an event's payload; None if it is not one, or its figures make no sense."""
    outcome = _shaped(Outcome, event)
    if outcome is None or not (_sane(outcome.attempt) and _sane(outcome.generation)):
        return None
    usage = outcome.usage
    tokens_are_sane = _sane(usage.prompt_tokens) and _sane(usage.completion_tokens)
    return (
        outcome
        if tokens_are_sane and _sane(outcome.duration_ms) and _sane(float(outcome.cost_usd or 0))
        else None
    )


def _sane(figure: float) -> bool:
    """Whether it is a number, and not absurd."""
    return -_MAX_FIGURE < figure < _MAX_FIGURE  # which NaN is not


def _shaped(model: type[ModelT], event: Event) -> ModelT | None:
    payload = event.payload
    if type(payload) is model:
        return payload
    try:
        if isinstance(payload, Json):
            return model.model_validate_json(payload)
        return model.model_validate_json(encode(payload))
    except (ValueError, ArithmeticError):
        return None


def _text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) else None


def _figure(value: int | None) -> int | None:
    return value if value is not None and 0 <= value < _MAX_FIGURE else None


def _reason(error: Any) -> str | None:
    if isinstance(error, (BaseModel, Struct)):
        error = error.model_dump()
    if not isinstance(error, dict):
        return None
    return f"{error.get('type', 'Error')}: {error.get('message', '')}"[:MAX_REASON_CHARS]


class DeadLetters(View):
    """The tasks of one agent that failed or timed out by one type of error, and are not worked on again.

    `reason` is that of the last of them, `task_id` its id.
    """

    agent_id: str | None
    error: str | None
    tasks: int
    first_at: datetime
    last_at: datetime
    task_id: str
    reason: str | None


class DeadLetterPage(View):
    """The largest groups of dead letters."""

    items: tuple[DeadLetters, ...]
