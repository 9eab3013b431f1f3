"""Sums that figures are read from: of the calls of models, and in the table `agent_figures` of tasks.

Those of calls are kept up to date from the rows that the ledger has gained since the last look: calls cost
nothing more for it. The sums of a day are those that `/costs` has since midnight UTC; the counters begin at
zero with the process, as Prometheus expects of counters.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from typing import NamedTuple, TypeVar

from meshwright import Event
from meshwright.core.encoding import Json
from meshwright.engine.events.filter import seconds
from meshwright.kit import EventLog, Session, Struct, TaskStatus, decode, encode
from meshwright.models.errors import AllProvidersDown
from meshwright.money.task_costs import MILLION

DURATION_BUCKETS = tuple(0.01 * 2**power for power in range(14))
"""Upper bounds in seconds, as the GenAI conventions advise."""
TOKEN_BUCKETS = tuple(float(4**power) for power in range(14))
_MAX_SERIES = 1_000  # of one histogram or counter; calls beyond them count under `other`
_OTHER = "other"
_UNNAMED = "unknown"
_NOT_SENT = AllProvidersDown.__name__  # without a failed attempt: the circuits let it reach none
_KeyT = TypeVar("_KeyT")
_AT_ONCE = 1_000  # rows, counted on the event loop
_COLUMNS = (
    "seq, time, call_id, tenant_id, agent_id, model_group, model, coalesce(deployment, ''), outcome, "
    "coalesce(error, outcome), latency_ms, prompt_tokens, completion_tokens, cost_pico, cache_hit, "
    "coalesce(prompt, ''), failed_at, failed_with"
)
_SELECT_NEW = f"SELECT {_COLUMNS} FROM calls WHERE seq > ? ORDER BY seq LIMIT {_AT_ONCE}"  # noqa: S608 code
_OF_TODAY = (  # tenant by tenant, since the index begins with it
    "WITH RECURSIVE tenants (id) AS (SELECT min(tenant_id) FROM calls UNION ALL "
    "SELECT (SELECT min(tenant_id) FROM calls WHERE tenant_id > tenants.id) FROM tenants "
    "WHERE tenants.id IS NOT NULL) "
    "SELECT {} FROM tenants CROSS JOIN calls WHERE tenant_id = tenants.id AND time >= ? {}"
)
_SELECT_DAY = _OF_TODAY.format(
    "tenant_id, agent_id, count(*), count(*) FILTER (WHERE cost_pico IS NULL), "
    "coalesce(sum(cost_pico / 1000000), 0), coalesce(sum(cost_pico % 1000000), 0), "
    "count(*) FILTER (WHERE outcome = 'cut')",
    "GROUP BY tenant_id, agent_id",
)
_SELECT_CUT = _OF_TODAY.format(_COLUMNS, "AND outcome = 'cut'")
_SELECT_SUMS = (  # those of calls whose tasks are gone
    "SELECT tenant_id, agent_id, sum(calls), sum(unpriced), coalesce(sum(cost_millions), 0), "
    "coalesce(sum(cost_rest), 0), 0 FROM call_sums WHERE time >= ? GROUP BY tenant_id, agent_id"
)
_NEWEST = "SELECT coalesce(max(seq), 0) FROM calls"


class _CallRow(NamedTuple):
    """A row of the ledger's table `calls`."""

    seq: int
    time: float
    call_id: str
    tenant_id: str
    agent_id: str
    group: str
    model: str
    deployment: str
    outcome: str
    error: str
    latency_ms: float
    prompt_tokens: int
    completion_tokens: int
    cost_pico: int | None
    cache_hit: int
    prompt: str
    failed_at: str | None
    failed_with: str | None


class CallKey(NamedTuple):
    """The labels of calls: the group that was asked for, the model and deployment that answered, an error."""

    group: str
    model: str
    deployment: str
    error: str = ""


class FailureKey(NamedTuple):
    """The labels of an attempt that failed: its deployment, or the model where that is not known."""

    deployment: str
    error: str


