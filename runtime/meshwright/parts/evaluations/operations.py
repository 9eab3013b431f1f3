"""The component: evaluations of tenants, made and shown at the mesh's fronts, which work on them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from meshwright import MeshError
from meshwright.agents.loader import needs_prompt
from meshwright.agents.prompts import PromptSources
from meshwright.component import Audit, Caller, Mesh, Operations, PromptContext, Tasks
from meshwright.core.operations import get_operation
from meshwright.engine.work.record import TaskView
from meshwright.kit import (
    AgentTypes,
    Identifier,
    InvalidInput,
    Limit,
    NotFound,
    Registry,
    Role,
    Rule,
    TooLarge,
    Worker,
    has_role,
    new_id,
    operation,
)
from meshwright.mesh.identity.rules import require
from meshwright.mesh.orchestration.tenants import Tenants
from meshwright.parts.evaluations import table
from meshwright.parts.evaluations.event_types import EvaluationStarted
from meshwright.parts.evaluations.metrics import Metrics, make_item, make_summary, make_view
from meshwright.parts.evaluations.records import (
    JUDGE,
    Data,
    EvaluationItemPage,
    EvaluationPage,
    EvaluationRequest,
    EvaluationView,
    Item,
    ItemState,
    ItemTexts,
    Spec,
    TaskSelection,
)
from meshwright.parts.evaluations.runner import EvaluationRunner
from meshwright.parts.evaluations.settings import EvaluationsSettings
from meshwright.parts.evaluations.table import EvaluationKey, EvaluationRow, ItemRow

SEE = Rule("sees evaluations", (Role.VIEWER,))
MAKE = Rule("makes evaluations", (Role.OPERATOR,))
_ROUTE = "/v1/evaluations/{evaluation_id}"
_NONE = {404: "There is no such evaluation."}
_ERASED_AT_ONCE = 100
_NAME_A_JUDGE = (
    "Set judge in [evaluations] of mesh.toml to a group of models, as mesh models lists them, and start the "
    "mesh again, or name in judge.agent_id an agent that judges"
)
_NEWEST = (float(2**53), "")


class Evaluations:
    """Evaluations: each answer and each judgement is a task of the caller who has made the evaluation."""

    config: EvaluationsSettings

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.config = mesh, mesh.settings[EvaluationsSettings]
        self._metrics = Metrics(self.config.metrics, mesh.project)
        self._runner = EvaluationRunner(mesh, self._metrics, self.config.parallel)

    async def begin(self) -> None:
        """Go on with the evaluations that have not ended, but in the process of a command."""
        if self.mesh.role.is_front and not self.mesh.get(Worker).is_drained:
            await self._runner.resume()

    async def stop(self) -> None:
        """Stop working on them; they go on at the next start."""
        await self._runner.stop()

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> None:
        """Delete the texts of items that hold what these tasks were asked, answered or judged."""
        if not self.mesh.has_log:
            return
        for start in range(0, len(task_ids), _ERASED_AT_ONCE):
            some = task_ids[start : start + _ERASED_AT_ONCE]
            await self.mesh.database.write(table.erase, tenant_id, some)

    @operation(SEE, "GET /v1/evaluations", "List evaluations", name="list_evaluations", errors=_NONE)
    async def page(
        self,
        caller: Caller,
        *,
        limit: Annotated[int, Field(ge=1, le=200)] = 50,
        cursor: Identifier | None = None,
    ) -> EvaluationPage:
        """List the evaluations of your tenant, the newest first, each with its progress and its cost."""
        read_rows, tenant_id = self.mesh.database.read, caller.tenant_id
        bound = _NEWEST
        if cursor is not None:
            earlier = await read_rows(table.find, EvaluationKey(tenant_id, cursor))
            bound = (earlier.created_at, earlier.id)
        rows = await read_rows(table.page, tenant_id, bound, limit + 1)
        page_rows = rows[:limit]
        running = [EvaluationKey(tenant_id, row.id) for row in page_rows if row.ended_at is None]
        facts = await read_rows(table.facts, running)
        items = [make_summary(row, facts.get(row.id, ())) for row in page_rows]
        return EvaluationPage(items=items, cursor=page_rows[-1].id if len(rows) > limit else None)

    @operation(
        MAKE,
        "POST /v1/evaluations",
        "Make an evaluation",
        name="make_evaluation",
        status=201,
        response="Durable. It runs, and `GET /v1/evaluations/{evaluation_id}` has its figures.",
        headers={"Location": "/v1/evaluations/{0.evaluation_id}"},
        errors={
            403: "It takes the roles operator and submitter, and contents for tasks.",
            404: "There is no such agent.",
            409: "There is an evaluation of that id.",
            429: "As many evaluations of the tenant run as may.",
            507: "The tenant stores as much as it may.",
        },
    )
    async def make(self, caller: Caller, request: EvaluationRequest) -> EvaluationView:
        """Have answers measured by metrics, and judged by an agent, criterion by criterion.

        Each answer and each judgement is a task of yours: listed, journaled and charged as any other.
        """
        get_operation(Operations.submit).rule.check(caller)
        await self.mesh.get(Tenants).require_storage(caller.tenant_id)
        self._metrics.check(request.metrics)
        self._check_agents(request)
        items = await read_data(self.mesh, caller, request.answers, runs_again=request.agent_id is not None)
        self._check_items(request, items)
        if not request.judge.allow_same_model:
            self._check_models(caller, request, items)
        plan = request.model_dump(exclude={"evaluation_id", "data", "response"})
        spec = Spec(**plan, run_id=new_id(), requested_by=caller.requested_by, budgets=caller.budgets)
        key = EvaluationKey(caller.tenant_id, request.evaluation_id or spec.run_id)
        await self._add(caller, key, spec, items)
        self._runner.start(key)
        return await self._view(key)

    async def _add(
        self, caller: Caller, key: EvaluationKey, spec: Spec, items: Sequence[SelectedItem]
    ) -> None:
        rows = [
            ItemRow(
                number=number,
                texts=item.texts.model_dump_json(exclude_defaults=True),
                state=item.state.model_dump_json(),
            )
            for number, item in enumerate(items, 1)
        ]
        row = EvaluationRow(
            tenant_id=key.tenant_id,
            id=key.evaluation_id,
            spec=spec.model_dump_json(),
            items=len(items),
            created_at=self.mesh.runtime.clock.now().timestamp(),
        )
        tasks = [(item.state.task_id, number) for number, item in enumerate(items, 1) if item.state.task_id]
        payload = EvaluationStarted(
            evaluation_id=key.evaluation_id, items=len(items), requested_by=caller.requested_by
        )
        event = self.mesh.event(payload, tenant_id=key.tenant_id)
        limits = (self.config.max_kept, self.config.max_open)
        subject = f"evaluations/{key.evaluation_id}"
        async with self.mesh.get(Audit).change(caller, "evaluation.made", subject, {"items": len(items)}):
            await self.mesh.write(table.add, event, row, rows, tasks, limits)

    @operation(SEE, f"GET {_ROUTE}", "Show an evaluation", name="show_evaluation", errors=_NONE)
    async def show(self, caller: Caller, evaluation_id: Identifier) -> EvaluationView:
        """Show how far an evaluation is, its cost, and its figures over the items that are done."""
        return await self._view(EvaluationKey(caller.tenant_id, evaluation_id))

    @operation(
        MAKE, f"DELETE {_ROUTE}", "Delete an evaluation", name="delete_evaluation", status=204, errors=_NONE
    )
    async def remove(self, caller: Caller, evaluation_id: Identifier) -> None:
        """Delete an evaluation with its texts, also one that runs. The tasks that it has made stay."""
        key = EvaluationKey(caller.tenant_id, evaluation_id)
        await self.mesh.database.read(table.find, key)
        subject = f"evaluations/{evaluation_id}"
        async with self.mesh.get(Audit).change(caller, "evaluation.deleted", subject):
            await self._runner.cancel(key)
            await self.mesh.database.write(table.delete, key)

    @operation(SEE, f"GET {_ROUTE}/items", "List items", name="list_items", errors=_NONE)
    async def items(
        self,
        caller: Caller,
        evaluation_id: Identifier,
        *,
        limit: Limit = 100,
        cursor: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0,
    ) -> EvaluationItemPage:
        """List items with their figures; with the role contents also their texts, and the judges' reasons."""
        key = EvaluationKey(caller.tenant_id, evaluation_id)
        await self.mesh.database.read(table.find, key)
        if with_texts := has_role(caller, Role.CONTENTS):
            await self.mesh.get(Audit).record_read(caller, f"evaluations/{evaluation_id}")
        rows = await self.mesh.database.read(table.items, key, cursor, limit + 1)
        items = [make_item(row, with_texts=with_texts) for row in rows[:limit]]
        return EvaluationItemPage(items=items, cursor=items[-1].number if len(rows) > limit else None)

    async def _view(self, key: EvaluationKey) -> EvaluationView:
        row = await self.mesh.database.read(table.find, key)
        facts = await self.mesh.database.read(table.facts, [key])
        return await asyncio.to_thread(make_view, row, facts[key.evaluation_id])

    def _check_agents(self, request: EvaluationRequest) -> None:
        registry = self.mesh.get(Registry)
        if request.agent_id is not None:
            registry.find(request.agent_id)
        if not request.criteria:
            return
        try:
            registry.find(request.judge.agent_id)
        except NotFound as error:
            if request.judge.agent_id != JUDGE:
                raise NotFound(error.message, remedy=_NAME_A_JUDGE, field="judge.agent_id") from None
            raise InvalidInput(
                "Criteria need a judge, and this mesh has none: judge in [evaluations] is not set",
                remedy=f"{_NAME_A_JUDGE}, or send metrics alone, which need no model",
                field="judge.agent_id",
            ) from None

    def _check_items(self, request: EvaluationRequest, items: Sequence[SelectedItem]) -> None:
        if not items:
            raise InvalidInput("There is no such task", remedy="Select others", field="data")
        if len(items) > self.config.max_items:
            problem = f"{len(items):,} items are more than {self.config.max_items:,}"
            raise TooLarge(problem, remedy="Send fewer, or raise max_items in [evaluations]", field="data")
        for number, item in enumerate(items):
            is_list = request.data is not None and request.data.items is not None
            field = f"data.items.{number}" if is_list else "response" if request.response else "data"
            if len(item.texts.model_dump_json(exclude_defaults=True).encode()) > self.config.max_item_bytes:
                problem = f"{field}: its texts have more than {self.config.max_item_bytes:,} bytes"
                remedy = "Shorten them, or raise max_item_bytes in [evaluations]"
                raise TooLarge(problem, remedy=remedy, field=field)
            if item.texts.output is None and request.agent_id is None:
                raise InvalidInput(
                    f"{field} has no output",
                    remedy="Send it, or name the agent_id that answers",
                    field="agent_id",
                )
            if item.texts.other is None and request.judge.pairwise and request.criteria:
                problem = f"{field} has no other answer to compare the output with"
                raise InvalidInput(problem, remedy="Send `other`, or leave pairwise out", field=field)

    def _check_models(
        self, caller: Caller, request: EvaluationRequest, items: Sequence[SelectedItem]
    ) -> None:
        """Raises InvalidInput where the judge calls the group of models by which an answer was written."""
        judge = request.judge.model or self._model_group(caller, request.judge.agent_id)
        if judge is None or not request.criteria:
            return
        authors = {item.author for item in items if item.author} | {request.agent_id}
        groups = {self._model_group(caller, author) for author in authors if author}
        if judge in groups | {item.state.model for item in items}:
            raise InvalidInput(
                f"The judge calls the models {judge!r}, as an author of these answers does",
                remedy="Name others in judge.model, or say judge.allow_same_model",
                field="judge.model",
            )

    def _model_group(self, caller: Caller, agent_id: str) -> str | None:
        """The group of models that an agent calls, where that is known."""
        agent = next(
            (agent_type for agent_type in self.mesh.get(AgentTypes) if agent_type.agent_id == agent_id), None
        )
        if agent is None or not needs_prompt(agent):  # it asks no model
            return None
        if agent.model:
            return agent.model
        with suppress(MeshError):  # it has no prompt, or none that can be read now
            context = PromptContext(caller.tenant_id, agent_id)
            return self.mesh.get(PromptSources).resolve(agent.prompt, context).model
        return None


