"""Figures as plain data: the answer of `GET /figures`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import field

from meshwright.kit import ZERO, Amount, View, exact


class AgentFigures(View):
    """An agent now. Its `waiting` tasks wait for a slot, the first since `oldest`; `parked` ones wait for
    something else and hold no slot.

    `slots` are those of all workers that are there. `success` is the share of the last 20 attempts that
    succeeded, without cancelled ones; `p50_seconds` and `p90_seconds` are of the work of the last 50. `rate`
    is attempts ended a minute, in the last five; only a caller of all tenants sees it. Figures of no attempt
    are None. `state` is `well`, or why its tasks do not succeed: `not loaded` where no worker has it,
    `blocked: no model` or `no money` where some wait for that, `failing: 12 of 12` where all of the last 20
    attempts failed, of which there are three and more. `stuck` counts the running attempts over twice the
    p90. The cost is of the calls since midnight UTC, of which `unpriced` have no known price; it is None
    where the figures lack costs.
    """

    agent_id: str
    state: str = "well"
    waiting: int = 0
    running: int = 0
    parked: int = 0
    slots: int | None = None
    oldest: datetime | None = None
    rate: float | None = None
    success: float | None = None
    p50_seconds: float | None = None
    p90_seconds: float | None = None
    stuck: int = 0
    calls_today: int = 0
    unpriced_today: int = 0
    cost_today_usd: Amount | None = ZERO

    def __post_init__(self) -> None:
        exact(self, "cost_today_usd", self.cost_today_usd)


class WorkerFigures(View, kw_only=True):
    """A process of the mesh: its run (`incarnation`), its store, the apps that it runs (empty: all of them).

    `lease` says whether its store still holds its work for it. `agents` has the slots of each agent;
    `running` and `waiting` are tasks, as it said at `seen_at`.
    """

    incarnation: str
    store: str
    host: str
    pid: int
    is_front: bool
    apps: tuple[str, ...] = ()
    lease: Literal["held", "expired", "unknown"] = "held"
    started_at: datetime
    seen_at: datetime
    agents: dict[str, int] = field(default_factory=dict)
    running: int = 0
    waiting: int = 0

    @property
    def slots(self) -> int:
        """How many tasks it runs at a time."""
        return sum(self.agents.values())


class ModelFigures(View):
    """A deployment in the last 1,000 calls, without those that the cache answered.

    Attempts that failed count here too, also where another deployment answered the call after them.
    It is not `well` while it gets no calls, `since` when and at least until `until`. `fallbacks` are the
    calls of other groups that it answered, `retried` those that took more than one try. `errors` counts the
    failed ones by their error. `waiting` are the tasks that wait for it.
    """

    deployment: str
    well: bool = True
    since: datetime | None = None
    until: datetime | None = None
    reason: str = ""
    calls: int = 0
    failed: int = 0
    fallbacks: int = 0
    retried: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    p50_seconds: float | None = None
    p90_seconds: float | None = None
    waiting: int = 0


class ParkedFigures(View, kw_only=True):
    """Waits of an agent's tasks for one kind of thing.

    Those for money are for the `account` of a budget, those for a person for the callers who `may_answer`:
    none named, everybody but the agent. Of the latter, `unreached` are shown to none of them yet, the oldest
    since `unreached_since`.
    """

    agent_id: str | None
    kind: str
    account: str | None = None
    may_answer: tuple[str, ...] = ()
    count: int
    oldest: datetime
    unreached: int = 0
    unreached_since: datetime | None = None


class StuckAttempt(View):
    """A running attempt over twice the p90 of its agent."""

    task_id: str
    tenant_id: str
    agent_id: str
    running_seconds: float
    p90_seconds: float


class DeadLetterCounts(View):
    """Ended tasks in the list that failed or timed out, and messages that no actor could take, ever."""

    failed: int = 0
    timed_out: int = 0
    messages: int | None = None


class DiskFigures(View):
    """Bytes of the disk that has the data folder, and of the mesh's database."""

    free_bytes: int
    total_bytes: int
    store_bytes: int


