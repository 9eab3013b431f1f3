"""Costs of calls of models: a row for each event `model.called`, and their sums."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

from meshwright.core.clock import parse_duration
from meshwright.core.encoding import View, decode, encode
from meshwright.core.errors import InvalidInput
from meshwright.core.events import Event
from meshwright.core.messages import Usage
from meshwright.core.model_events import ModelCalled
from meshwright.core.money import ZERO, Amount, exact, fit, from_pico, pico, reported_cost
from meshwright.engine.events.filter import TaskFilter, seconds
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.task_lists import tenants_in
from meshwright.engine.events.tasks import RECORDS_PRUNED, by_pruning, pruned_tasks
from meshwright.engine.sql.database import Session
from meshwright.money.account import ACCOUNT
from meshwright.money.task_costs import (
    FIGURES,
    HOUR_SECONDS,
    MILLION,
    all_calls,
    calls_below,
    calls_by_hour,
    clear_sums,
    count_hours,
    recount_hours,
    sum_up,
    whole_part,
)

_MAX_COUNT = 1_000_000_000  # of tokens or tries of one call
_MAX_LATENCY_MS = 1e12

_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
_TEXTS = {
    "call_id": "",
    "thread_id": None,
    "model": "",
    "deployment": None,
    "cost_source": "unknown",
    "outcome": "ok",
    "error": None,
}
"""Fields of text that are columns as they are, and the default of one that is missing."""

COLUMNS = (
    *("seq", "time", "task_id", "tenant_id", "agent_id", "model_group", "tags", "cost_pico", "saved_pico"),
    *("cache_hit", "attempts", "attempt", "step", "latency_ms", "prompt", "failed_at", "failed_with"),
    *(*_TOKENS, *_TEXTS),
)

_CALL_ID, _OUTCOME = COLUMNS.index("call_id"), COLUMNS.index("outcome")

Key = Literal["agent", "tag", "model", "deployment", "prompt", "task", "tree", "tenant"]
KEYS: tuple[Key, ...] = get_args(Key)
BY_PATTERN = "^({0})(,({0}))?$".format("|".join(KEYS))
"""The form of keys that costs are summed by: one, or two with a comma between."""
Bucket = Literal["hour", "day"]
_BUCKET_SECONDS: dict[Bucket, int] = {"hour": 3600, "day": 86_400}
_MAX_KEYS = 500  # listed of one sum
_MAX_POINTS = 5_000  # listed of a series
_MAX_READ = 10_000  # calls one by one: of which tasks and trees are listed, or within an hour
_HOUR = timedelta(seconds=HOUR_SECONDS)
_MAX_DEPTH = 50  # of a tree of tasks

_GROUPS: dict[Key, str] = {
    "agent": "agent_id",
    "model": "nullif(model, '')",
    "deployment": "coalesce(deployment, nullif(model, ''))",
    "prompt": "prompt",
    "task": "calls.task_id",
    "tree": "tree.root",
    "tenant": "calls.tenant_id",
}
"""The key of each way to sum."""

_SUMS = tuple(
    f"sum({name})" if name.startswith("cost_") else f"coalesce(sum({name}), 0)"  # of a cost NULL: unknown
    for name in (f"calls.{figure}" if figure == "calls" else figure for figure in FIGURES)
)
_MAX_LAST = 1_000  # calls from which estimates learn at their start
_LAST_ANSWERED = (
    "SELECT agent_id, model_group, tags, prompt_tokens, completion_tokens, cost_pico "
    "FROM (SELECT * FROM calls ORDER BY seq DESC LIMIT :limit) AS last "
    "WHERE outcome = 'ok' AND cache_hit = 0 ORDER BY seq DESC"
)
_LAST_OF_AGENT = (
    "SELECT model, cost_pico FROM (SELECT * FROM calls ORDER BY seq DESC LIMIT :limit) AS last "
    "WHERE outcome = 'ok' AND cache_hit = 0 AND agent_id = :agent_id ORDER BY seq DESC"
)
_INTO_CALLS = f"calls ({', '.join(COLUMNS)})"
_OWN_FIELDS = ("agent_id", "thread_id", "model")  # of a filter: those of the call, not of its task
_OF_THREAD = (
    "calls.seq IN (SELECT seq FROM {} WHERE thread_id = :of_thread_id "
    "AND (thread_id <> task_id OR task_id IS NULL) "
    "UNION ALL SELECT seq FROM calls WHERE task_id = :of_thread_id)"
)
"""The calls of a thread, mostly that of one task and named as it is, which no index has by thread."""
_OF_TASKS = (
    "calls.seq IN (SELECT made.seq FROM {tasks} CROSS JOIN calls AS made WHERE made.task_id = tasks.task_id "
    "AND made.tenant_id = tasks.tenant_id AND {condition})"
)
"""The calls of tasks that an index finds, for which those of others are not read."""
_OF_CALL = ("prompt", "tag")
_COUNTS = ("calls", "failed", "cache_hits", "prompt_tokens", "cached_tokens", "completion_tokens", "unpriced")


def cost_row(event: Event, time: float) -> tuple[Any, ...]:
    """The row that an event makes, its columns in the order of COLUMNS. Never fails for what is in it.

    Each field is taken for itself, whatever the others hold: one that is not of its type, or absurd, counts
    as missing.
    """
    called = ModelCalled.from_payload(event.payload)
    return (
        event.seq,
        time,
        event.task_id,
        called.tenant_id or event.tenant_id,
        called.user or event.agent_id or "",
        called.group,
        _json(called.tags),
        _pico(called.cost_usd),
        _pico(called.saved_usd),
        int(called.cache_hit),
        _count(called.attempts, 1),
        _count(called.attempt, None),
        _count(called.step, None),
        _latency(called.duration_ms if called.latency_ms is None else called.latency_ms),
        (called.prompt or "").partition(" ")[0] or None,  # its place changes with each commit
        encode(called.failed_at).decode() if called.failed_at else None,
        encode(called.failed_with).decode() if called.failed_with else None,
        *[_count(getattr(called.usage, name), 0) for name in _TOKENS],
        *[getattr(called, name) or default for name, default in _TEXTS.items()],
    )


def _count(value: int | None, default: int | None) -> int | None:
    return value if value is not None and 0 <= value <= _MAX_COUNT else default


def _latency(value: float) -> float:
    return value if 0 <= value < _MAX_LATENCY_MS else 0.0  # NaN is not


def _pico(amount: Decimal | None) -> int | None:
    cost = None if amount is None else reported_cost(amount)
    return None if cost is None else pico(cost)


@lru_cache(maxsize=1024)
def _json(tags: tuple[str, ...]) -> str:
    return encode(list(dict.fromkeys(tags))).decode()


class Cost(View, kw_only=True):
    """The costs of one agent, tag, model, deployment, prompt, task, tree of tasks or tenant.

    `key` is None for none; that of a tree is the task at its root.

    `key2` is the second key, where costs are summed by two; `time` is when the bucket of a series begins.
    By task and agent, `estimate_usd` is the median of the agent's last tasks that succeeded.
    `cost_usd` is what is known of it, None where of no call anything is; `estimated_usd` is how much of that
    is of tokens that were estimated; `reserved_usd` is what budgets hold for calls under way; `unpriced`
    counts the calls whose cost is unknown, `failed` those without an answer, the cancelled ones too.
    `cached_tokens` are those of the prompt that a provider had in its cache; `saved_usd` is what our own
    cache has saved.
    """

    key: str | None
    key2: str | None = None
    time: datetime | None = None
    calls: int
    failed: int
    cache_hits: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_usd: Amount | None
    estimated_usd: Amount = ZERO
    reserved_usd: Amount = ZERO
    estimate_usd: Amount | None = None
    unpriced: int
    saved_usd: Amount

    def __post_init__(self) -> None:
        for name in ("cost_usd", "estimated_usd", "reserved_usd", "estimate_usd", "saved_usd"):
            exact(self, name, getattr(self, name))


class Costs(View, kw_only=True):
    """Costs by key, the dearest first, and of all calls together; `omitted` items are only in the total.

    A call with two tags counts under each, so that costs by tag may come to more than the total. A series has
    an item for each `bucket` of UTC in which calls ended, the earliest first. Items by task or tree are of
    the newest 10,000 calls, from `listed_since` on if there are more; the total is of all. If `since` or
    `until` is within an hour, and over 10,000 calls ended in its part of that hour, that whole hour counts:
    `counted_since` and `counted_until` say from when and until when.
    """

    by: str
    since: datetime | None
    until: datetime | None = None
    bucket: Bucket | None = None
    listed_since: datetime | None = None
    counted_since: datetime | None = None
    counted_until: datetime | None = None
    items: tuple[Cost, ...]
    omitted: int
    total: Cost


class CallProjection:
    """The tables `calls`, `call_hours` and `call_sums`."""

    name = "calls"
    version = 2
    event_types: Collection[str] = (ModelCalled.event_type, RECORDS_PRUNED)

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """Write a row for each call; those of tasks whose records are gone become sums."""
        for is_pruning, some in by_pruning(events):
            if not is_pruning:
                self._add(session, [*some])
                continue
            for event in some:
                if task_ids := pruned_tasks(event):
                    sum_up(session, event.tenant_id, task_ids)

    def _add(self, session: Session, events: Sequence[Event]) -> None:
        rows = [cost_row(event, seconds(event.time)) for event in events]
        stored = _outcomes(session, [row[_CALL_ID] for row in rows if row[_CALL_ID]])
        if stored or any(row[_OUTCOME] in ("cut", "cancelled") for row in rows):
            rows = _without_doubles(session, zip(rows, events, strict=True), stored)
        session.insert(_INTO_CALLS, rows)
        if rows:
            seqs = [row[0] for row in rows]
            count_hours(session, "seq BETWEEN ? AND ?", (min(seqs), max(seqs)))

    def clear(self, session: Session, oldest: int) -> None:
        """Forget the calls whose event is in the log."""
        session.execute("DELETE FROM calls WHERE seq >= ?", (oldest,))
        recount_hours(session)
        clear_sums(session, oldest)


def _outcomes(session: Session, call_ids: Collection[str]) -> dict[str, str]:
    """The outcomes of the calls that have a row already.

    A process that was frozen for longer than its lease, and goes on, ends calls that others took for lost;
    so does one beside a clock that was set forward.
    """
    return dict(session.select_in("SELECT call_id, outcome FROM calls WHERE call_id", call_ids))


def _without_doubles(
    session: Session, pairs: Iterable[tuple[tuple[Any, ...], Event]], stored: Mapping[str, str]
) -> list[tuple[Any, ...]]:
    """The rows but for those of calls that were cut off, or seemed to be, and have a better one.

    A run knows best what its call cost; an account that waited for the run in vain can but guess.
    """
    outcomes = dict(stored)
    chosen: dict[object, tuple[Any, ...]] = {}
    replaced: set[str] = set()
    for row, event in pairs:
        call_id, outcome = row[_CALL_ID], row[_OUTCOME]
        is_guess = event.aggregate_id.startswith(f"{ACCOUNT}/")
        # Somebody knows better, or another account has guessed already.
        if outcome == "cut" and (outcomes.get(call_id, "cut") != "cut" or (call_id in outcomes and is_guess)):
            continue
        if outcomes.get(call_id) == "cut":
            chosen.pop(call_id, None)
            replaced.add(call_id)
        outcomes[call_id] = outcome
        chosen[call_id if outcome == "cut" else event.id] = row
    for call_id in stored.keys() & replaced:
        count_hours(session, "call_id = ?", (call_id,), sign=-1)
        session.execute("DELETE FROM calls WHERE call_id = ?", (call_id,))
    return list(chosen.values())


class AnsweredCall(NamedTuple):
    """A call that a model answered, as the ledger has it: whose it was, of which group, with which tags."""

    user: str
    group: str
    tags: tuple[str, ...]
    usage: Usage
    cost_usd: Decimal | None


def last_answered(session: Session) -> list[AnsweredCall]:
    """Those of the last 1,000 calls that a model answered, the oldest first."""
    rows = session.execute(_LAST_ANSWERED, {"limit": _MAX_LAST}).fetchall()
    return [
        AnsweredCall(
            user,
            group,
            tuple(decode(tags.encode())),
            Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens),
            None if cost is None else from_pico(int(cost)),
        )
        for user, group, tags, prompt_tokens, completion_tokens, cost in reversed(rows)
    ]


class UsualCall(NamedTuple):
    """The model of an agent's last call that was answered, and the mean cost of its last ones."""

    model: str
    cost_usd: Decimal | None


