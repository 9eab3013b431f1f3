"""Runs evaluations: each answer and each judgement is a task, known by a key that a restart finds again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from decimal import Decimal
from functools import partial
from statistics import median
from typing import Any, NamedTuple, TypeVar

from meshwright.core.clock import Backoff
from meshwright.core.errors import MeshError, NoAgentAvailable, NotFound, Overloaded, ToolFailed
from meshwright.core.messages import Caller, Outcome, TaskRequest, TaskVariant
from meshwright.edges.replies.courier import until_answered
from meshwright.mesh import Mesh
from meshwright.orchestration.tasks import Tasks
from meshwright.services.evaluations import table
from meshwright.services.evaluations.event_types import EvaluationEnded
from meshwright.services.evaluations.judge import preference_payload, read_verdict, score_payload
from meshwright.services.evaluations.measure import Metrics
from meshwright.services.evaluations.records import (
    Criterion,
    ItemFigures,
    ItemState,
    ItemTexts,
    Judgement,
    Spec,
)
from meshwright.services.evaluations.summary import summary_of
from meshwright.services.evaluations.table import EvaluationKey

SOURCE = "evaluations"
"""The source of the tasks of evaluations."""
_MAX_ABSENCES = 8  # times that an agent is asked for which none is registered, in about a minute
_ResultT = TypeVar("_ResultT")
_logger = logging.getLogger("meshwright.evaluations")
_Vote = tuple[float, str, str | None]
"""The value of a judgement, its reason, and the model that judged."""


class _Work(NamedTuple):
    """An item of an evaluation that is worked on."""

    key: EvaluationKey
    spec: Spec
    number: int
    outcomes: list[Outcome]


class EvaluationRunner:
    """Works on evaluations in this process, on some items at a time. A stop loses nothing but the waiting.

    Another process that works on the same evaluation gets the same tasks, and writes the same figures.
    """

    def __init__(self, mesh: Mesh, metrics: Metrics, parallel: int) -> None:
        self._mesh = mesh
        self._metrics = metrics
        self._slots = asyncio.Semaphore(parallel)
        self._running: dict[EvaluationKey, asyncio.Task[None]] = {}

    async def resume(self) -> None:
        """Go on with the evaluations that have not ended."""
        for key in await self._mesh.database.read(table.open_keys):
            self.start(key)

    def start(self, key: EvaluationKey) -> None:
        """Work on an evaluation, unless this process does."""
        if key not in self._running:
            self._running[key] = asyncio.create_task(
                self._work_on(key), name=f"evaluation {key.evaluation_id}"
            )

    async def stop(self) -> None:
        """End; what is open goes on at the next start."""
        running = [*self._running.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def cancel(self, key: EvaluationKey) -> None:
        """Work on an evaluation no more; its open tasks go on."""
        if (running := self._running.get(key)) is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _work_on(self, key: EvaluationKey) -> None:
        try:
            row = await until_answered(lambda: self._mesh.database.read(table.find, key))
            spec = Spec.model_validate_json(row.spec)
            numbers = await until_answered(lambda: self._mesh.database.read(table.open_items, key))
            async with asyncio.TaskGroup() as group:
                for number in numbers:
                    group.create_task(self._work(key, spec, number))
            await until_answered(lambda: self._end(key))
        except NotFound:
            pass  # it was deleted
        except Exception:  # a fault of ours or of the store: it must not be lost with this task of asyncio
            _logger.exception("evaluation %s goes on at the next start", key.evaluation_id)
        finally:
            del self._running[key]

    async def _end(self, key: EvaluationKey) -> None:
        items_of = await self._mesh.database.read(table.facts, [key])
        row = await self._mesh.database.read(table.find, key)
        summary = summary_of(row, items_of[key.evaluation_id])
        fields = summary.model_dump(mode="json", include={*EvaluationEnded.__struct_fields__})
        payload = EvaluationEnded(**fields)
        event = self._mesh.event(payload, tenant_id=key.tenant_id)
        now = self._mesh.runtime.clock.now().timestamp()
        await self._mesh.write(table.end, event, key, now, summary.failed, payload.cost_usd)

    async def _work(self, key: EvaluationKey, spec: Spec, number: int) -> None:
        async with self._slots:
            work = _Work(key, spec, number, [])
            read_item = partial(self._mesh.database.read, table.items, key, number - 1, 1)
            for row in await until_answered(read_item):  # none where the evaluation was deleted
                if row.texts is None:
                    await self._note(work, None, ItemFigures(error="Erased"))
                    continue
                texts = ItemTexts.model_validate_json(row.texts)
                try:
                    state = ItemState.model_validate_json(row.state)
                    figures = await self._evaluate(work, texts, state)
                except MeshError as error:
                    figures = ItemFigures(error=error.code)
                await self._note(work, texts, figures)

    async def _note(self, work: _Work, texts: ItemTexts | None, figures: ItemFigures) -> None:
        costs = [outcome.cost_usd for outcome in work.outcomes]
        figures.tasks = [outcome.task_id for outcome in work.outcomes]
        if None not in costs:
            figures.cost_usd = sum((cost for cost in costs if cost is not None), Decimal(0))
        text_json = None if texts is None else texts.model_dump_json(exclude_defaults=True)
        data = figures.model_dump_json()
        await until_answered(
            lambda: self._mesh.database.write(
                table.end_item, work.key, work.number, text_json, data, figures.tasks
            )
        )

    async def _evaluate(self, work: _Work, texts: ItemTexts, state: ItemState) -> ItemFigures:
        """The figures of an item; its answer and the reasons become part of its texts."""
        author = state.model
        if texts.output is None:
            payload = texts.payload or {"text": texts.input}
            agent_id = work.spec.agent_id
            assert agent_id is not None  # as it was checked
            outcome = await self._task(work, "answer", agent_id, payload)
            author = outcome.model
            if not outcome.success:
                return ItemFigures(error=outcome.error.type if outcome.error else outcome.status)
            texts.output = outcome.answer
        figures = ItemFigures(metrics=await self._metrics.measure(work.spec.metrics, texts))
        criteria = work.spec.criteria
        judgements = await _all(
            [self._judge(work, place, criteria[place], texts, author) for place in range(len(criteria))]
        )
        for criterion, (judgement, reasons) in zip(criteria, judgements, strict=True):
            figures.criteria[criterion.name] = judgement
            texts.reasons[criterion.name] = reasons
        return figures

    async def _judge(
        self, work: _Work, place: int, criterion: Criterion, texts: ItemTexts, author: str | None
    ) -> tuple[Judgement, list[str]]:
        """The median of the votes on a criterion, and the reasons that they give."""
        judgement, reasons = Judgement(), list[str]()
        is_pairwise = work.spec.judge.pairwise
        vote = self._compare if is_pairwise else self._score
        votes = range(work.spec.judge.votes)
        for values in await _all([vote(work, place, criterion, texts, number) for number in votes]):
            valid = [value for value in values if value is not None]
            reasons += [reason for _, reason, _ in valid]
            judgement.same_model |= any(author and model == author for _, _, model in valid)
            if len(valid) < len(values):
                judgement.failed += 1
            elif len({value for value, _, _ in valid}) > 1:  # the order decided
                judgement.disagreed = True
                judgement.votes.append(0.5)
            else:
                judgement.votes.append(valid[0][0])
        judgement.value = median(judgement.votes) if judgement.votes else None
        return judgement, reasons

    async def _score(
        self, work: _Work, place: int, criterion: Criterion, texts: ItemTexts, number: int
    ) -> list[_Vote | None]:
        payload = score_payload(_told(criterion, number), _material(texts))
        return [await self._vote(work, f"{place}:{number}", payload)]

    async def _compare(
        self, work: _Work, place: int, criterion: Criterion, texts: ItemTexts, number: int
    ) -> list[_Vote | None]:
        """Both orders of a vote, each as a value of the output."""
        question, material = _told(criterion, number), _material(texts)
        first = self._vote(
            work, f"{place}:{number}", preference_payload(question, material, is_swapped=False)
        )
        second = self._vote(
            work, f"{place}:{number}:swapped", preference_payload(question, material, is_swapped=True)
        )
        votes = await _all([first, second])
        swapped = votes[1]
        return [votes[0], None if swapped is None else (1 - swapped[0], *swapped[1:])]

    async def _vote(self, work: _Work, name: str, payload: dict[str, Any]) -> _Vote | None:
        judge = work.spec.judge
        variants = ()
        if judge.model is not None:
            variant = TaskVariant(experiment=SOURCE, name="judge", agent_id=judge.agent_id, model=judge.model)
            variants = (variant,)
        outcome = await self._task(work, f"judge:{name}", judge.agent_id, payload, variants)
        try:
            return *read_verdict(outcome, pairwise=judge.pairwise), outcome.model
        except ToolFailed:
            return None

    async def _task(
        self,
        work: _Work,
        name: str,
        agent_id: str,
        payload: dict[str, Any],
        variants: tuple[TaskVariant, ...] = (),
    ) -> Outcome:
        """The outcome of a task, which the first ask makes. The material may be of strangers.

        It gets no variant of an experiment on live tasks: an evaluation is of the agent as it is.
        """
        request = TaskRequest(
            agent_id=agent_id, payload=payload, budget_usd=work.spec.budget_usd, outside=name != "answer"
        )
        tenant_id, tasks = work.key.tenant_id, self._mesh.get(Tasks)
        caller = Caller(
            tenant_id=tenant_id,
            requested_by=work.spec.requested_by,
            source=SOURCE,
            budgets=work.spec.budgets,
        )
        key = f"{work.spec.run_id}:{work.number}:{name}"
        submit = partial(tasks.submit, request, caller, idempotency_key=key, variants=variants)
        absences = Backoff(0.5, 15.0)
        while True:
            try:
                receipt = await until_answered(submit)
                break
            except Overloaded as error:
                await asyncio.sleep(error.retry_after_seconds)
            except (NoAgentAvailable, NotFound):  # its worker may start later than this process
                if absences.failures >= _MAX_ABSENCES:
                    raise
                await asyncio.sleep(absences.next())
        outcome = await until_answered(lambda: tasks.outcome(receipt.task_id, tenant_id))
        work.outcomes.append(outcome)
        return outcome


async def _all(works: Sequence[Coroutine[Any, Any, _ResultT]]) -> list[_ResultT]:
    """The results of some work side by side; the first error ends the rest."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _material(texts: ItemTexts) -> dict[str, str | None]:
    return texts.model_dump(include={"input", "output", "other", "context", "expected"})


def _told(criterion: Criterion, number: int) -> dict[str, Any]:
    """A criterion as a judge reads it; further votes say which they are, so that no cache answers them."""
    return criterion.model_dump(exclude_defaults=True) | ({"vote": number + 1} if number else {})