class SelectedItem(NamedTuple):
    """An item: its texts, its facts, and the agent that wrote its output, where a task did."""

    texts: ItemTexts
    state: ItemState
    author: str | None = None


async def read_data(mesh: Mesh, caller: Caller, data: Data, *, runs_again: bool) -> list[SelectedItem]:
    """The items of some data. With `runs_again` an agent is to answer, and answers of tasks are left out.

    Raises Forbidden for tasks of a caller who does not see contents, NotFound for a value of their filter
    that there never was.
    """
    if data.items is not None:
        return [_sent(item) for item in data.items]
    if data.tasks is not None:
        status = data.tasks.status or "succeeded"
        selection = data.tasks.model_copy(update={"status": status})
        return [_task_item(view, runs_again) for view in await _select(mesh, caller, selection)]
    assert data.failures is not None
    return [_task_item(view, True) for view in await _select(mesh, caller, data.failures, dead=True)]


def _sent(item: Item) -> SelectedItem:
    fields = item.model_dump(exclude={"label", "model"})
    if isinstance(item.input, dict):
        fields |= {"input": _render_request(item.input), "payload": item.input}
    return SelectedItem(ItemTexts.model_validate(fields), ItemState(label=item.label, model=item.model))


async def _select(
    mesh: Mesh, caller: Caller, selection: TaskSelection, *, dead: bool = False
) -> list[TaskView]:
    """The tasks that a filter finds and whose contents are still there, the newest first."""
    require(caller, Role.CONTENTS, "evaluates tasks")
    fields = selection.model_dump(exclude_none=True) | ({"dead": True} if dead else {})
    page = await Operations(mesh, caller).tasks(**fields)
    await mesh.get(Audit).record_read(caller, "tasks")
    tasks = mesh.get(Tasks)
    views = [await tasks.task(summary.task_id, caller.tenant_id) for summary in page.items]
    return [view for view in views if view.payload]


def _task_item(view: TaskView, runs_again: bool) -> SelectedItem:
    request = _render_request(view.payload)
    state = ItemState(task_id=view.task_id)
    outcome = view.outcome
    if runs_again or outcome is None:
        return SelectedItem(ItemTexts(input=request, payload=view.payload), state)
    state.model = outcome.model
    return SelectedItem(ItemTexts(input=request, output=outcome.answer), state, outcome.agent_id)


def _render_request(payload: Mapping[str, Any]) -> str:
    """The request of a payload in words: its text, or else all of it as JSON."""
    text = payload.get("text")
    if isinstance(text, str) and len(payload) == 1:
        return text
    return json.dumps(payload, ensure_ascii=False)
