"""Reads the figures of a mesh from its lists, its ledger and its processes; no actor is asked."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from meshwright import Event
from meshwright.component import Mesh
from meshwright.kit import (
    BoundAgents,
    Duty,
    HostError,
    NotFound,
    Registry,
    Session,
    Worker,
    decode,
    from_pico,
    question_id,
    topics,
)
from meshwright.mesh.orchestration.settings import PresenceSettings
from meshwright.models.overview import Deployments
from meshwright.parts.figures.deployments import (
    CallRow,
    figures_of_models,
    last_calls,
    quantile_seconds,
    unsent_calls,
    waiting_tasks,
)
from meshwright.parts.figures.flows import read_flows
from meshwright.parts.figures.records import (
    AgentFigures,
    DeadLetterCounts,
    DiskFigures,
    Figures,
    Flows,
    ModelFigures,
    ParkedFigures,
    Scale,
    StuckAttempt,
    Trends,
    WorkerFigures,
)
from meshwright.parts.figures.sums import MAX_RECENT, AgentHistory, CallSums, DaySum, RecentAttempt, histories
from meshwright.parts.figures.trends import agent_trends, first_hour, model_trends, read_trends

EVERY_APP = "mesh"
"""The app that stands for all agents."""
_RATE_SECONDS = 300.0
_SUCCESS_OF = 20  # attempts
_LEAST_FAILED = 3  # attempts, below which an agent does not count as failing
_LEAST = 5  # attempts, below which none of an agent counts as stuck
_MAX_LISTED = 1_000
_MAX_SUM_SECONDS = 0.5  # that figures wait for the costs of today
_OF_TENANT = "AND tasks.tenant_id = :tenant_id"
_IS_PARKED = (
    "status = 'waiting' AND EXISTS (SELECT 1 FROM waits "
    "WHERE waits.task_id = tasks.task_id AND waits.tenant_id = tasks.tenant_id)"
)
_OPEN = (
    "SELECT agent_id, state, count(*), min(updated_at) FROM (SELECT agent_id, updated_at, CASE "  # noqa: S608
    f"WHEN status = 'running' THEN 'running' WHEN {_IS_PARKED} THEN 'parked' ELSE 'waiting' END AS state "
    "FROM {} WHERE completed_at IS NULL AND agent_id IS NOT NULL {}) AS opened GROUP BY agent_id, state"
)
_RUNNING = (
    "SELECT task_id, tenant_id, agent_id, updated_at FROM {} WHERE completed_at IS NULL "
    "AND status = 'running' AND updated_at < :before {} ORDER BY updated_at LIMIT :limit"
)
_PARKED = (
    "SELECT tasks.agent_id, kind, account, count(*), min(since) FROM waits JOIN tasks "
    "ON tasks.task_id = waits.task_id AND tasks.tenant_id = waits.tenant_id WHERE kind <> 'person' {} "
    "GROUP BY tasks.agent_id, kind, account ORDER BY count(*) DESC, tasks.agent_id LIMIT :limit"
)
_PERSONS = (
    "SELECT tasks.agent_id, tasks.tenant_id, wait_key, since FROM waits JOIN tasks "
    "ON tasks.task_id = waits.task_id AND tasks.tenant_id = waits.tenant_id WHERE kind = 'person' {} "
    "ORDER BY since LIMIT :limit"
)
_SELECT_QUESTIONS = "SELECT id, document FROM inbox WHERE id"
_ENDED_BADLY = "SELECT status, CAST(sum(tasks) AS BIGINT) FROM dead_letters WHERE 1 = 1 {} GROUP BY status"
_LETTERS_OF_TENANT = "AND tenant_id = :tenant_id"
_SIZE = (
    "SELECT CAST(sum(pg_total_relation_size(oid)) AS BIGINT) FROM pg_class "
    "WHERE relkind = 'r' AND relnamespace = CAST(current_schema() AS regnamespace)"
)


class _Snapshot(NamedTuple):
    """The rows that figures are made of, all of one moment."""

    open: Sequence[tuple[str, str, int, float]]
    running: Sequence[tuple[str, str, str, float]]
    parked: Sequence[ParkedFigures]
    ended_badly: Mapping[str, int]
    histories: Mapping[str, AgentHistory]
    calls: Sequence[CallRow]
    waiting: Mapping[str, int]
    server_bytes: int | None = None


class FiguresReader:
    """Reads the figures of a mesh, of one tenant or of all."""

    def __init__(self, mesh: Mesh, roster: Roster, stuck_seconds: float) -> None:
        self._mesh = mesh
        self._roster = roster
        self._stuck_seconds = stuck_seconds
        self.calls = CallSums(mesh.log)

    async def figures(self, tenant_id: str | None) -> Figures:
        """The figures of a tenant; None: of the whole mesh. Raises StoreFailed."""
        figures, _ = await self.with_counts(tenant_id)
        return figures

    async def with_counts(self, tenant_id: str | None) -> tuple[Figures, Mapping[str, Mapping[str, int]]]:
        """The figures, and how many events of each type there were of each agent, over all tenants."""
        now, is_whole = self._mesh.runtime.clock.now(), tenant_id is None
        has_costs = await self.calls.is_current(now, _MAX_SUM_SECONDS)
        before = now.timestamp() - self._stuck_seconds
        stored = await self._mesh.log.view(_read, tenant_id, before)
        workers = await self._roster.workers()
        stuck = list(_stuck(stored, now.timestamp()))
        agents = self._agents(stored, workers, stuck, tenant_id, now.timestamp(), has_costs=has_costs)
        figures = Figures(
            at=now,
            agents=tuple(agents),
            lacks_costs=not has_costs,
            workers=tuple(workers) if is_whole else (),
            models=tuple(self._models(stored)) if is_whole else (),
            unsent_calls=unsent_calls(stored.calls, self._mesh.get(Deployments)) if is_whole else {},
            parked=tuple(stored.parked),
            stuck=tuple(stuck),
            dead_letters=_dead_letters(stored, is_whole=is_whole),
            disk=await asyncio.to_thread(self._disk, stored.server_bytes) if is_whole else None,
        )
        return figures, {agent_id: history.counts for agent_id, history in stored.histories.items()}

    async def trends(self, hours: int, tenant_id: str | None) -> Trends:
        """The figures of the last hours, of a tenant or of the whole mesh. Raises StoreFailed."""
        now = self._mesh.runtime.clock.now()
        since = first_hour(now, hours)
        rows = await self._mesh.log.view_apart(read_trends, tenant_id, since.timestamp())
        declared = self._mesh.get(Deployments).known() if tenant_id is None else {}
        return Trends(
            at=now,
            since=since,
            agents=tuple(agent_trends(rows.ended)),
            models=tuple(model_trends(rows.calls, declared)),
            is_cut=rows.is_cut,
        )

    async def flows(self, minutes: int, tenant_id: str | None) -> Flows:
        """The flow of the last minutes, of a tenant or of the whole mesh. Raises StoreFailed."""
        now = self._mesh.runtime.clock.now()
        flows = await self._mesh.log.view_apart(read_flows, tenant_id, now.timestamp() - 60 * minutes)
        return Flows(at=now, minutes=minutes, items=tuple(flows))

    async def scale(self, app: str, tenant_id: str | None) -> Scale:
        """The tasks of an agent, or of all (`mesh`), that wait for a slot or run. Raises NotFound."""
        agent_ids = self._agent_ids()
        if app != EVERY_APP and app not in agent_ids:
            raise NotFound(
                f"The mesh has no agent {app!r} to scale",
                remedy=f"There are {', '.join([EVERY_APP, *agent_ids])}",
                field="app",
            )
        rows = await self._mesh.log.view(_read_open, tenant_id, None if app == EVERY_APP else app)
        counts = {"waiting": 0, "running": 0, "parked": 0}
        for _, state, count, _ in rows:
            counts[state] += count
        waiting, running = counts["waiting"], counts["running"]
        return Scale(app=app, value=waiting + running, waiting=waiting, running=running)

    def _agent_ids(self) -> list[str]:
        return [info.agent_id for info in self._mesh.get(Registry).agents() if info.kind != "system"]

    def _agents(
        self,
        stored: _Snapshot,
        workers: Sequence[WorkerFigures],
        stuck: Sequence[StuckAttempt],
        tenant_id: str | None,
        now: float,
        *,
        has_costs: bool,
    ) -> Iterable[AgentFigures]:
        states = {(agent_id, state): (count, since) for agent_id, state, count, since in stored.open}
        costs: defaultdict[str, DaySum] = defaultdict(DaySum)
        for (tenant, agent_id), day in self.calls.today.items() if has_costs else ():
            if tenant_id in (None, tenant):
                cost = costs[agent_id]
                cost.calls, cost.unpriced = cost.calls + day.calls, cost.unpriced + day.unpriced
                cost.cost_pico += day.cost_pico
        waits_for: defaultdict[str | None, set[str]] = defaultdict(set)
        for wait in stored.parked:
            waits_for[wait.agent_id].add(wait.kind)
        names = sorted({*self._agent_ids(), *(agent_id for agent_id, _ in states)})
        for name in names:
            slots = [worker.agents[name] for worker in workers if _has(worker, name)]
            history = stored.histories.get(name)
            waiting, since = states.get((name, "waiting"), (0, None))
            recent = () if history is None else history.recent
            yield AgentFigures(
                agent_id=name,
                state=_state(recent, waits_for[name], is_missing=bool(workers) and not slots),
                waiting=waiting,
                running=states.get((name, "running"), (0, None))[0],
                parked=states.get((name, "parked"), (0, None))[0],
                slots=sum(slots) if slots else None,
                oldest=None if since is None else _time(since),
                stuck=sum(attempt.agent_id == name for attempt in stuck),
                calls_today=costs[name].calls,
                unpriced_today=costs[name].unpriced,
                cost_today_usd=from_pico(costs[name].cost_pico) if has_costs else None,
                **_speed(recent, None if tenant_id else now),
            )

    def _models(self, stored: _Snapshot) -> Iterable[ModelFigures]:
        return figures_of_models(stored.calls, stored.waiting, self._mesh.get(Deployments))

    def _disk(self, server_bytes: int | None) -> DiskFigures | None:
        folder = self._mesh.database.folder
        if not folder.is_dir():
            return None
        disk, size = shutil.disk_usage(folder), server_bytes or 0
        for path in folder.glob("*.db*") if server_bytes is None else ():
            with suppress(OSError):  # a file of the database that has just gone
                size += os.stat(path).st_size
        return DiskFigures(free_bytes=disk.free, total_bytes=disk.total, store_bytes=size)


def _read(session: Session, tenant_id: str | None, before: float) -> _Snapshot:
    values = _tenant_values(session, tenant_id)
    listed = {**values, "limit": _MAX_LISTED}
    condition = _OF_TENANT if values else ""
    running = session.execute(
        _RUNNING.format(_open_tasks(session), condition), {**listed, "before": before}
    ).fetchall()
    parked = [
        ParkedFigures(agent_id=agent_id, kind=kind, account=account, count=count, oldest=_time(since))
        for agent_id, kind, account, count, since in session.execute(
            _PARKED.format(condition), listed
        ).fetchall()
    ]
    parked += _for_persons(session, session.execute(_PERSONS.format(condition), listed).fetchall())
    of_tenant = _LETTERS_OF_TENANT if values else ""
    badly = session.execute(_ENDED_BADLY.format(of_tenant), values).fetchall()
    opened, agents = _read_open(session, tenant_id), histories(session)
    stored = _Snapshot(opened, running, parked, dict(badly), agents, (), {})
    if tenant_id is not None:
        return stored
    size = session.execute(_SIZE).fetchone()[0] if session.dialect == "postgres" else None
    return stored._replace(calls=last_calls(session), waiting=waiting_tasks(session), server_bytes=size)


class _PersonWaits(NamedTuple):
    """When waits for persons began: all, and those whose question was shown to nobody."""

    all: list[float]
    unreached: list[float]


def _for_persons(session: Session, waits: Sequence[Sequence[Any]]) -> list[ParkedFigures]:
    """Waits for persons, by agent and who may answer."""
    ids = [question_id(tenant_id, key) for _, tenant_id, key, _ in waits]
    documents = {name: decode(text.encode()) for name, text in session.select_in(_SELECT_QUESTIONS, ids)}
    by_agent: defaultdict[tuple[str | None, tuple[str, ...]], _PersonWaits]
    by_agent = defaultdict(lambda: _PersonWaits([], []))
    for (agent_id, _, _, since), name in zip(waits, ids, strict=True):
        document = documents.get(name, {})
        times = by_agent[agent_id, tuple(document.get("may_answer") or ())]
        times.all.append(since)
        if not document.get("reached_at"):
            times.unreached.append(since)
    return [
        ParkedFigures(
            agent_id=agent_id,
            kind="person",
            may_answer=may_answer,
            count=len(times.all),
            oldest=_time(min(times.all)),
            unreached=len(times.unreached),
            unreached_since=_time(min(times.unreached)) if times.unreached else None,
        )
        for (agent_id, may_answer), times in by_agent.items()
    ]


def _read_open(
    session: Session, tenant_id: str | None, agent_id: str | None = None
) -> list[tuple[str, str, int, float]]:
    values = _tenant_values(session, tenant_id)
    condition = _OF_TENANT if values else ""
    if agent_id is None:
        return session.execute(_OPEN.format(_open_tasks(session), condition), values).fetchall()
    tasks = session.by_index("tasks", "tasks_open_of_agent")
    query = _OPEN.format(tasks, f"AND tasks.agent_id = :agent_id {condition}")
    return session.execute(query, {**values, "agent_id": session.bindable(agent_id)}).fetchall()


def _open_tasks(session: Session) -> str:
    """The table of tasks by its index of those that are open, of which a tenant has fewer than it had."""
    return session.by_index("tasks", "tasks_open")


def _tenant_values(session: Session, tenant_id: str | None) -> dict[str, Any]:
    return {} if tenant_id is None else {"tenant_id": session.bindable(tenant_id)}


def _state(recent: Sequence[RecentAttempt], waits_for: Collection[str], *, is_missing: bool) -> str:
    """Whether an agent is well, or why its tasks do not succeed."""
    if is_missing:
        return "not loaded"
    if "provider" in waits_for:
        return "blocked: no model"
    if "money" in waits_for:
        return "no money"
    if "program" in waits_for:
        return "nobody works for it"
    last = [end.status for end in recent if end.status in ("succeeded", "failed", "timed_out")][-_SUCCESS_OF:]
    if len(last) >= _LEAST_FAILED and "succeeded" not in last:
        return f"failing: {len(last)} of {len(last)}"
    return "well"


def _speed(recent: Sequence[RecentAttempt], now: float | None) -> dict[str, float | None]:
    """The rate, where a time is given, success and durations of an agent's last attempts."""
    worked = [attempt for attempt in recent if attempt.status in ("succeeded", "failed", "timed_out")]
    last = worked[-_SUCCESS_OF:]
    durations = [attempt.worked_ms for attempt in worked]
    return {
        "rate": None if now is None else _rate(recent, now),
        "success": sum(attempt.status == "succeeded" for attempt in last) / len(last) if last else None,
        "p50_seconds": quantile_seconds(durations, 0.5),
        "p90_seconds": quantile_seconds(durations, 0.9),
    }