def usual_call(session: Session, agent_id: str) -> UsualCall | None:
    """The usual call of an agent, by those of the last 1,000 calls that are its; None where none is."""
    rows = session.execute(_LAST_OF_AGENT, {"limit": _MAX_LAST, "agent_id": agent_id}).fetchall()
    costs = [from_pico(int(cost)) for _, cost in rows if cost is not None]
    return UsualCall(rows[0][0], fit(sum(costs, ZERO) / len(costs)) if costs else None) if rows else None


class CostQuery(NamedTuple):
    """Which costs: by one key or two (`agent,model`), of calls that ended from `since` to before `until`.

    With a `bucket` they are a series. A `tenant_id` of None is all tenants. Of the filter `of` the agent, the
    thread, the model and the prompt are those of the call, and all else is that of its task.
    """

    tenant_id: str | None
    by: str = "agent"
    since: datetime | None = None
    until: datetime | None = None
    bucket: Bucket | None = None
    of: TaskFilter | None = None

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys to sum by. Raises InvalidInput."""
        keys = tuple(key for key in KEYS if key in self.by.split(","))
        names = sorted(self.by.split(","))
        if not 1 <= len(keys) <= 2 or sorted(keys) != names:
            raise InvalidInput(
                f"{self.by[:40]!r} is nothing to sum costs by",
                remedy=f"say one of {', '.join(KEYS)}, or two with a comma, such as agent,model",
                field="by",
            )
        return keys if self.by.startswith(keys[0]) else keys[::-1]

    @property
    def is_of_children(self) -> bool:
        """Whether it is of all tasks that a task delegated, of whose calls there are sums."""
        if self.of is None or self.of.parent_task_id is None or {"task", "tree"} & {*self.keys}:
            return False
        of_calls = dict.fromkeys(("parent_task_id", "agent_id", "model", *_OF_CALL))
        is_timed = self.since is not None or self.until is not None or self.bucket is not None
        return not is_timed and self.of.model_copy(update=of_calls) == TaskFilter()

    @property
    def is_of_tasks(self) -> bool:
        """Whether it is of tasks or threads, which no sum of an hour has."""
        of_calls = dict.fromkeys(("agent_id", "model", *_OF_CALL))
        return self.of is not None and self.of.model_copy(update=of_calls) != TaskFilter()


async def sum_costs(log: EventLog, query: CostQuery, *, limit: int | None = None) -> Costs:
    """The costs of calls of models, most expensive first, and all of them together. Raises InvalidInput.

    At most 500 are listed, and 5,000 of a series.
    """
    keys = query.keys
    maximum = limit or (_MAX_KEYS if query.bucket is None else _MAX_POINTS)
    await log.index_for(query.of)
    return await log.view_apart(_sum_costs, query, keys, maximum)


def _sum_costs(session: Session, query: CostQuery, keys: Sequence[Key], limit: int) -> Costs:
    """Sum up; a column for each key and the bucket, which are there or not, and then the sums."""
    asked, query = query, query if query.is_of_tasks else _by_whole_hours(session, query)
    tag, tags = _tags(session) if "tag" in keys else ("", "")
    columns = {f"key{place}": tag if key == "tag" else _GROUPS[key] for place, key in enumerate(keys)}
    if query.bucket is not None:
        columns["bucket"] = _bucket(session, _BUCKET_SECONDS[query.bucket])
    calls = _children_calls(session, query) if query.is_of_children else _find_calls(session, query, keys)
    values = calls.values
    joined = f"{tags} {calls.trees}"
    named_columns = [f"{column} AS {name}" for name, column in columns.items()]
    selected = ("SELECT count(*) OVER (),", ", ".join([*named_columns, *_SUMS]), "FROM", calls.listed, joined)
    first = "bucket, " if "bucket" in columns else ""
    order = (
        f"GROUP BY {', '.join(columns)} ORDER BY {first}"
        f"coalesce(sum(cost_millions * {MILLION}.0 + cost_rest), 0) DESC, "  # a float is enough to sort by
        f"sum(calls.calls) DESC, {', '.join(columns)} LIMIT :limit"
    )
    rows = session.execute(" ".join((*selected, order)), {**values, "limit": limit}).fetchall()
    whole = ("SELECT", ", ".join(_SUMS), "FROM", calls.whole)
    # Apart, since a call with two tags counts once; from hours where the items read calls one by one.
    total = session.execute(" ".join(whole), calls.whole_values).fetchone()
    size, width = _BUCKET_SECONDS.get(query.bucket or "day", 0), 1 + len(columns)
    items = tuple(_cost(dict(zip(columns, row[1:width], strict=True)), row[width:], size) for row in rows)
    omitted = rows[0][0] - len(items) if rows else 0
    fields = {"by": asked.by, "since": asked.since, "until": asked.until, "bucket": asked.bucket}
    since = calls.listed_since
    fields["listed_since"] = None if since is None else datetime.fromtimestamp(since, UTC)
    fields["counted_since"] = query.since if query.since != asked.since else None
    fields["counted_until"] = query.until if query.until != asked.until else None
    return Costs(**fields, items=items, omitted=omitted, total=_cost({}, total))


class _CostTables(NamedTuple):
    """Tables of the calls that are listed and of all that count, with their values; those listed may be of
    the newest calls alone, and `trees` joins the roots of their tasks."""

    listed: str
    values: dict[str, Any]
    whole: str
    whole_values: dict[str, Any]
    listed_since: float | None = None
    trees: str = ""


def _children_calls(session: Session, query: CostQuery) -> _CostTables:
    """The sums of the tasks that a task delegated."""
    assert query.of is not None
    of_calls = query.of.model_copy(update={"parent_task_id": None})
    condition, values, _ = _condition(session, query._replace(of=of_calls))
    values["parent_task_id"] = session.bindable(query.of.parent_task_id)
    calls = calls_below(f"calls.task_id = :parent_task_id AND {condition}")
    return _CostTables(calls, values, calls, values)


def _find_calls(session: Session, query: CostQuery, keys: Sequence[Key]) -> _CostTables:
    """The calls one by one, or from sums of hours."""
    condition, values, by_seq = _condition(session, query)
    of_tasks = query.is_of_tasks
    lists_tasks, listed_since = bool({"task", "tree"} & {*keys}), None
    listed = condition
    if lists_tasks and not by_seq:
        listed_since = _newest_calls(session, query)
    if listed_since is not None:
        listed += " AND time >= :listed_since"
        values["listed_since"] = listed_since
    table = session.by_index("calls", _index_of_calls(query, by_seq, lists_tasks))
    source, whole_values = all_calls(table, listed, of_tasks=of_tasks), values
    whole_source = all_calls(table, condition, of_tasks=of_tasks)
    if not of_tasks:
        bounds = values.get("since"), values.get("until")
        whole_source, hours = calls_by_hour(
            session, condition, *bounds, of_tenant=query.tenant_id is not None
        )
        whole_values = values | hours
        if not lists_tasks:
            source, values = whole_source, whole_values
    trees = _trees(table, listed) if "tree" in keys else ""
    return _CostTables(source, values, whole_source, whole_values, listed_since, trees)


def _by_whole_hours(session: Session, query: CostQuery) -> CostQuery:
    """The query with the whole hour of a bound where too many calls ended in the part that it asks for."""
    since, until = query.since, query.until
    if since is not None and (hour := _begin_hour(since)) != since:
        rest = hour + _HOUR if until is None else min(hour + _HOUR, until)
        since = hour if _are_many(session, query._replace(until=rest)) else since
    if until is not None and (hour := _begin_hour(until)) != until:
        first = hour if query.since is None else max(hour, query.since)
        until = hour + _HOUR if _are_many(session, query._replace(since=first)) else until
    return query._replace(since=since, until=until)


def _begin_hour(time: datetime) -> datetime:
    return datetime.fromtimestamp(time.timestamp() // HOUR_SECONDS * HOUR_SECONDS, UTC)


def _are_many(session: Session, query: CostQuery) -> bool:
    """Whether more calls than are read one by one ended in the time of a query."""
    of_time, values = _period(session, query)
    calls = session.by_index("calls", "calls_by_end" if query.tenant_id is None else "calls_by_time")
    some = f"SELECT 1 FROM {calls} WHERE {of_time} LIMIT {_MAX_READ + 1}"  # noqa: S608 code
    [(count,)] = session.execute(f"SELECT count(*) FROM ({some}) AS first", values).fetchall()  # noqa: S608
    return count > _MAX_READ


def _newest_calls(session: Session, query: CostQuery) -> float | None:
    """The time of the first of the newest calls that a list of tasks reads; None where there are fewer."""
    of_time, values = _period(session, query)
    index = "calls_by_end" if query.tenant_id is None else "calls_by_time"
    calls = session.by_index("calls", index)
    newest = f"SELECT time FROM {calls} WHERE {of_time} ORDER BY time DESC LIMIT 2 OFFSET :others"  # noqa: S608
    rows = session.execute(newest, {**values, "others": _MAX_READ - 1}).fetchall()
    return rows[0][0] if len(rows) > 1 else None


def _index_of_calls(query: CostQuery, by_seq: bool, lists_tasks: bool) -> str | None:
    """The index of the calls of a tenant or of a time; None for all, or for those that are found by `seq`."""
    if by_seq:
        return None
    if query.tenant_id is not None:
        return "calls_by_time"
    return "calls_by_end" if query.since is not None or lists_tasks else None


def _period(session: Session, query: CostQuery) -> tuple[str, dict[str, Any]]:
    """The condition for the tenant and the time of a call, and its values."""
    values: dict[str, Any] = {}
    conditions = ["1 = 1"]
    if query.tenant_id is not None:
        conditions.append("tenant_id = :tenant_id")
        values["tenant_id"] = session.bindable(query.tenant_id)
    if query.since is not None:
        conditions.append("time >= :since")
        values["since"] = query.since.timestamp()
    if query.until is not None:
        conditions.append("time < :until")
        values["until"] = query.until.timestamp()
    return " AND ".join(conditions), values


def _condition(session: Session, query: CostQuery) -> tuple[str, dict[str, Any], bool]:
    """The rows that count: the condition and its values, and whether it names calls by their `seq`."""
    of_period, values = _period(session, query)
    conditions, by_seq = [of_period], False
    if query.of is not None:
        own_conditions, more, by_seq = _cost_conditions(session, query.tenant_id, query.of)
        if query.of.thread_id is not None:
            conditions.append(_OF_THREAD.format(session.by_index("calls", "calls_by_thread")))
            by_seq = True
        conditions += own_conditions
        values |= more
    return " AND ".join(conditions), values, by_seq


def _cost_conditions(
    session: Session, tenant_id: str | None, of: TaskFilter
) -> tuple[list[str], dict[str, Any], bool]:
    own = {name: value for name in _OWN_FIELDS if (value := getattr(of, name)) is not None}
    conditions = [f"calls.{name} = :of_{name}" for name in own]
    values = {f"of_{name}": session.bindable(value) for name, value in own.items()}
    of_call, call_values = of.call_condition(session, "calls")
    if of_call:
        conditions.append(of_call)
        values |= call_values
    of_task = of.model_copy(update=dict.fromkeys([*own, *_OF_CALL]))
    if of_task == TaskFilter():
        return conditions, values, False
    if of_task.index == "tasks_by_tenant":  # nothing that an index finds
        condition, more = of_task.row_condition(session, "calls")
        return [*conditions, condition], {**values, **more}, False
    condition, more = of_task.conditions(session, tenant_id)
    if tenant_id is None and of_task.index not in (None, "tasks_by_parent", "tasks_open"):
        tenants = {f"tenant{n}": name for n, name in enumerate(tenants_in(session, "tasks"))}
        more |= tenants
        condition += f" AND tasks.tenant_id IN ({', '.join(f':{name}' for name in tenants) or 'NULL'})"
    tasks = session.by_index("tasks", of_task.index)
    condition = _OF_TASKS.format(tasks=tasks, condition=condition)
    return [*conditions, condition], {**values, **more}, True


def _bucket(session: Session, seconds: int) -> str:
    """The number of the bucket in which a call has ended, counted from 1970."""
    return whole_part(session, f"time / {seconds}")


def _tags(session: Session) -> tuple[str, str]:
    """Each tag of a call as a key: what to select, and what to join for it."""
    if session.dialect == "sqlite":
        return "tag.value", "LEFT JOIN json_each(calls.tags) AS tag"
    return "tag", "LEFT JOIN json_array_elements_text(calls.tags::json) AS tag ON true"


def _trees(calls: str, condition: str) -> str:
    """The root of the tree of each task that a call found is of: what to join for it."""
    above = "FROM tasks WHERE tasks.task_id = above.root AND tasks.tenant_id = above.tenant_id"
    return (
        "LEFT JOIN (WITH RECURSIVE above(task_id, tenant_id, root, depth) AS ("  # noqa: S608 code
        f"SELECT DISTINCT task_id, tenant_id, task_id, 0 FROM {calls} "
        f"WHERE {condition} AND task_id IS NOT NULL "
        "UNION ALL SELECT above.task_id, above.tenant_id, tasks.parent_task_id, depth + 1 FROM above "
        "JOIN tasks ON tasks.task_id = above.root AND tasks.tenant_id = above.tenant_id "
        f"WHERE tasks.parent_task_id IS NOT NULL AND depth < {_MAX_DEPTH}) "
        f"SELECT task_id, tenant_id, root FROM above WHERE depth = {_MAX_DEPTH} "
        f"OR NOT EXISTS (SELECT 1 {above} AND tasks.parent_task_id IS NOT NULL)"
        ") AS tree ON tree.task_id = calls.task_id AND tree.tenant_id = calls.tenant_id"
    )


def with_reserved(costs: Costs, reserved: Mapping[str, Mapping[str, Decimal]]) -> Costs:
    """The costs with what budgets hold: by scope, and by whose it is."""
    if costs.bucket is not None or costs.until is not None:  # they are of the past
        return costs
    of_keys = reserved.get(costs.by, {})
    total = max((sum(amounts.values(), ZERO) for amounts in reserved.values()), default=ZERO)
    items = [
        cost.model_copy(update={"reserved_usd": of_keys.get(cost.key or "", ZERO)}) for cost in costs.items
    ]
    whole = costs.total.model_copy(update={"reserved_usd": total})
    return costs.model_copy(update={"items": tuple(items), "total": whole})


def parse_since(text: str, now: datetime, *, field: str = "since") -> datetime:
    """A time as people give it: `24h` ago (s, m, h, d or w), or RFC 3339; without a zone it is UTC.

    Raises InvalidInput.
    """
    with suppress(ValueError, OverflowError):
        return now - parse_duration(text)
    try:
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{text[:40]!r} is not a time", remedy="say 24h, 7d or 2026-01-01T00:00Z", field=field
        ) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _cost(names: Mapping[str, Any], row: Sequence[Any], seconds: int = 0) -> Cost:
    *counts, cost, cost_rest, estimated, estimated_rest, saved, saved_rest = row
    fields: dict[str, Any] = {name: int(count) for name, count in zip(_COUNTS, counts, strict=True)}
    cost_usd = None if cost is None else _dollars(cost, cost_rest)
    fields |= {"estimated_usd": _dollars(estimated, estimated_rest), "saved_usd": _dollars(saved, saved_rest)}
    if "bucket" in names:
        fields["time"] = datetime.fromtimestamp(int(names["bucket"]) * seconds, UTC)
    return Cost(key=names.get("key0"), key2=names.get("key1"), cost_usd=cost_usd, **fields)


def _dollars(millions: int, rest: int) -> Decimal:
    return from_pico(int(millions) * MILLION + int(rest))