def call_failures(failed_at: str | None, failed_with: str | None) -> list[FailureKey]:
    """The failed attempts of a call, from the columns of its row; older rows do not name the errors."""
    if failed_at is None:
        return []
    deployments: list[str] = decode(failed_at.encode())
    errors: list[str] = decode(failed_with.encode()) if failed_with else []
    return [FailureKey(*pair) for pair in zip_longest(deployments, errors, fillvalue=_UNNAMED)]


class UsageKey(NamedTuple):
    """The labels of usage: tenant and agent, the model that answered, and the version of the prompt."""

    tenant: str
    agent: str
    model: str
    prompt: str


@dataclass(slots=True)
class CallUsage:
    """Calls with their tokens and known cost, as `/costs` counts them; costs are picodollars."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_pico: int = 0

    def add(self, row: _CallRow) -> None:
        """Count a call."""
        self.calls += 1
        self.input_tokens += row.prompt_tokens
        self.output_tokens += row.completion_tokens
        self.cost_pico += row.cost_pico or 0


@dataclass(slots=True)
class Histogram:
    """Counts values by the first bound that they do not exceed; the last count is of those above all."""

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class DaySum:
    """The calls of an agent since midnight UTC; costs are picodollars."""

    calls: int = 0
    unpriced: int = 0
    cost_pico: int = 0

    def add(self, row: _CallRow, times: int = 1) -> None:
        """Count a call, or with -1 count it no more."""
        self.calls += times
        self.unpriced += times * (row.cost_pico is None)
        self.cost_pico += times * (row.cost_pico or 0)


class CallSums:
    """The calls of models of a mesh: sums of today by tenant and agent, and counters of this process."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._seen = self._summed = -1  # the last seq of the counters, and of the sums of today
        self._midnight = 0.0
        self._cut: dict[str, _CallRow] = {}  # calls of today that were cut off: a better row may come
        self._reading = asyncio.Lock()
        self.today: defaultdict[tuple[str, str], DaySum] = defaultdict(DaySum)
        """By tenant and agent."""
        self.durations: dict[CallKey, Histogram] = {}
        """Seconds of calls that no cache answered."""
        self.tokens: dict[tuple[CallKey, str], Histogram] = {}
        """Tokens of answered calls, `input` and `output`."""
        self.cost_pico: defaultdict[str, int] = defaultdict(int)
        """Known costs, by agent."""
        self.usage: defaultdict[UsageKey, CallUsage] = defaultdict(CallUsage)
        """All calls, those that a cache answered too."""
        self.errors: Counter[FailureKey] = Counter()
        """Attempts that failed."""

    async def begin(self) -> None:
        """Count from now on, and not from the first look."""
        self._seen = await self._log.view(_newest)

    async def refresh(self, now: datetime) -> None:
        """Read what is new. One reader reads for all who ask meanwhile."""
        midnight = datetime.combine(now.astimezone(UTC).date(), datetime.min.time(), UTC).timestamp()
        async with self._reading:
            if self._summed < 0 or midnight != self._midnight:
                await self._begin_day(midnight)
            while True:
                rows = await self._log.view(_read_new, self._seen)
                await self._drop_replaced(rows)
                for row in rows:
                    self._count(row)
                if len(rows) < _AT_ONCE:
                    return

    async def is_current(self, now: datetime, seconds: float) -> bool:
        """Read what is new; False where that takes longer, as the first sums of a day with many calls may."""
        try:
            async with asyncio.timeout(seconds):
                await self.refresh(now)
        except TimeoutError:
            return False
        return True

    async def _begin_day(self, midnight: float) -> None:
        newest, sums, cut = await self._log.view_apart(_read_day, midnight)
        self._midnight = midnight
        self.today.clear()
        self.today |= sums
        self._cut = {row.call_id: row for row in cut}
        self._summed = newest
        self._seen = newest if self._seen < 0 else self._seen

    async def _drop_replaced(self, rows: Sequence[_CallRow]) -> None:
        """Count calls no more that were cut off, where better rows of the same calls have replaced theirs."""
        cut_rows = {row.call_id: self._cut[row.call_id] for row in rows if row.call_id in self._cut}
        if not cut_rows:
            return
        there = await self._log.view(_read_seqs, [row.seq for row in cut_rows.values()])
        for call_id, row in cut_rows.items():
            if row.seq not in there:
                self.today[row.tenant_id, row.agent_id].add(row, -1)
                del self._cut[call_id]

    def _count(self, row: _CallRow) -> None:
        self._seen = row.seq
        if row.seq > self._summed and row.time >= self._midnight:
            self.today[row.tenant_id, row.agent_id].add(row)
            if row.outcome == "cut":
                self._cut[row.call_id] = row
        self.cost_pico[row.agent_id] += row.cost_pico or 0
        whose = UsageKey(row.tenant_id, row.agent_id, row.model, row.prompt)
        if whose not in self.usage and len(self.usage) >= _MAX_SERIES:
            whose = UsageKey(_OTHER, _OTHER, _OTHER, _OTHER)
        self.usage[whose].add(row)
        if row.cache_hit:
            return
        is_answered = row.outcome == "ok"
        self._count_failures(row)
        key = CallKey(row.group, row.model, row.deployment, "" if is_answered else row.error)
        if key not in self.durations and len(self.durations) >= _MAX_SERIES:
            key = CallKey(_OTHER, _OTHER, _OTHER, key.error and _OTHER)
        _histogram(self.durations, key, DURATION_BUCKETS).add(row.latency_ms / 1000)
        if is_answered:
            _histogram(self.tokens, (key, "input"), TOKEN_BUCKETS).add(row.prompt_tokens)
            _histogram(self.tokens, (key, "output"), TOKEN_BUCKETS).add(row.completion_tokens)

    def _count_failures(self, row: _CallRow) -> None:
        failures = call_failures(row.failed_at, row.failed_with)
        if not failures and row.outcome == "failed" and row.error != _NOT_SENT:
            failures = [FailureKey(row.deployment or row.model or row.group, row.error)]
        for failure in failures:
            is_new = failure not in self.errors
            self.errors[
                FailureKey(_OTHER, _OTHER) if is_new and len(self.errors) >= _MAX_SERIES else failure
            ] += 1


