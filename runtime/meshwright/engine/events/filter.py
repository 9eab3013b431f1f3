"""Filters of tasks and of events: the descriptions that lists, queries, tails and replays share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from meshwright.core.encoding import encode
from meshwright.core.events import Event
from meshwright.core.ids import version_prefix
from meshwright.core.messages import TaskStatus
from meshwright.core.task_events import WaitKind
from meshwright.engine.events.search import text_condition

if TYPE_CHECKING:
    from meshwright.engine.sql.database import Session

MAX_LIMIT = 1000
KEYED = (
    "task_id",
    "idempotency_key",
    "aggregate_id",
    "trace_id",
    "agent_id",
    "event_type",
    "topic",
    "tenant_id",
)
"""Fields that the log finds events by; `event_version` only narrows what was found."""
EXACT = (*KEYED, "event_version")
TASK_FIELDS = (
    "status", "capability", "agent_id", "thread_id", "parent_task_id", "requested_by", "model", "error",
)  # fmt: skip
"""Fields by which tasks are found, each with one value."""
LACKS = "^(agent_id|error)(,(agent_id|error))?$"
"""The form of the fields that tasks lack: one, or two with a comma between."""


class TaskFilter(BaseModel):
    """Tasks that agree with every field given.

    `task_id` is the beginning or the end of their ids, `error` the type of the error by which they failed,
    `prompt` that of one of their calls of models: `NAME`, or `NAME@DIGEST`, of which the beginning is enough.
    `tag` is one of such a call. `waits_for` is the kind of thing they wait for now, `waits_for_model` the
    group or the deployment of a model. `text` are words of their request, title,
    questions, answer or error (`engine.events.search`). `since` and `until` bound the time of their last
    change, and include it. `dead` are those that failed or timed out, `open` those that have not ended. They
    lack the fields that `lacks` names, by commas.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: TaskStatus | None = None
    capability: str | None = None
    agent_id: str | None = None
    thread_id: str | None = None
    parent_task_id: str | None = None
    requested_by: str | None = None
    model: str | None = None
    prompt: str | None = None
    tag: str | None = None
    waits_for: WaitKind | None = None
    waits_for_model: str | None = None
    error: str | None = None
    text: str | None = None
    task_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    lacks: str | None = Field(default=None, pattern=LACKS)
    dead: bool | None = None
    open: bool = False

    def conditions(self, session: Session, tenant_id: str | None) -> tuple[str, dict[str, Any]]:
        """Returns them in SQL, with their values; without a tenant for the tasks of all."""
        exact = {"tenant_id": tenant_id, **{name: getattr(self, name) for name in TASK_FIELDS}}
        values = {name: session.bindable(value) for name, value in exact.items() if value is not None}
        conditions = [f"tasks.{name} = :{name}" for name in values]
        if self.task_id is not None:
            of_id, id_values = _id_condition(session, session.bindable(self.task_id))
            conditions.append(of_id)
            values |= id_values
        if self.model is not None and tenant_id is not None:
            conditions += _few_of_model(session, values)
        of_call, call_values = self.call_condition(session, "made")
        if of_call:
            of_calls, more = self._call_clause(session, of_call, values, call_values)
            conditions.append(of_calls)
            values |= more
        of_wait, wait_values = self._wait_condition(session)
        if of_wait:
            conditions.append(
                "EXISTS (SELECT 1 FROM waits WHERE waits.task_id = tasks.task_id "  # noqa: S608 code
                f"AND waits.tenant_id = tasks.tenant_id AND {of_wait})"
            )
            values |= wait_values
        if self.text is not None:
            of_text, text_values = text_condition(session, self.text)
            conditions.append(of_text)
            values |= text_values
        for name, compared in (("since", ">="), ("until", "<=")):
            if (bound := getattr(self, name)) is not None:
                values[name] = seconds(bound)
                conditions.append(f"updated_at {compared} :{name}")
        if self.since is not None and tenant_id is not None:
            of_changed, changed_values = _changed_condition(session, values)
            conditions += of_changed
            values |= changed_values
        if self.until is not None and tenant_id is not None:
            of_unchanged, unchanged_values = _unchanged_condition(session, values)
            conditions += of_unchanged
            values |= unchanged_values
        return " AND ".join([*conditions, *self._state_conditions()]) or "1 = 1", values

    def _state_conditions(self) -> Iterator[str]:
        """The conditions without a value."""
        if self.lacks is not None:
            yield from (f"tasks.{name} IS NULL" for name in self.lacks.split(","))
        if self._is_dead:
            yield "status IN ('failed', 'timed_out')"
        if self.open or self._is_of_waits:
            yield "completed_at IS NULL"  # tasks that have ended wait for nothing
        if self.dead or self.status not in (None, "succeeded"):
            yield "status <> 'succeeded'"  # which an index needs

    def row_condition(self, session: Session, table: str) -> tuple[str, dict[str, Any]]:
        """Returns the condition that a row of another table is of such a task, with its values."""
        conditions, values = self.conditions(session, None)
        joined = f"tasks.task_id = {table}.task_id AND tasks.tenant_id = {table}.tenant_id"
        return f"EXISTS (SELECT 1 FROM tasks WHERE {joined} AND {conditions})", values  # noqa: S608

    def call_condition(self, session: Session, table: str) -> tuple[str, dict[str, Any]]:
        """Returns the condition that a call has the `prompt` and the `tag`, with their values."""
        conditions, values = list[str](), dict[str, Any]()
        if self.prompt is not None:
            values["prompt"] = session.bindable(version_prefix(self.prompt))
            prefix = f"substr({table}.prompt, 1, length(:prompt)) = :prompt"
            conditions.append(f"{table}.prompt IS NOT NULL AND {prefix}")
        if self.tag is not None:
            values["tag"] = session.bindable(encode(self.tag).decode())  # as the list of them is stored
            conditions.append(f"{_FIND[session.dialect]}({table}.tags, CAST(:tag AS TEXT)) > 0")
        return " AND ".join(conditions), values

    def _call_clause(
        self, session: Session, condition: str, values: Mapping[str, Any], call_values: Mapping[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        """Returns the condition that a task has such a call, with its values: which they are if few."""
        if "tenant_id" in values:
            if not _was_called(session, condition, values, call_values):
                return "1 = 0", {}
            if (few := _few_with_tag(session, self.tag, values["tenant_id"])) is not None:
                of_calls, of_lists = few
                return f"{of_calls} AND {condition})", {**call_values, **of_lists}
        of_task = "made.task_id = tasks.task_id AND made.tenant_id = tasks.tenant_id"
        return f"EXISTS (SELECT 1 FROM calls AS made WHERE {of_task} AND {condition})", {**call_values}  # noqa: S608

    def _wait_condition(self, session: Session) -> tuple[str, dict[str, Any]]:
        """Returns the condition that a wait is of that kind, and for that model, with their values."""
        conditions, values = list[str](), dict[str, Any]()
        if self.waits_for is not None:
            values["waits_for"] = session.bindable(self.waits_for)
            conditions.append("waits.kind = :waits_for")
        if self.waits_for_model is not None:
            values["waits_for_model"] = session.bindable(encode(self.waits_for_model).decode())
            conditions.append(f"{_FIND[session.dialect]}(waits.models, CAST(:waits_for_model AS TEXT)) > 0")
        return " AND ".join(conditions), values

    @property
    def _is_dead(self) -> bool:
        return bool(self.dead) or self.status in ("failed", "timed_out")

    @property
    def _is_of_waits(self) -> bool:
        return self.waits_for is not None or self.waits_for_model is not None

    @property
    def timed(self) -> bool:
        """Whether there is a bound of time."""
        return self.since is not None or self.until is not None

    @property
    def reads_many(self) -> bool:
        """Whether rows that no index finds decide: a page with few of them reads the whole list."""
        by_index = {"status", "capability", "agent_id", "requested_by", "thread_id", "parent_task_id"}
        return bool(self.model_fields_set - by_index - {"dead", "open", "error"})

    @property
    def index(self) -> str | None:
        """The index that finds them; None for that of the rows themselves, of which a search names few."""
        if self.text is not None or self.task_id is not None:
            return None
        if self.parent_task_id is not None:
            return "tasks_by_parent"
        if self.error is not None:
            return "tasks_by_error" if self.agent_id is None else "tasks_by_agent_error"
        if (of_rest := self._index_of_rest) is not None:
            return of_rest
        if self.status not in (None, "succeeded"):
            return "tasks_by_status"
        if self.dead:
            return "tasks_dead"
        if self.open or self._is_of_waits:
            return "tasks_open"
        if self.agent_id is not None:
            return "tasks_by_agent"
        if self.requested_by is not None:
            return "tasks_by_requester"
        if self.model is not None:
            return "tasks_by_model"
        return "tasks_by_tenant" if self.capability is None else "tasks_by_capability"

    @property
    def _index_of_rest(self) -> str | None:
        """The index of those that lack a field or failed, which are mostly few; None for others."""
        if self.lacks is not None and "agent_id" in self.lacks:
            return "tasks_without_agent"
        if not self._is_dead:
            return None
        if self.lacks is not None:
            return "tasks_dead_without_error"
        if self.agent_id is not None:
            return "tasks_dead_by_agent"
        return None if self.capability is None else "tasks_dead_by_capability"


FEW = "tasks.seq IN ("
"""The beginning of a condition that names few tasks, by which they are read rather than by an index."""
_ID_END_CHARS = 4
"""The characters at the end of an id by which an index finds it."""
_MAX_OF_PART = 1_000  # tasks; more are not looked up by index, but met on the way through the list
_IDS = {
    "sqlite": ("task_id", f"substr(task_id, -{_ID_END_CHARS})"),
    "postgres": (
        'task_id COLLATE "C"',
        f"substr(task_id, greatest(length(task_id) - {_ID_END_CHARS - 1}, 1))",
    ),
}
"""An id and its end as indices have them, by dialect."""


def _id_condition(session: Session, part: str) -> tuple[str, dict[str, Any]]:
    """Returns the condition that the id of a task begins or ends with a part, with its values."""
    values = {"task_id": part}
    end = "substr(task_id, length(task_id) - length(:task_id) + 1) = :task_id"
    if len(part) >= _ID_END_CHARS:
        values |= {"last_id": f"{part}\U0010ffff", "id_end": part[-_ID_END_CHARS:]}
        id, id_end = _IDS[session.dialect]
        fitting = (
            f"SELECT seq FROM tasks WHERE {id} BETWEEN :task_id AND :last_id "  # noqa: S608 code
            f"UNION ALL SELECT seq FROM tasks WHERE {id_end} = :id_end AND {end}"
        )
        count = (
            f"SELECT count(*) FROM (SELECT 1 FROM ({fitting}) AS fitting LIMIT {_MAX_OF_PART + 1}) AS first"  # noqa: S608
        )
        if session.execute(count, values).fetchone()[0] <= _MAX_OF_PART:
            return f"{FEW}{fitting})", values
        values = {"task_id": part}
    return f"(substr(task_id, 1, length(:task_id)) = :task_id OR {end})", values


def _was_called(
    session: Session, condition: str, values: Mapping[str, Any], call_values: Mapping[str, Any]
) -> bool:
    """Whether a call of a tenant agrees with a condition, by the sums of hours."""
    hours = f"SELECT 1 FROM call_hours AS made WHERE tenant_id = :tenant_id AND {condition} LIMIT 1"  # noqa: S608
    return bool(session.execute(hours, {"tenant_id": values["tenant_id"], **call_values}).fetchall())


def _few_of_model(session: Session, values: Mapping[str, Any]) -> list[str]:
    """The condition that names the tasks of a model; none where there are many."""
    tasks = session.by_index("tasks", "tasks_by_model")
    of_model = f"SELECT seq FROM {tasks} WHERE tenant_id = :tenant_id AND model = :model"  # noqa: S608 code
    count = f"SELECT count(*) FROM ({of_model} LIMIT {_MAX_OF_PART + 1}) AS first"  # noqa: S608 code
    own = {name: values[name] for name in ("tenant_id", "model")}
    return [f"{FEW}{of_model})"] if session.execute(count, own).fetchone()[0] <= _MAX_OF_PART else []


_MAX_TAG_LISTS = 100
"""The different lists of tags of calls that are compared; with more, the tasks of a tag are not looked up."""
_TAG_LISTS = """
    WITH RECURSIVE lists (tags, place) AS (
        SELECT min(tags), 1 FROM {calls} WHERE tenant_id = :tenant_id AND tags <> '[]'
        UNION ALL SELECT (
            SELECT min(tags) FROM {calls} WHERE tenant_id = :tenant_id AND tags <> '[]' AND tags > lists.tags
        ), place + 1 FROM lists WHERE lists.tags IS NOT NULL AND place <= :most
    ) SELECT tags FROM lists WHERE tags IS NOT NULL
"""


def _few_with_tag(session: Session, tag: str | None, tenant_id: str) -> tuple[str, dict[str, Any]] | None:
    """The condition, still open, that names the tasks of calls with a tag; None where there are many."""
    if tag is None:
        return None
    calls = session.by_index("calls", "calls_by_tags")
    values: dict[str, Any] = {"tenant_id": tenant_id}
    rows = session.execute(_TAG_LISTS.format(calls=calls), {**values, "most": _MAX_TAG_LISTS}).fetchall()
    if len(rows) > _MAX_TAG_LISTS:
        return None
    encoded = session.bindable(encode(tag).decode())
    lists = [tags for (tags,) in rows if encoded in tags]
    of_lists = {f"tags{place}": tags for place, tags in enumerate(lists)}
    listed = ", ".join(f":{name}" for name in of_lists) or "NULL"
    with_tag = f"tenant_id = :tenant_id AND tags <> '[]' AND tags IN ({listed})"
    some = f"SELECT 1 FROM {calls} WHERE {with_tag} LIMIT {_MAX_OF_PART + 1}"  # noqa: S608 code
    count = f"SELECT count(*) FROM ({some}) AS first"  # noqa: S608 code
    if session.execute(count, {**values, **of_lists}).fetchone()[0] > _MAX_OF_PART:
        return None
    return (
        f"{FEW}SELECT own.seq FROM (SELECT * FROM {calls} WHERE {with_tag}) AS made CROSS JOIN tasks AS own "  # noqa: S608
        "WHERE own.task_id = made.task_id AND own.tenant_id = :tenant_id"
    ), of_lists


_BLOCK_BITS = 11  # of the number of an event within its block
_BLOCKS_SINCE = (
    "SELECT min(block), (SELECT min(block) FROM event_blocks WHERE max_time >= ?), max(block) + 1 "
    "FROM event_blocks"
)


def _changed_condition(session: Session, values: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Returns conditions of the tasks that may have changed since a time: a bound, and which they are if few.

    The last change of each came with an event: no block of events that ends before the time has it. Of events
    that are pruned no block says so, hence no condition where none ends before the time.
    """
    [(oldest, late, unfilled)] = session.execute(_BLOCKS_SINCE, (values["since"],)).fetchall()
    first = unfilled if late is None else late
    if first is None or first == oldest:
        return [], {}
    in_blocks = "tasks.last_seq >= :first_change"
    tasks = session.by_index("tasks", "tasks_by_change")
    changed = f"SELECT seq FROM {tasks} WHERE tenant_id = :tenant_id AND last_seq >= :first_change"  # noqa: S608
    bound = {"first_change": first << _BLOCK_BITS}
    count = f"SELECT count(*) FROM ({changed} LIMIT {_MAX_OF_PART + 1}) AS first"  # noqa: S608
    own = {"tenant_id": values["tenant_id"], **bound}
    if session.execute(count, own).fetchone()[0] > _MAX_OF_PART:
        return [in_blocks], bound
    return [in_blocks, f"{FEW}{changed})"], bound


_BLOCKS_UNTIL = (
    "SELECT min(block), (SELECT max(block) FROM {} WHERE min_time <= ?), max(block) + 1 FROM event_blocks"
)


def _unchanged_condition(session: Session, values: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Returns conditions of the tasks that may not have changed since a time: a bound of their numbers.

    The last change of each came with an event: no block of events that begins after the time has it. There is
    no bound where the last block, which has no summary yet, has the last change of one that fits.
    """
    blocks = session.by_index("event_blocks", "event_blocks_by_begin")
    query = _BLOCKS_UNTIL.format(blocks)
    [(oldest, early, unfilled)] = session.execute(query, (values["until"],)).fetchall()
    if oldest is None:
        return [], {}
    tasks = session.by_index("tasks", "tasks_by_change")
    last = (
        f"SELECT 1 FROM {tasks} WHERE tenant_id = :tenant_id AND last_seq >= :unfilled "  # noqa: S608 code
        "AND updated_at <= :until LIMIT 1"
    )
    own = {"tenant_id": values["tenant_id"], "until": values["until"], "unfilled": unfilled << _BLOCK_BITS}
    if session.execute(last, own).fetchall():
        return [], {}
    end = oldest if early is None else early + 1
    return ["tasks.seq < :end_of_changes", "tasks.last_seq < :end_of_changes"], {
        "end_of_changes": end << _BLOCK_BITS
    }


NAME_OF_CALL = (
    "CASE WHEN outcome = 'failed' THEN coalesce(deployment, nullif(model, ''), model_group) "
    "ELSE coalesce(deployment, model) END"
)
"""The deployment of a call in SQL; the model, or the group, where it is not known."""
_MODEL_CALLED = "model.called"
_FIND = {"sqlite": "instr", "postgres": "strpos"}
"""The function that finds a text in another, by dialect."""


class EventFilter(BaseModel):
    """Events that agree with every field given. Bounds of `seq` are exclusive, those of time inclusive.

    Times without a zone count as UTC. `of_task` says of which tasks they are; `limit` and `order` (by `seq`)
    are for queries alone. `deployment` and `failed_at` are for calls of models that no cache answered: one
    that answered or failed at the deployment, or of which an attempt failed at it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    after_seq: int | None = Field(default=None, ge=0)
    before_seq: int | None = Field(default=None, ge=0)
    since: datetime | None = None
    until: datetime | None = None
    trace_id: str | None = None
    task_id: str | None = None
    agent_id: str | None = None
    event_type: str | None = None
    event_version: int | None = None
    aggregate_id: str | None = None
    idempotency_key: str | None = None
    topic: str | None = None
    tenant_id: str | None = None
    deployment: str | None = None
    failed_at: str | None = None
    of_task: TaskFilter | None = None
    limit: int = Field(default=100, ge=1, le=MAX_LIMIT)
    order: Literal["asc", "desc"] = "asc"

    def exact(self) -> dict[str, Any]:
        """The fields that an event must hold, and their values."""
        fields = self.__dict__
        exact = {name: fields[name] for name in EXACT if fields[name] is not None}
        return {"event_type": _MODEL_CALLED, **exact} if self.is_of_calls else exact

    @property
    def is_of_calls(self) -> bool:
        """Whether it asks for calls of models."""
        return self.deployment is not None or self.failed_at is not None

    def calls_condition(self, session: Session) -> tuple[str, dict[str, Any]]:
        """Returns the condition that an event is of such a call, with its values, but `first` and `last`."""
        conditions = ["calls.seq BETWEEN :first AND :last AND cache_hit = 0"]
        values: dict[str, Any] = {}
        for name, is_failed in ((self.deployment, False), (self.failed_at, True)):
            if name is not None:
                key = "failed_at" if is_failed else "deployment"
                values[key] = session.bindable(name)
                values[f"{key}_listed"] = session.bindable(
                    encode(name).decode()
                )  # as the list of them is stored
                listed = f"{_FIND[session.dialect]}(calls.failed_at, CAST(:{key}_listed AS TEXT)) > 0"
                own = "calls.failed_at IS NULL AND outcome <> 'ok'" if is_failed else "1 = 1"
                conditions.append(f"({listed} OR {own} AND {NAME_OF_CALL} = :{key})")
        return f"events.seq IN (SELECT calls.seq FROM calls WHERE {' AND '.join(conditions)})", values  # noqa: S608

    def period(self) -> tuple[float, float]:
        """The first and the last moment, in unix seconds; infinite where there is no bound."""
        since = seconds(self.since) if self.since else float("-inf")
        until = seconds(self.until) if self.until else float("inf")
        return since, until

    @property
    def timed(self) -> bool:
        """Whether there is a bound of time."""
        return self.since is not None or self.until is not None

    def first(self) -> int:
        """The lowest `seq` that fits."""
        return (self.after_seq or 0) + 1

    def last(self, newest: int) -> int:
        """The highest `seq` that fits, in a log that ends with `newest`."""
        return newest if self.before_seq is None else min(newest, self.before_seq - 1)


class Matcher:
    """A filter made ready to judge events one by one, as the log would."""

    def __init__(self, filter: EventFilter) -> None:
        self._exact = tuple(filter.exact().items())
        self._before = filter.before_seq
        self._since, self._until = filter.period()
        self._timed = filter.timed

    def __call__(self, event: Event) -> bool:
        """Whether the event is wanted."""
        for name, value in self._exact:
            if getattr(event, name) != value:
                return False
        if self._before is not None and (event.seq or 0) >= self._before:
            return False
        return not self._timed or self._since <= seconds(event.time) <= self._until


def seconds(time: datetime) -> float:
    """A time as unix seconds; one without a zone counts as UTC."""
    return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()
