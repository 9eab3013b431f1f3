"""How a mesh is doing: open tasks by status, what they wait for, and the deployments that are left alone.

The waits of tasks are a projection of the log, the table `waits`. No actor is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from msgspec import field

from meshwright.core.encoding import View, encode
from meshwright.core.events import Event
from meshwright.core.messages import ENDED, TaskStatus
from meshwright.core.payloads import Fact
from meshwright.core.task_events import TaskWaiting, WaitEnded
from meshwright.engine.events.filter import seconds
from meshwright.engine.events.projections import StalledProjection
from meshwright.engine.events.tasks import MAX_REASON_CHARS
from meshwright.engine.sql.database import Row, Session
from meshwright.engine.work.protocol import WaitKind

WAITING, WAIT_ENDED = "task.waiting", "wait.ended"
WORKER_HELD, WORKER_BEGUN = "worker.held", "worker.begun"
NO_MORE = ("task.dispatched", "task.succeeded", "task.failed", "task.cancelled", "task.timed_out")
"""After these a task waits for nothing: it has ended, or begins again."""
_COLUMNS = (
    "tenant_id",
    "wait_key",
    "task_id",
    "seq",
    "kind",
    "reason",
    "account",
    "since",
    "due_at",
    "models",
)
_INTO = f"waits ({', '.join(_COLUMNS)})"
_REPLACE = "ON CONFLICT (tenant_id, wait_key) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in _COLUMNS[2:]
)
_END = "DELETE FROM waits WHERE tenant_id = ? AND wait_key = ?"
_OF_TASK = "SELECT task_id FROM waits WHERE task_id"
_END_ALL = "DELETE FROM waits WHERE tenant_id = ? AND task_id = ?"
_OPEN_STATUSES = ", ".join(f"'{status}'" for status in get_args(TaskStatus) if status not in ENDED)
_COUNT_TASKS = "SELECT status, count(*) FROM {} WHERE completed_at IS NULL {} GROUP BY status"
_OF_TENANT = "AND tenant_id = :tenant_id"
_OPEN_OF_TENANT = f"{_OF_TENANT} AND status <> 'succeeded' AND status IN ({_OPEN_STATUSES})"
_COUNT_WAITS = (
    "SELECT kind, count(*), count(DISTINCT tenant_id || ' ' || task_id), min(since), min(due_at), max(seq) "
    "FROM waits WHERE 1 = 1 {} "
    "GROUP BY kind ORDER BY count(*) DESC, kind"
)
_WAITS_FOR = (
    "SELECT waits.tenant_id, waits.task_id, wait_key FROM waits LEFT JOIN tasks ON "
    "tasks.task_id = waits.task_id AND tasks.tenant_id = waits.tenant_id "
    "WHERE kind = :kind {} ORDER BY coalesce(tasks.priority, 5) DESC, since"
)
_FOR_ACCOUNT = "AND account = :account"
_REASONS = "SELECT seq, reason FROM waits WHERE seq"
_AGENTS = """
    WITH RECURSIVE agents (name) AS (
        SELECT (SELECT min(agent_id) FROM {0} WHERE completed_at IS NULL) UNION ALL
        SELECT (SELECT min(agent_id) FROM {0} WHERE completed_at IS NULL AND agent_id > agents.name)
        FROM agents WHERE name IS NOT NULL
    )
    SELECT name FROM agents WHERE name IS NOT NULL"""
"""The agents that have open tasks: a step in the index for each agent, and none for each task."""
_HAS_TASKS = (
    "EXISTS (SELECT 1 FROM {} WHERE completed_at IS NULL AND agent_id = name AND tenant_id = :tenant_id)"
)
_OPEN_AGENTS = (
    "SELECT tasks, task_id FROM (SELECT task_id, count(*) OVER () AS tasks, "
    "row_number() OVER (ORDER BY seq) AS place "
    "FROM {} WHERE completed_at IS NULL AND agent_id = :agent_id {}) AS open WHERE place <= 5 ORDER BY place"
)


class WaitSummary(View):
    """Waits of one kind: the `kind`, how many waits of how many tasks, the oldest, and when the next is due.

    `reason` is that of the newest.
    """

    kind: Fact[str]
    count: Fact[int]
    oldest: Fact[datetime]
    next_due: Fact[datetime | None] = None
    reason: str = ""
    tasks: Fact[int] = 0


class DeploymentStatus(View):
    """A deployment of a model that is left alone until then. `status` is what its provider refused with.

    None: it is down, or asked to wait. `reason` holds no keys and no prompt.
    """

    deployment: str
    since: datetime
    until: datetime
    status: int | None = None
    reason: str = ""


class HeldWorker(View):
    """A process that has begun no work since then, for a `reason`, and its `agents`."""

    worker: str
    agents: tuple[str, ...]
    since: datetime
    reason: str


class LeftOutTool(View):
    """A tool that the system behind a toolset has, and that agents do not get, with the reason."""

    toolset: str
    tool: str
    reason: str


class NoticedLoss(View):
    """The events that a database lacked when it came back: those after `last_seq` up to `lost_until_seq`."""

    at: datetime
    last_seq: int
    lost_until_seq: int


class EmptiedStore(View):
    """The state store of Dapr came back empty: the `open_tasks` that the log had are gone."""

    at: datetime
    open_tasks: int


class MissingAgent(View):
    """An agent that no process of the mesh has loaded, with how many open `tasks` wait for it.

    `task_ids` are the 5 oldest of them.
    """

    agent_id: str
    tasks: int
    task_ids: tuple[str, ...] = ()


class BrokerStatus(View):
    """An MQTT broker of clients: whether the mesh is connected, since when, and the `reason` if it is not.

    `limits` are sentences on what the broker lacks, `session_lost_at` says when it last had lost messages.
    """

    broker: str
    connected: bool = False
    since: datetime | None = None
    reason: str = ""
    limits: tuple[str, ...] = ()
    session_lost_at: datetime | None = None


class TenantUse(View, kw_only=True):
    """The open tasks of a tenant, and its storage in bytes; without a limit, that is None."""

    tenant_id: str
    open_tasks: int
    max_open_tasks: int | None = None
    stored_bytes: int
    max_storage: int | None = None


class MeshStatus(View):
    """How a mesh is doing: how many tasks are open by their status, what waits, and what cools down.

    `state` is that of the process: one that is `held` or `draining` begins no work before it is released.
    `missing` are the agents that no process has loaded, and that have open tasks.
    `tenants` are the 100 that store most. Only the administrator sees `model`, which answers the agents,
    `deployments`, `held`: the workers that wait for something, `projections`: the lists that an error has
    stopped, `left_out`: the tools of MCP servers and others that agents do not get, `losses`: the events that
    the database has lost within a week, `emptied`: when Dapr's state store came back empty within a week, and
    `brokers`: those of MQTT.
    """

    state: Fact[Literal["working", "held", "draining"]] = "working"
    model: Fact[str | None] = None
    tasks: Fact[dict[str, int]] = field(default_factory=dict)
    waits: Fact[tuple[WaitSummary, ...]] = ()
    missing: Fact[tuple[MissingAgent, ...]] = ()
    deployments: Fact[tuple[DeploymentStatus, ...]] = ()
    held: Fact[tuple[HeldWorker, ...]] = ()
    projections: Fact[tuple[StalledProjection, ...]] = ()
    left_out: Fact[tuple[LeftOutTool, ...]] = ()
    losses: Fact[tuple[NoticedLoss, ...]] = ()
    emptied: Fact[tuple[EmptiedStore, ...]] = ()
    brokers: Fact[tuple[BrokerStatus, ...]] = ()
    tenants: Fact[tuple[TenantUse, ...]] = ()


class WaitProjection:
    """The table `waits`."""

    name = "waits"
    version = 1
    event_types: Collection[str] = (WAITING, WAIT_ENDED, *NO_MORE)

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """Add waits, and forget those that have ended."""
        waits: dict[tuple[str, str], Row] = {}
        ended_tasks = {event.task_id for event in events if event.event_type in NO_MORE}
        stored = {task_id for (task_id,) in session.select_in(_OF_TASK, ended_tasks)}
        for event in [event for event in events if event.task_id]:
            if event.event_type in NO_MORE:
                waits = {key: row for key, row in waits.items() if row[2] != event.task_id}
                if event.task_id in stored:
                    session.execute(_END_ALL, (event.tenant_id, event.task_id))
            elif (waiting := TaskWaiting.read(event)) is not None and waiting.key:
                waits[event.tenant_id, waiting.key] = _wait_row(event, waiting)
            elif (end := WaitEnded.read(event)) is not None and end.key:
                waits.pop((event.tenant_id, end.key), None)
                session.execute(_END, (event.tenant_id, end.key))
        session.insert(_INTO, list(waits.values()), then=_REPLACE)

    def clear(self, session: Session, oldest: int) -> None:
        """Forget what events of the log have made."""
        session.execute("DELETE FROM waits WHERE seq >= ?", (oldest,))


def waits_for(session: Session, kind: WaitKind, account: str | None) -> list[tuple[str, str, str]]:
    """(tenant_id, task_id, key) of every wait of a kind: the most urgent first, then the oldest.

    With an `account` only those for its money.
    """
    values = {"kind": kind} if account is None else {"kind": kind, "account": session.bindable(account)}
    query = _WAITS_FOR.format("" if account is None else _FOR_ACCOUNT)
    return session.execute(query, values).fetchall()


def waits_for_events(session: Session) -> list[int]:
    """The places in the log at which the open waits for events begin."""
    return [seq for (seq,) in session.execute("SELECT seq FROM waits WHERE kind = 'event'").fetchall()]


def open_agents(session: Session, tenant_id: str | None) -> list[str]:
    """The agents that have open tasks of a tenant; None: of all tenants."""
    tasks = session.by_index("tasks", "tasks_open_of_agent")
    query = _AGENTS.format(tasks)
    if tenant_id is None:
        rows = session.execute(query).fetchall()
    else:
        query += f" AND {_HAS_TASKS.format(tasks)}"
        rows = session.execute(query, {"tenant_id": session.bindable(tenant_id)}).fetchall()
    return [name for (name,) in rows]


def missing_agents(session: Session, tenant_id: str | None, agent_ids: Collection[str]) -> list[MissingAgent]:
    """These agents with their open tasks of a tenant (None: of all), but for those that have none."""
    values = {} if tenant_id is None else {"tenant_id": session.bindable(tenant_id)}
    condition = "" if tenant_id is None else _OF_TENANT
    query = _OPEN_AGENTS.format(session.by_index("tasks", "tasks_open_of_agent"), condition)
    agents: list[MissingAgent] = []
    for agent_id in agent_ids:
        if rows := session.execute(query, {**values, "agent_id": session.bindable(agent_id)}).fetchall():
            task_ids = tuple(task_id for _, task_id in rows)
            agents.append(MissingAgent(agent_id=agent_id, tasks=rows[0][0], task_ids=task_ids))
    return agents


def count_open(session: Session, tenant_id: str | None) -> dict[str, int]:
    """The open tasks of a tenant by status; None: of all tenants."""
    values = {} if tenant_id is None else {"tenant_id": session.bindable(tenant_id)}
    index, condition = ("tasks_open", "") if tenant_id is None else ("tasks_by_status", _OPEN_OF_TENANT)
    query = _COUNT_TASKS.format(session.by_index("tasks", index), condition)
    return dict(session.execute(query, values).fetchall())


def mesh_status(session: Session, tenant_id: str | None) -> MeshStatus:
    """How the tasks of a tenant are doing; None: of all tenants."""
    values = {} if tenant_id is None else {"tenant_id": session.bindable(tenant_id)}
    condition = "" if tenant_id is None else _OF_TENANT
    rows = session.execute(_COUNT_WAITS.format(condition), values).fetchall()
    reasons = dict(session.select_in(_REASONS, {row[-1] for row in rows}))
    waits = tuple(
        WaitSummary(
            kind=kind,
            count=count,
            tasks=tasks_of_kind,
            oldest=datetime.fromtimestamp(oldest, UTC),
            next_due=None if due is None else datetime.fromtimestamp(due, UTC),
            reason=reasons.get(seq) or "",
        )
        for kind, count, tasks_of_kind, oldest, due, seq in rows
    )
    return MeshStatus(tasks=count_open(session, tenant_id), waits=waits)


def _wait_row(event: Event, waiting: TaskWaiting) -> Row:
    ends = [seconds(at) for at in (waiting.due_at, waiting.expires_at) if at is not None]
    return (
        event.tenant_id,
        waiting.key,
        event.task_id,
        event.seq,
        waiting.kind or "person",
        waiting.asked[:MAX_REASON_CHARS] or None,
        wait_account(waiting.subject) if waiting.kind in ("money", "program") else None,
        seconds(waiting.since or event.time),
        min(ends, default=None),
        _wait_models(waiting.subject) if waiting.kind == "provider" else None,
    )


def wait_account(subject: Mapping[str, Any]) -> str | None:
    """The account that a wait for money is for, or one for a program."""
    account = subject.get("account")
    return account if isinstance(account, str) else None


def _wait_models(subject: Mapping[str, Any]) -> str | None:
    """The group and the deployments that a wait for a provider is for, as JSON; older waits name none."""
    models = subject.get("models")
    names = [name for name in models if isinstance(name, str)] if isinstance(models, (list, tuple)) else []
    return encode(names).decode() if names else None


def _time(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