def _rate(recent: Sequence[RecentAttempt], now: float) -> float:
    """Attempts ended a minute: of the last five, or of the shorter time in which all that is kept ended."""
    end_times = [*takewhile(lambda at: at > now - _RATE_SECONDS, (end.ended_at for end in reversed(recent)))]
    is_cut = len(end_times) == MAX_RECENT  # there were more within the window
    window = max(1.0, now - end_times[-1]) if is_cut else _RATE_SECONDS
    return round(len(end_times) * 60 / window, 2)


def _stuck(stored: _Snapshot, now: float) -> Iterable[StuckAttempt]:
    limits = {
        agent_id: limit
        for agent_id, history in stored.histories.items()
        if len(history.recent) >= _LEAST
        and (limit := _speed(history.recent, None)["p90_seconds"]) is not None
    }
    for task_id, tenant_id, agent_id, since in stored.running:
        if agent_id in limits and now - since > 2 * limits[agent_id]:
            yield StuckAttempt(
                task_id=task_id,
                tenant_id=tenant_id,
                agent_id=agent_id,
                running_seconds=round(now - since, 3),
                p90_seconds=limits[agent_id],
            )


def _dead_letters(stored: _Snapshot, *, is_whole: bool) -> DeadLetterCounts:
    messages = sum(history.counts.get("message.dead_lettered", 0) for history in stored.histories.values())
    badly = stored.ended_badly
    return DeadLetterCounts(
        failed=badly.get("failed", 0),
        timed_out=badly.get("timed_out", 0),
        messages=messages if is_whole else None,
    )