def _histogram(histograms: dict[_KeyT, Histogram], key: _KeyT, bounds: Sequence[float]) -> Histogram:
    if key not in histograms:
        histograms[key] = Histogram(bounds)
    return histograms[key]


def _read_new(session: Session, after_seq: int) -> list[_CallRow]:
    return [_CallRow(*row) for row in session.execute(_SELECT_NEW, (after_seq,)).fetchall()]


def _read_seqs(session: Session, seqs: Sequence[int]) -> set[int]:
    return {seq for (seq,) in session.select_in("SELECT seq FROM calls WHERE seq", seqs)}


def _read_day(session: Session, midnight: float) -> tuple[int, dict[tuple[str, str], DaySum], list[_CallRow]]:
    """The last number, the sums of the calls since midnight, and those of the calls that were cut off."""
    days: defaultdict[tuple[str, str], DaySum] = defaultdict(DaySum)
    cut_calls = 0
    for query in (_SELECT_DAY, _SELECT_SUMS):
        for tenant_id, agent_id, *sums in session.execute(query, (midnight,)).fetchall():
            calls, unpriced, millions, rest, cut = map(int, sums)
            cut_calls += cut
            day = days[tenant_id, agent_id]
            day.calls, day.unpriced = day.calls + calls, day.unpriced + unpriced
            day.cost_pico += millions * MILLION + rest
    # Most days have none, and looking for them reads all calls of the day once more.
    cut_rows = session.execute(_SELECT_CUT, (midnight,)).fetchall() if cut_calls else []
    return _newest(session), {**days}, [_CallRow(*row) for row in cut_rows]


