"""The story of a night: what went away and came back, what failed, who answered, what it cost."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode

from msgspec.structs import replace

from meshwright.agents.event_types import AgentMissing
from meshwright.core.events import Event
from meshwright.core.model_events import DeploymentLeftAlone, DeploymentRecovered
from meshwright.core.task_events import TaskWaiting, WaitEnded, WaitKind, WorkBrokeOff
from meshwright.edges.event_types import EdgeConnected, EdgeDisconnected
from meshwright.engine.events.event_types import LossNoticed, ProcessEvent, StoreEmptied
from meshwright.engine.events.filter import MAX_LIMIT, EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.task_lists import tenants_in
from meshwright.engine.work.people import WAITED_FOR
from meshwright.kit import Session
from meshwright.money.costs import CostQuery, sum_costs
from meshwright.parts.figures.records import Story, StoryKind, StoryLine

_MAX_FAILED = 10_000
_MAX_LINES = 500
_LEFT_ALONE = ("deployment.cooled_down", "deployment.refused")
_BACK, _CUT_OFF, _CONNECTED = "deployment.recovered", "edge.disconnected", "edge.connected"
_MISSING, _RETURNED = "agent.missing", "agent.returned"
_LOST = ("store.loss_noticed", "store.emptied")
_WAITING, _ANSWERED, _BROKE_OFF = "task.waiting", "wait.ended", "work.broke_off"
_STARTED, _STOPPED = "mesh.started", "mesh.stopped"
_BEFORE = 50  # starts and stops before the time, of which one may begin an absence that ends in it
_AWAY = *_LEFT_ALONE, _BACK, _CUT_OFF, _CONNECTED, _MISSING, _RETURNED
_TYPES = (*_AWAY, *_LOST, _WAITING, _ANSWERED, _BROKE_OFF)
_FAILED = (
    "SELECT coalesce(agent_id, ''), coalesce(error, ''), status, count(*), min(completed_at), "
    "max(completed_at), sum(count(*)) OVER () FROM (SELECT agent_id, error, status, completed_at FROM {} "
    "WHERE tenant_id IN ({}) AND status IN ('failed', 'timed_out') AND completed_at >= :since "
    "ORDER BY completed_at DESC LIMIT :limit) AS ended GROUP BY 1, 2, 3 ORDER BY 5, 1, 2, 3 LIMIT :lines"
)
_OPTIONS = {"agent_id": "agent", "event_type": "type"}  # of commands, where they differ from filters
_ALONE = "sqlite"
"""The store of a mesh of one process."""
_ENDS = {"failed": "failed", "timed_out": "timed out"}


class _Rows(NamedTuple):
    """Some events of a kind, oldest first, and whether earlier ones were left out."""

    events: Sequence[Event]
    is_cut: bool


async def read_story(log: EventLog, tenant_id: str | None, since: datetime, until: datetime) -> Story:
    """Tell what happened since a time, for a tenant or for all. Raises StoreFailed.

    At most 1,000 events of a kind and 10,000 failed tasks are read, the newest: `cut` names what there was
    more of.
    """
    rows = {event_type: await _read(log, tenant_id, event_type, since) for event_type in _TYPES}
    failed, is_cut = await log.view_apart(_read_failed, tenant_id, since.timestamp())
    costs = await sum_costs(log, CostQuery(tenant_id, since=since), limit=1)
    cut = [event_type for event_type, some in rows.items() if some.is_cut]
    events = {event_type: some.events for event_type, some in rows.items()}
    lines = [*_deployments(events), *_brokers(events), *_agents(events), *_losses(events), *_waits(events)]
    lines += [*_broken_off(events), *failed, *_answers(events), *await _absences(log, tenant_id, since)]
    return Story(
        since=since,
        until=until,
        lines=tuple(sorted(lines, key=lambda line: (line.first, line.kind, line.text))),
        cost_usd=costs.total.cost_usd,
        calls=costs.total.calls,
        cut=(*cut, *(["tasks"] if is_cut else [])),
    )


async def _read(log: EventLog, tenant_id: str | None, event_type: str, since: datetime) -> _Rows:
    newest = EventFilter(
        event_type=event_type, tenant_id=tenant_id, since=since, order="desc", limit=MAX_LIMIT
    )
    events = await log.query(newest)
    return _Rows(events[::-1], len(events) == MAX_LIMIT)


def _read_failed(session: Session, tenant_id: str | None, since: float) -> tuple[list[StoryLine], bool]:
    """The tasks that failed since a time, by agent and error, and whether earlier ones were left out."""
    tenants = tenants_in(session, "tasks") if tenant_id is None else [session.bindable(tenant_id)]
    of_tenants = {f"tenant{place}": name for place, name in enumerate(tenants)}
    listed = ", ".join(f":{name}" for name in of_tenants) or "NULL"
    failed = _FAILED.format(session.by_index("tasks", "tasks_dead_by_end"), listed)
    values: dict[str, Any] = {"since": since, "limit": _MAX_FAILED, "lines": _MAX_LINES, **of_tenants}
    rows = session.execute(failed, values).fetchall()
    lines = [
        StoryLine(
            kind="failed",
            first=_time(first),
            last=_time(last),
            count=count,
            text=f"{_count(count, 'task')} of {agent_id or 'no agent'} {_ENDS[status]}: {error or '?'}",
            **_rows("tasks", since, status=status, error=error, agent_id=agent_id),
        )
        for agent_id, error, status, count, first, last, _ in rows
    ]
    return lines, bool(rows) and int(rows[0][6]) >= _MAX_FAILED


def _deployments(events: dict[str, Sequence[Event]]) -> Iterator[StoryLine]:
    """Deployments that got no calls for a while, each once: from the first time until they got some again."""
    away: defaultdict[str, list[Event]] = defaultdict(list)
    back: dict[str, datetime] = {}
    for event_type in _LEFT_ALONE:
        for event in events[event_type]:
            if (left_alone := DeploymentLeftAlone.read(event)) is not None and not left_alone.is_for_one_task:
                away[left_alone.deployment].append(event)
    for event in events[_BACK]:
        if (recovered := DeploymentRecovered.read(event)) is not None:
            back[recovered.deployment] = event.time
    for name, some in away.items():
        yield _absence(some, back.get(name), (f"Model {name} is away", f"Model {name} was away"))


def _brokers(events: dict[str, Sequence[Event]]) -> Iterator[StoryLine]:
    away: defaultdict[str, list[Event]] = defaultdict(list)
    back: dict[str, datetime] = {}
    for event in events[_CUT_OFF]:
        if (cut_off := EdgeDisconnected.read(event)) is not None:
            away[cut_off.broker].append(event)
    for event in events[_CONNECTED]:
        if (connected := EdgeConnected.read(event)) is not None:
            back[connected.broker] = event.time
    for name, some in away.items():
        words = f"The broker {name} is cut off", f"The broker {name} was cut off"
        yield _absence(some, back.get(name), words)


def _agents(events: dict[str, Sequence[Event]]) -> Iterator[StoryLine]:
    """Agents that no worker had, with how many tasks waited for each when it was last looked for."""
    away: defaultdict[str, list[Event]] = defaultdict(list)
    back = {event.agent_id: event.time for event in events[_RETURNED]}
    for event in events[_MISSING]:
        away[event.agent_id or ""].append(event)
    for name, some in away.items():
        missing = AgentMissing.read(some[-1])
        waited = f"; {_count(missing.tasks, 'task')} waited for it" if missing is not None else ""
        words = f"Agent {name} is not loaded{waited}", f"Agent {name} was not loaded{waited}"
        yield _absence(some, back.get(name), words)


def _absence(events: Sequence[Event], back: datetime | None, words: tuple[str, str]) -> StoryLine:
    """The line of what these events say went away, in the words for still and for no longer away."""
    first, last = min(events, key=_at), max(events, key=_at)
    line = _line("away", [first, last], words[0], _rows("events", _at(first), event_type=first.event_type))
    is_back = back is not None and back >= last.time
    changes = {"last": back, "text": f"{words[1]}, and is back"} if is_back else {}
    return replace(line, count=len(events), **changes)


async def _absences(log: EventLog, tenant_id: str | None, since: datetime) -> list[StoryLine]:
    """When the mesh did not run: a start behind another without a stop between them follows a crash."""
    some = list[Event]()
    for event_type in (_STARTED, _STOPPED):
        of_type = EventFilter(event_type=event_type, tenant_id=tenant_id, order="desc")
        before = of_type.model_copy(update={"until": since, "limit": _BEFORE})
        some += await log.query(before)
        some += await log.query(of_type.model_copy(update={"since": since, "limit": MAX_LIMIT}))
    last = dict[str, Event]()
    absences: defaultdict[StoryKind, list[tuple[datetime, datetime | None]]] = defaultdict(list)
    for event in sorted({event.seq: event for event in some}.values(), key=lambda event: event.seq or 0):
        process = ProcessEvent.read(event)
        if process is None:
            continue
        key = "" if process.store == _ALONE else process.address
        before = last.get(key)
        last[key] = event
        if event.event_type == _STARTED and before is not None and event.time >= since:
            if before.event_type == _STOPPED:
                absences["stopped"].append((before.time, event.time))
            else:
                seen = await _last_seen(log, before, event, alone=not key)
                absences["killed"].append((seen, event.time))
    for event in last.values():
        if event.event_type == _STOPPED and event.time >= since:
            absences["stopped"].append((event.time, None))
    return [_stop_line(kind, times) for kind, times in absences.items()]


async def _last_seen(log: EventLog, before: Event, start: Event, *, alone: bool) -> datetime:
    """When a process that began with one event last recorded something before the next start."""
    own = None if alone else before.aggregate_id
    newest = EventFilter(before_seq=start.seq, after_seq=(before.seq or 1) - 1, order="desc", limit=1)
    events = await log.query(newest.model_copy(update={"aggregate_id": own}))
    return max([before.time, *(event.time for event in events)])


def _stop_line(kind: StoryKind, times: Sequence[tuple[datetime, datetime | None]]) -> StoryLine:
    is_back = times[-1][1] is not None
    number = "" if len(times) == 1 else f" {len(times):,} times"
    seen = ", last seen at the first time here" if kind == "killed" else ""
    first = times[0][0]
    return StoryLine(
        kind=kind,
        first=first,
        last=times[-1][1] or times[-1][0],
        count=len(times),
        text=f"The mesh was {kind}{number}{seen}{', and is back' if is_back else ''}",
        **_rows("events", first.timestamp(), event_type=_STARTED if is_back else _STOPPED),
    )


def _losses(events: dict[str, Sequence[Event]]) -> Iterator[StoryLine]:
    for event_type in _LOST:
        for event in events[event_type]:
            lost = LossNoticed.read(event) or StoreEmptied.read(event)
            words = "came back older" if isinstance(lost, LossNoticed) else "came back empty"
            yield _line(
                "lost", [event], f"The store {words}", _rows("events", _at(event), event_type=event_type)
            )


def _waits(events: dict[str, Sequence[Event]]) -> Iterator[StoryLine]:
    """How many tasks began to wait for what ends without their doing: people, providers, money."""
    waits: defaultdict[WaitKind, list[Event]] = defaultdict(list)
    for event in events[_WAITING]:
        waiting = TaskWaiting.read(event)
        if waiting is not None and waiting.kind in ("person", "provider", "money"):
            waits[waiting.kind].append(event)
    for kind, some in waits.items():
        tasks = len({event.task_id for event in some})
        text = f"{_count(tasks, 'task')} waited for {WAITED_FOR[kind]}"
        yield _line("waited", some, text, _rows("events", _at(some[0]), event_type=_WAITING), tasks)


def _broken_off(events: dict[str, Sequence[Event]]) -> Iterator[StoryLine]:
    some = [event for event in events[_BROKE_OFF] if WorkBrokeOff.read(event) is not None]
    if some:
        text = f"{_count(len(some), 'run')} broke off, as its process ended"
        yield _line("broke off", some, text, _rows("events", _at(some[0]), event_type=_BROKE_OFF))


def _answers(events: dict[str, Sequence[Event]]) -> Iterator[StoryLine]:
    answers: defaultdict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in events[_ANSWERED]:
        ended = WaitEnded.read(event)
        if ended is not None and ended.kind == "person":
            how = ended.decision or ended.how
            answers[ended.answered_by or "", how].append(event)
    for (name, how), some in answers.items():
        questions = _count(len(some), "question")
        text = f"{name} {how} {questions}" if name else f"{questions} {how} without an answer"
        yield _line("answered", some, text, _rows("events", _at(some[0]), event_type=_ANSWERED))


def _line(
    kind: StoryKind, events: Sequence[Event], text: str, rows: dict[str, str], count: int | None = None
) -> StoryLine:
    number = len(events) if count is None else count
    return StoryLine(kind=kind, first=events[0].time, last=events[-1].time, count=number, text=text, **rows)


def _at(event: Event) -> float:
    return event.time.timestamp()


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _rows(noun: str, since: float, **filters: str) -> dict[str, str]:
    """The command and the view of the page that list the rows of a line."""
    given = {name: value for name, value in filters.items() if value}
    begin = f"{_time(since):%Y-%m-%dT%H:%M:%SZ}"
    options = [f"--{_OPTIONS.get(name, name)} {shlex.quote(value)}" for name, value in given.items()]
    command = " ".join(["mesh", noun, *options, f"--since {begin}"])
    return {"command": command, "view": f"{noun}?{urlencode({**given, 'since': begin})}"}


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