def _has(worker: WorkerFigures, agent_id: str) -> bool:
    return agent_id in worker.agents and worker.lease != "expired"


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# Workers: each process says every few seconds what it runs, and fronts remember it

_SEEN, _ROLL_CALL, _LEFT = "worker.seen", "worker.roll_call", "worker.left"
_MISSED = 3  # beats without a word, after which a worker is no longer listed


class Roster:
    """The workers that are there, as far as this process has heard."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._seconds = mesh.settings[PresenceSettings].heartbeat_seconds
        self._started_at = mesh.runtime.clock.now()
        self._heard: dict[str, WorkerFigures] = {}
        self._telling = Duty(mesh.runtime.clock, self._seconds, self._tell, "worker: seen")
        mesh.runtime.listen(topics.MESH, self._hear, (_SEEN, _ROLL_CALL, _LEFT))

    async def start(self) -> None:
        """Ask who is there and, where other processes may ask, begin to tell."""
        if self._mesh.runtime.is_shared:
            self._show(_ROLL_CALL, {})
            await self._telling.start()

    async def stop(self) -> None:
        """Stop telling, and say that this process leaves: it has not lost its lease."""
        await self._telling.stop()
        if self._mesh.runtime.is_shared:
            self._show(_LEFT, {"incarnation": self._mesh.runtime.incarnation})

    async def workers(self) -> list[WorkerFigures]:
        """Those that are there, this process first; one that was lost is listed for three beats more."""
        now = self._mesh.runtime.clock.now()
        for name, worker in list(self._heard.items()):
            if (now - worker.seen_at).total_seconds() > _MISSED * self._seconds:
                del self._heard[name]
        others = sorted(self._heard.values(), key=lambda worker: (worker.started_at, worker.incarnation))
        leases = await asyncio.gather(*(self._lease_state(worker) for worker in others))
        listed = [
            worker.model_copy(update={"lease": lease}) for worker, lease in zip(others, leases, strict=True)
        ]
        return [self._own(now), *listed] if self._mesh.ready else listed

    async def _lease_state(self, worker: WorkerFigures) -> Literal["held", "expired", "unknown"]:
        try:
            return "expired" if await self._mesh.runtime.has_expired(worker.incarnation) else "held"
        except HostError:  # the store is away, and the figures of the others are still worth reading
            return "unknown"

    def _own(self, now: datetime) -> WorkerFigures:
        mesh, worker = self._mesh, self._mesh.get(Worker)
        return WorkerFigures(
            incarnation=mesh.runtime.incarnation,
            store=mesh.runtime.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            is_front=mesh.role.is_front,
            apps=tuple(sorted(mesh.role.apps or ())),
            started_at=self._started_at,
            seen_at=now,
            agents={agent_id: worker.slots_of(agent_id) for agent_id in mesh.get(BoundAgents)},
            running=worker.running,
            waiting=worker.waiting,
        )

    async def _tell(self) -> None:
        self._say()

    def _say(self) -> None:
        self._show(_SEEN, self._own(self._mesh.runtime.clock.now()).model_dump(mode="json"))

    def _show(self, event_type: str, payload: dict[str, Any]) -> None:
        self._mesh.runtime.broadcast(self._mesh.event(event_type, payload))

    def _hear(self, event: Event) -> None:
        if event.aggregate_id == self._mesh.aggregate_id:
            return
        if event.event_type == _ROLL_CALL:
            if self._mesh.ready:
                self._say()
            return
        if event.event_type == _LEFT:
            self._heard.pop(event.fields["incarnation"], None)
            return
        worker = WorkerFigures.model_validate(event.payload)
        process = (worker.host, worker.pid, worker.started_at)  # another lease may be one of the same process
        for name, other in list(self._heard.items()):
            if (other.host, other.pid, other.started_at) == process:
                del self._heard[name]
        self._heard[worker.incarnation] = worker