def _newest(session: Session) -> int:
    [(newest,)] = session.execute(_NEWEST).fetchall()
    return int(newest)


# The table `agent_figures`: how many tasks each agent got and ended, and its last attempts

MAX_RECENT = 50  # attempts kept of each agent
_MAX_DURATION_MS = 1e12
_ATTEMPT_ENDED = "attempt.ended"
_COUNTED = (
    *("task.accepted", "task.succeeded", "task.failed", "task.cancelled", "task.timed_out"),
    *("task.dead_lettered", "message.dead_lettered"),
)
_SELECT = "SELECT agent_id, counts, recent FROM agent_figures"
_SELECT_SOME = f"{_SELECT} WHERE agent_id"
_INTO = "agent_figures (agent_id, last_seq, counts, recent)"
_REPLACE = (
    "ON CONFLICT (agent_id) DO UPDATE SET "
    "last_seq = excluded.last_seq, counts = excluded.counts, recent = excluded.recent"
)


class RecentAttempt(NamedTuple):
    """An attempt that has ended: at which unix time, how, and how many microseconds its work took."""

    ended_at: int
    status: str
    worked_us: int

    @property
    def worked_ms(self) -> float:
        """The same in milliseconds."""
        return self.worked_us / 1000


class AgentHistory(NamedTuple):
    """How many events of each type an agent had, and its last attempts, the oldest first."""

    counts: Mapping[str, int]
    recent: Sequence[RecentAttempt]


class _End(Struct):
    """The fields of an outcome that an attempt's row has."""

    status: TaskStatus | None = None
    duration_ms: float = 0.0

    @property
    def worked_us(self) -> int:
        """The duration in whole microseconds; 0 for one that makes no sense."""
        return int(self.duration_ms * 1000) if 0 <= self.duration_ms < _MAX_DURATION_MS else 0


class _Row(NamedTuple):
    counts: Counter[str]
    recent: list[Sequence[object]]


class AgentProjection:
    """The table `agent_figures`."""

    name = "figures"
    version = 1
    event_types: Collection[str] = (_ATTEMPT_ENDED, *_COUNTED)

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """Count events by agent, and note the ends of attempts; each row is written once."""
        agents = {event.agent_id or "" for event in events}
        rows = {name: _Row(Counter(), []) for name in agents}
        for name, counts, recent in session.select_in(_SELECT_SOME, agents):
            rows[name] = _Row(Counter(decode(counts.encode())), decode(recent.encode()))
        last = dict[str, int]()
        for event in events:
            name = event.agent_id or ""
            row, last[name] = rows[name], event.seq or 0
            if event.event_type == _ATTEMPT_ENDED:
                end = _read_end(event)
                row.recent.append((int(seconds(event.time)), end.status, end.worked_us))
            else:
                row.counts[event.event_type] += 1
        new_rows = [
            (name, last[name], encode(row.counts).decode(), encode(row.recent[-MAX_RECENT:]).decode())
            for name, row in rows.items()
        ]
        session.insert(_INTO, new_rows, then=_REPLACE)

    def clear(self, session: Session, oldest: int) -> None:
        """Forget what events of the log have made."""
        session.execute("DELETE FROM agent_figures WHERE last_seq >= ?", (oldest,))


def histories(session: Session) -> dict[str, AgentHistory]:
    """The history of each agent, by its id; under an empty one that of events which name none."""
    return {
        name: AgentHistory(decode(counts.encode()), [RecentAttempt(*end) for end in decode(recent.encode())])
        for name, counts, recent in session.execute(_SELECT).fetchall()
    }


def _read_end(event: Event) -> _End:
    payload = event.payload
    try:
        if isinstance(payload, Json):
            return _End.model_validate_json(payload)
        return _End.model_validate(payload.model_dump() if isinstance(payload, Struct) else payload)
    except (ValueError, TypeError):  # a payload of another shape counts as empty
        return _End()
