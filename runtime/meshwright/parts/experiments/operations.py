"""The component of experiments: makes, runs and stops them, chooses variants, and guards them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from typing import Any

from meshwright import Event, TaskRequest
from meshwright.component import Audit, Caller, Mesh, Operations, Tasks
from meshwright.core.operations import get_operation
from meshwright.kit import (
    FINAL,
    AgentTypes,
    Database,
    HostError,
    IdempotencyConflict,
    Identifier,
    InvalidInput,
    Limit,
    NotFound,
    Question,
    Role,
    Rule,
    SourcePage,
    SourceQuery,
    TooLarge,
    WholeInbox,
    derived_id,
    new_id,
    operation,
    question_id,
    topics,
)
from meshwright.parts.experiments import table
from meshwright.parts.experiments.event_types import (
    ExperimentCreated,
    ExperimentPayload,
    ExperimentSeen,
    ExperimentStarted,
    ExperimentStopped,
)
from meshwright.parts.experiments.records import (
    Experiment,
    ExperimentPage,
    ExperimentRequest,
    ExperimentResults,
    ExperimentRun,
    ExperimentRunRequest,
    ExperimentState,
)
from meshwright.parts.experiments.results import breach, measure, results
from meshwright.parts.experiments.settings import ExperimentsSettings
from meshwright.parts.experiments.table import SCORED, Assignments, ExperimentRow
from meshwright.parts.llmops.operations import PromptRegistry
from meshwright.parts.llmops.table import Live

SEE = Rule("sees experiments", (Role.VIEWER,))
CHANGE = Rule("changes experiments", (Role.OPERATOR,))
NOTE = Rule("takes stopped experiments out of the inbox", (Role.APPROVER,))
_ROUTE = "/v1/experiments/{experiment_id}"
_NONE = {404: "There is no such experiment."}
_MAY_CHANGE = {403: "Only a caller with the role operator changes experiments."}
_RETRY_SECONDS = 1.0
_logger = logging.getLogger("meshwright.experiments")


class Experiments:
    """The experiments of a mesh. Each operation raises NotFound for one that the tenant does not have.

    Processes with the event log take tasks from outside. They hold the running experiments in memory, and
    read them at the start and after each event of one.
    """

    config: ExperimentsSettings

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.config = mesh, mesh.settings[ExperimentsSettings]
        self._assignments = Assignments()
        self._guarded: list[ExperimentRow] = []
        self._changed, self._ended = asyncio.Event(), asyncio.Event()
        self._reading = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._unlisten: list[Callable[[], None]] = []

    def assemble(self) -> None:
        """Choose variants for new tasks, and list what guards have stopped in the inbox."""
        if self.mesh.has_log:
            self.mesh.get(Tasks).choosers.append(self._assignments.choose)
            self.mesh.get(WholeInbox).add(StoppedByGuards(self.mesh.database, self.see))

    async def start(self) -> None:
        """Read what runs, and again after each change."""
        if not self.mesh.has_log:
            return
        listen = self.mesh.runtime.listen
        changes = (ExperimentStarted.event_type, ExperimentStopped.event_type)
        self._unlisten = [
            listen(topics.MESH, lambda _: self._changed.set(), changes, sealed=True),
            listen("#", lambda _: self._ended.set(), (*sorted(FINAL), SCORED), sealed=True),
        ]
        await self._refresh()
        self._tasks = [asyncio.create_task(self._read_changes(), name="experiments")]

    async def begin(self) -> None:
        """Guard what runs."""
        if self.mesh.role.is_front and len(self._tasks) == 1:
            self._ended.set()
            self._tasks.append(asyncio.create_task(self._guard(), name="experiments: guard"))

    async def stop(self) -> None:
        """Read and guard no more."""
        while self._unlisten:
            self._unlisten.pop()()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    @operation(SEE, "GET /v1/experiments", "List experiments", name="list_experiments")
    async def page(
        self, caller: Caller, *, limit: Limit = 100, cursor: Identifier | None = None
    ) -> ExperimentPage:
        """List the experiments of your tenant, the newest first."""
        before = cursor or table.MAX_ID
        rows = await self.mesh.database.read(table.page, caller.tenant_id, before, limit + 1)
        last = rows[limit - 1].experiment_id if len(rows) > limit else None
        return ExperimentPage(items=[row.view for row in rows[:limit]], cursor=last)

    @operation(
        CHANGE,
        "POST /v1/experiments",
        "Make an experiment",
        name="create_experiment",
        status=201,
        response="Durable. It does nothing before it is run.",
        headers={"Location": "/v1/experiments/{0.experiment_id}"},
        errors={
            404: "There is no such agent, or its prompt has no such version.",
            507: "The tenant has as many experiments as it may.",
            **_MAY_CHANGE,
        },
    )
    async def create(self, caller: Caller, request: ExperimentRequest) -> Experiment:
        """Make an experiment on an agent: two to ten variants, of which the first is what the agent does now."""  # noqa: E501 as the API documents it
        await self._check(caller, request)
        now = self.mesh.runtime.clock.now()
        row = ExperimentRow(
            experiment_id=new_id(),
            tenant_id=caller.tenant_id,
            agent_id=request.agent_id,
            status="created",
            runs_over="",
            salt=new_id(),
            spec=request.model_dump_json(exclude_defaults=True),
            state=ExperimentState(created_at=now, created_by=caller.requested_by).model_dump_json(),
        )
        variants = [variant.name for variant in request.variants]
        terms = {"variants": variants, "unit": request.unit, "metric": request.metric}
        await self._change(caller, ExperimentCreated, row, terms, table.add, row, self.config.max_experiments)
        return row.view

    @operation(SEE, f"GET {_ROUTE}", "Show an experiment", name="show_experiment", errors=_NONE)
    async def show(self, caller: Caller, experiment_id: Identifier) -> Experiment:
        """Show an experiment with its variants, and why it was stopped."""
        return (await self._find(caller, experiment_id)).view

    @operation(
        CHANGE,
        f"POST {_ROUTE}/run",
        "Run an experiment",
        name="run_experiment",
        response="Durable: the next task of the agent gets a variant, or these tasks are accepted.",
        errors={409: "It was stopped, or another runs over the tasks of that agent.", **_NONE, **_MAY_CHANGE},
    )
    async def run(
        self, caller: Caller, experiment_id: Identifier, request: ExperimentRunRequest
    ) -> ExperimentRun:
        """Choose variants for live tasks from now on; with `inputs` have each variant do a task of each.

        The latter takes the role submitter as well. The same inputs make no further tasks.
        """
        row = await self._find(caller, experiment_id)
        over, names = "tasks" if request.inputs is None else "inputs", row.request.variants
        count = len(request.inputs or ()) * request.repeats * len(names)
        if count > self.config.max_inputs:
            raise TooLarge(
                f"These are {count:,} tasks, and {self.config.max_inputs:,} are allowed at once",
                remedy="Send fewer inputs at a time, or raise max_inputs in [experiments]",
                field="inputs",
            )
        if request.inputs is not None:
            get_operation(Operations.submit).rule.check(caller)
        key = caller.tenant_id, experiment_id
        await self._change(caller, ExperimentStarted, row, {"runs_over": over}, table.start, *key, over)
        task_ids = await self._submit(caller, row, request)
        return ExperimentRun(experiment=(await self._find(caller, experiment_id)).view, task_ids=task_ids)

    @operation(
        CHANGE,
        f"POST {_ROUTE}/stop",
        "Stop an experiment",
        name="stop_experiment",
        response="Durable: no further task gets a variant.",
        errors=_NONE | _MAY_CHANGE,
    )
    async def end(self, caller: Caller, experiment_id: Identifier) -> Experiment:
        """Stop an experiment for good. Tasks that have a variant end with it, and count in the results."""
        row = await self._find(caller, experiment_id)
        fields, key = {"stopped_by": caller.requested_by}, (caller.tenant_id, experiment_id)
        await self._change(caller, ExperimentStopped, row, fields, table.stop, *key, fields)
        return (await self._find(caller, experiment_id)).view

    @operation(SEE, f"GET {_ROUTE}/results", "Show results", name="show_results", errors=_NONE)
    async def results(self, caller: Caller, experiment_id: Identifier) -> ExperimentResults:
        """Show each metric of each variant with its interval, and against the first variant with a p-value.

        You may look as often as you like: the p-values hold all the same.
        """
        row = await self._find(caller, experiment_id)
        return results(row, await self.mesh.log.view_apart(measure, experiment_id))

    @operation(NOTE)
    async def see(self, caller: Caller, experiment_id: str) -> None:
        """Note that a person knows that a guard has stopped an experiment: the item leaves the inbox."""
        row = await self._find(caller, experiment_id)
        key = caller.tenant_id, experiment_id
        await self._change(caller, ExperimentSeen, row, {"seen_by": caller.requested_by}, table.see, *key)

    async def _submit(self, caller: Caller, row: ExperimentRow, request: ExperimentRunRequest) -> list[str]:
        """Submit tasks for inputs: all variants of an input one after the other, so that none is ahead."""
        operations, task_ids = Operations(self.mesh, caller), list[str]()
        for repeat in range(request.repeats):
            for place, payload in enumerate(request.inputs or ()):
                for spec in row.request.variants:
                    task_request = TaskRequest(
                        agent_id=row.agent_id, payload=payload, budget_usd=request.budget_usd
                    )
                    name = f"{place}/{repeat}/{task_request.model_dump_json()}"
                    key = derived_id("experiment", row.experiment_id, spec.name, name)
                    variants = (spec.task_variant(row.experiment_id, row.agent_id),)
                    try:
                        receipt = await operations.submit(
                            task_request, idempotency_key=key, variants=variants
                        )
                        task_ids.append(receipt.task_id)
                    except IdempotencyConflict:  # of a colleague, who has run the same inputs
                        task_ids.append(await self._submitted_by_another(caller, key))
        return task_ids

    async def _submitted_by_another(self, caller: Caller, key: str) -> str:
        """The task that another caller has submitted by a key. Raises IdempotencyConflict for one's own."""
        task_id = derived_id(caller.tenant_id, caller.source, key)
        view = await self.mesh.get(Tasks).task(task_id, caller.tenant_id)
        if view.requested_by == caller.requested_by:
            raise IdempotencyConflict(
                f"The contents of task {task_id}, which did such an input, were erased",
                remedy="Change the input, or make another experiment",
                field="inputs",
            )
        return task_id

    async def _check(self, caller: Caller, request: ExperimentRequest) -> None:
        """Refuse variants that could do no task: an experiment costs none.

        Raises NotFound for agents and versions that there are not, and InvalidInput for an agent that has no
        capability of the one in whose place it works.
        """
        agents = {agent.agent_id: agent for agent in self.mesh.get(AgentTypes)}
        if request.agent_id not in agents:
            remedy = f"There are {', '.join(sorted(agents)) or 'none'}"
            raise NotFound(f"There is no agent {request.agent_id!r}", remedy=remedy, field="agent_id")
        agent = agents[request.agent_id]
        for place, variant in enumerate(request.variants):
            if variant.runs_as is not None:
                field, other = f"variants.{place}.runs_as", agents.get(variant.runs_as)
                problem = f"There is no agent {variant.runs_as!r}"
                if other is None:
                    raise NotFound(problem, remedy="`mesh agents` lists them", field=field)
                if not {own.name for own in agent.capabilities} & {own.name for own in other.capabilities}:
                    problem = f"Agent {variant.runs_as!r} has no capability of {agent.agent_id!r}"
                    remedy = "Name an agent that has one of them"
                    raise InvalidInput(problem, remedy=remedy, field=field)
            if variant.version is not None:
                try:
                    await self.mesh.get(PromptRegistry).show(caller, agent.prompt, version=variant.version)
                except NotFound as error:
                    field = f"variants.{place}.version"
                    raise NotFound(error.message, remedy=error.remedy, field=field) from None

    async def _change(
        self,
        caller: Caller,
        kind: type[ExperimentPayload],
        row: ExperimentRow,
        fields: dict[str, Any],
        write: Callable[..., Any],
        *args: Any,
    ) -> None:
        """Make a change with the event that tells of it, and go by it in this process when this returns."""
        event = self._event(kind, row, fields)
        subject, details = f"experiments/{row.experiment_id}", {"agent_id": row.agent_id, **fields}
        async with self.mesh.get(Audit).change(caller, kind.event_type, subject, details):
            await self.mesh.write(write, event, *args)
        await self._refresh()

    def _event(self, kind: type[ExperimentPayload], row: ExperimentRow, fields: dict[str, Any]) -> Event:
        names = {"experiment_id": row.experiment_id, "name": row.request.name, "agent_id": row.agent_id}
        return self.mesh.event(kind(**names, **fields), tenant_id=row.tenant_id)

    async def _find(self, caller: Caller, experiment_id: str) -> ExperimentRow:
        return await self.mesh.database.read(table.find, caller.tenant_id, experiment_id)

    async def _refresh(self) -> None:
        async with self._reading:
            rows = await self.mesh.database.read(table.running)
            await self._prepare(rows)
            self._assignments.take(rows)
            self._guarded = [row for row in rows if row.request.guard is not None]

    async def _prepare(self, rows: Iterable[ExperimentRow]) -> None:
        """Read the prompts of variants before tasks have them: their first run would wait for that."""
        prompts = {agent.agent_id: agent.prompt for agent in self.mesh.get(AgentTypes)}
        for row in rows:
            for variant in row.request.variants:
                if variant.version is not None and row.agent_id in prompts:
                    name = prompts[row.agent_id]
                    version = Live(tenant_id=row.tenant_id, name=name, version=variant.version)
                    await self.mesh.get(PromptRegistry).prepare(version)

    async def _read_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._refresh()
            except HostError as error:  # the store is away for a moment
                _logger.warning("running experiments stay as they were: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
                self._changed.set()

    async def _guard(self) -> None:
        """Look at what guards bound after tasks have ended, at most every `check_seconds`."""
        while True:
            await self._ended.wait()
            self._ended.clear()
            for row in self._guarded:
                with suppress(HostError):  # it is looked at again after the next task
                    await self._look_at(row)
            await asyncio.sleep(self.config.check_seconds)

    async def _look_at(self, row: ExperimentRow) -> None:
        violation = breach(row.request, await self.mesh.log.view_apart(measure, row.experiment_id))
        if violation is None or row.request.guard is None:
            return
        fields = {"action": row.request.guard.action, "reason": violation.reason, "stopped_by": "guard"}
        cause = {"variant": violation.variant, "metric": violation.metric}
        event = self._event(ExperimentStopped, row, {**fields, **cause})
        await self.mesh.write(table.stop, event, row.tenant_id, row.experiment_id, fields)
        await self._refresh()


Note = Callable[[Caller, str], Awaitable[Any]]
"""Notes that a caller has seen an experiment, by its id."""
_ANSWER = {"type": "object", "properties": {"approve": {"type": "boolean"}}, "required": ["approve"]}


class StoppedByGuards:
    """Lists experiments that a guard has stopped. Any answer says that a person has seen it."""

    name = "experiment"
    event_types: Collection[str] = (ExperimentStopped.event_type, ExperimentSeen.event_type)

    def __init__(self, database: Database, note: Note) -> None:
        self._database = database
        self._note = note

    async def page(self, query: SourceQuery) -> SourcePage:
        """The oldest first, none that has ended. They are of no task: a filter of tasks leaves all out."""
        if query.of_task is not None:
            return SourcePage([])
        rows = await self._database.read(table.unseen, query.tenant_id)
        items, end = [*filter(query.names, map(_item, rows))], query.after + query.limit
        return SourcePage(items[query.after : end], end if len(items) > end else None)

    async def answer(self, item: Question, value: Any, caller: Caller) -> None:
        """Take the item out of the inbox."""
        await self._note(caller, item.subject["experiment_id"])


def _item(row: ExperimentRow) -> Question:
    view = row.view
    how = "rolled back" if view.action == "rollback" else "stopped"
    return Question(
        id=question_id(row.tenant_id, f"{StoppedByGuards.name}/{row.experiment_id}"),
        seq=0,
        wait_id=f"{StoppedByGuards.name}/{row.experiment_id}",
        task_id="",
        tenant_id=row.tenant_id,
        source=StoppedByGuards.name,
        agent_id=row.agent_id,
        question=f"Experiment {view.name!r} on {row.agent_id} was {how}: {view.reason}. Have you seen it?",
        subject={"kind": StoppedByGuards.name, "experiment_id": row.experiment_id, "action": view.action},
        answer_schema=_ANSWER,
        since=view.stopped_at,
    )