class Figures(View):
    """The figures of a mesh; a caller of one tenant sees its tasks alone, and no workers, models or disk.

    `unsent_calls` counts those of the last 1,000 calls, by group, that reached none of its deployments, since
    all of them got none. With `lacks_costs` the calls of today are still being summed up, and agents have no
    cost of today.
    """

    at: datetime
    agents: tuple[AgentFigures, ...] = ()
    workers: tuple[WorkerFigures, ...] = ()
    models: tuple[ModelFigures, ...] = ()
    parked: tuple[ParkedFigures, ...] = ()
    stuck: tuple[StuckAttempt, ...] = ()
    dead_letters: DeadLetterCounts = DeadLetterCounts()
    disk: DiskFigures | None = None
    unsent_calls: dict[str, int] = field(default_factory=dict)
    lacks_costs: bool = False


class AgentHour(View, kw_only=True):
    """Tasks that ended within the hour that begins at `time`, by how they ended; a retried one no more."""

    time: datetime
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    cancelled: int = 0


class AgentTrend(View):
    """An agent in the last hours; those in which none of its tasks ended are left out."""

    agent_id: str
    hours: tuple[AgentHour, ...] = ()


class ModelHour(View, kw_only=True):
    """Attempts at a deployment within the hour that begins at `time`, `failed` ones included.

    `p50_seconds` and `p95_seconds` are of answered calls; None for none.
    """

    time: datetime
    calls: int = 0
    failed: int = 0
    p50_seconds: float | None = None
    p95_seconds: float | None = None


class ModelTrend(View, kw_only=True):
    """A deployment in the last hours, with its group and model; hours without calls are left out.

    `errors` counts failed attempts by their error. `in_place_of` counts the calls that it answered for other
    deployments, which failed or got no calls, `replaced_by` those that others answered for it. The cost is
    of its calls, of which `unpriced` have no known price.
    """

    deployment: str
    group: str = ""
    model: str = ""
    hours: tuple[ModelHour, ...] = ()
    calls: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    p50_seconds: float | None = None
    p95_seconds: float | None = None
    cost_usd: Amount = ZERO
    unpriced: int = 0
    in_place_of: dict[str, int] = field(default_factory=dict)
    replaced_by: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)


class Trends(View, kw_only=True):
    """Figures of the last hours, from the full hour `since`; a caller of one tenant sees no models.

    Those of models are of the newest 10,000 calls alone where `is_cut` says so.
    """

    at: datetime
    since: datetime
    agents: tuple[AgentTrend, ...] = ()
    models: tuple[ModelTrend, ...] = ()
    is_cut: bool = False


StoryKind = Literal["away", "lost", "stopped", "killed", "waited", "broke off", "failed", "answered"]


class StoryLine(View, kw_only=True):
    """One thing that happened, however often, as a line of a story."""

    kind: StoryKind
    """Its subject: a model, broker or agent that was away, a store that lost something, a mesh that was
    stopped or killed, tasks that waited, runs whose process ended, tasks that failed, questions that people
    answered."""
    first: datetime
    """When it first happened; for a mesh that was killed, when it was last seen."""
    last: datetime
    """When it last happened; for what was away and is back, when it came back."""
    count: int
    """How often, or of how many tasks."""
    text: str
    """It in words, without contents of tasks."""
    command: str
    """The command that lists its rows."""
    view: str = ""
    """The view of the page that lists them: what follows `#/` in its address."""


class Story(View, kw_only=True):
    """The story since a time, the first thing first; a caller of one tenant sees that tenant's."""

    since: datetime
    """Its beginning."""
    until: datetime
    """Its end: now."""
    lines: tuple[StoryLine, ...] = ()
    """Its lines."""
    calls: int = 0
    """Calls of models that ended in this time."""
    cost_usd: Amount | None = None
    """The known part of their cost. None: of no call anything is known."""
    cut: tuple[str, ...] = ()
    """Types of events, or `tasks`, of which there was more than was read: their lines count the newest."""


class Flow(View):
    """Tasks that an agent, or callers, gave to an agent, or the calls of models by an agent.

    The `source` is None for callers, the `target` None for models.
    """

    source: str | None
    target: str | None
    count: int
    failed: int = 0


class Flows(View, kw_only=True):
    """The flow of the last `minutes`, among the newest 1,000 tasks and the newest 1,000 calls."""

    at: datetime
    minutes: int
    items: tuple[Flow, ...] = ()


class Scale(View):
    """The tasks of an app that wait for a slot or run; `value`, their sum, is for an autoscaler."""

    app: str
    value: int
    waiting: int
    running: int
