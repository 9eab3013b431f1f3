"""The calls of models that a run makes: each a step of its journal, counted, and streamed as it comes."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from operator import attrgetter
from typing import Any

from msgspec.structs import replace
from pydantic import BaseModel

from meshwright.agents.run.completions import CallQuestion
from meshwright.agents.run.earlier_changes import settlements_in
from meshwright.agents.run.files import AttachedFiles, check_size
from meshwright.agents.run.limits import Totals, task_limits, tries_again_at
from meshwright.agents.run.preparation import PreparedPrompt
from meshwright.agents.run.recorded_steps import SentMessages
from meshwright.agents.run.replies import Deltas, RecordedError, StepResult, fault_events, hand_on_again
from meshwright.agents.run.state import RunState
from meshwright.core import topics
from meshwright.core.errors import AgentError, ModelError, ToolFailed
from meshwright.core.events import Event, parse_trace_id
from meshwright.core.ids import ID_PATTERN, new_id
from meshwright.core.messages import Outcome, Usage
from meshwright.core.money import is_amount
from meshwright.engine.work.paths import OpenStep
from meshwright.engine.work.protocol import WaitKind
from meshwright.engine.work.records import ProgressEvent
from meshwright.models.errors import BudgetExceeded
from meshwright.models.port import (
    CHARGE,
    Call,
    CallContext,
    ChatMessage,
    ModelReply,
    ModelRequest,
    OnDelta,
    ToolSpec,
)
from meshwright.models.structure import response_schema
from meshwright.models.written import WrittenMessages

_logger = logging.getLogger("meshwright.agents")
_SENT_PARTS = 8  # of a record are characters of the model's messages: in JSON one may take six bytes
_CHARGE = "charge"  # the step of it
_COUNTED = ("model", "usage", "cost_usd", "latency_ms", "finish_reason")
_counted = attrgetter(*_COUNTED)


@dataclass(slots=True)
class RunUsage:
    """The cost of calls of models so far, with those that failed, and of delegated tasks.

    The cost is None once that of one call is unknown.
    """

    usage: Usage = field(default_factory=Usage)
    cost_usd: Decimal | None = Decimal(0)
    model: str | None = None
    finish_reason: str | None = None

    def add(self, call: Call | Outcome) -> None:
        """Count one call, or a delegated task."""
        self.usage = self.usage + call.usage
        before, more = self.cost_usd, call.cost_usd
        self.cost_usd = None if before is None or more is None else before + more
        if isinstance(call, Outcome) or call.model.startswith(CHARGE):
            return
        self.model = call.model or self.model
        self.finish_reason = call.finish_reason or self.finish_reason

    def add_record(self, value: Any) -> list[Call | Outcome]:
        """Count the calls, or the delegated task, that a record of the journal is of, and return them."""
        calls = _ended_in(value)
        for call in calls:
            self.add(call)
        return calls


class ModelCalls:
    """The calls of one run; `usage` is what they have cost, those of earlier claims included.

    `attached` are the files that the run's outcome has.
    """

    def __init__(self, state: RunState) -> None:
        self.usage = RunUsage()
        self.max_record_bytes = state.services.runtime.max_record_bytes
        self.limits = task_limits(state.services.limits, state.agent, state.task.limits)
        self.totals = Totals(self.limits)
        self.sent = SentMessages(self.max_record_bytes // _SENT_PARTS)
        self.attached = AttachedFiles(state.journal.earlier)
        self.dialogue_calls = 0
        """The calls of its conversations, each of which reads the context."""
        self.changed = False
        """Whether a tool of the run, or of a task that it delegated, may have changed something."""
        self.limit: str | None = None
        """The limit that was reached: only an answer would do then."""
        self.prompt: str | None = None
        """The version of the agent's prompt that was used last."""
        self.last_answer = ""
        """The last answer that a model gave in a shape, as JSON."""
        self._state = state
        self._settled: set[str] = set()
        for value in state.journal.earlier:
            calls = self.usage.add_record(value)
            self.totals.add_record(value, [call for call in calls if isinstance(call, Call)])

    @property
    def settled(self) -> frozenset[str]:
        """The calls whose cost the run knows, and budgets book."""
        return frozenset(self._settled)

    async def recover(self) -> None:
        """Have budgets book calls of earlier claims, where a worker ended before it had."""
        state, budgets = self._state, self._state.services.budgets
        settlements = settlements_in(state.journal.earlier)
        self._settled.update(settled.call for settled in settlements)
        if settlements and budgets is not None:
            await budgets.recover(state.agent.agent_id, state.call_context(None, None), settlements)

    async def booked(self) -> None:
        """Return once the calls are durable, and budgets have booked them.

        No one reads the journal of an attempt that has ended. Raises HostError.
        """
        budgets = self._state.services.budgets
        if self._settled and budgets is not None:
            await self.book()
            await budgets.booked(self._settled)

    async def book(self) -> None:
        """Have budgets book the calls once they are durable, on a store that can lose their records alone."""
        budgets = self._state.services.budgets
        if not self._settled or budgets is None or not self._state.services.runtime.is_shared:
            return
        await self._state.journal.confirm()
        budgets.book(self._settled)

    def leave_reserved(self) -> None:
        """Leave calls that are not booked to the run that goes on: its journal may have them."""
        if (budgets := self._state.services.budgets) is not None:
            budgets.leave_reserved(self._settled)

    async def charge(self, usd: Decimal, what: str, *, is_spent: bool = False) -> None:
        """Book what a tool spends with every budget of the run, as a call in a step of its own.

        Raises ToolFailed where a budget or `max_usd` has no room for it, unless it `is_spent` already;
        AgentError for a wrong charge.
        """
        state = self._state
        if not (isinstance(usd, Decimal) and is_amount(usd) and re.fullmatch(ID_PATTERN, what)):
            raise AgentError(
                f"{state.agent.agent_id} charges {usd!r} for {what!r}",
                remedy='Write await context.charge(Decimal("0.005"), "web-search")',
            )
        async with state.journal.open_step(_CHARGE, {"what": what}) as step:
            if not step.is_replayed:
                self._record(step, await self._charged(step, usd, what, is_spent=is_spent))
                step.finish(None)

    async def _charged(self, step: OpenStep, usd: Decimal, what: str, *, is_spent: bool) -> Call:
        if not is_spent and (limit := self.totals.exceeded_by(usd)) is not None:
            raise ToolFailed(f"{what} costs ${usd}, and the run would exceed {limit.name} (${limit.most})")
        state = self._state
        call = Call(
            call_id=new_id(),
            model=f"{CHARGE}{what}",
            user=state.agent.agent_id,
            thread_id=state.task.thread_id,
            tenant_id=state.task.tenant_id,
            cost_usd=usd,
            cost_source="reported",
            attempt=state.work.dispatch.attempt,
            step=step.number,
        )
        if (budgets := state.services.budgets) is None:
            return call
        request = ModelRequest(messages=(), model=call.model, user=call.user, context=self.context(step))
        try:
            hold = await budgets.hold(request, lambda _: Decimal(0) if is_spent else usd)
        except ModelError as error:
            if is_spent:  # the ledger has it, and the outcome
                return call
            raise ToolFailed(str(error)) from error
        for call_id in hold.cut:  # its process ended before the tool could spend it
            budgets.settle(hold, Decimal(0), call=call_id)
        budgets.book(hold.cut)
        return replace(call, call_id=hold.call or call.call_id, settlement=budgets.settle(hold, usd))

    def context(self, step: OpenStep | None, written: WrittenMessages | None = None) -> CallContext:
        """The context of a step's calls: who pays for them, and where they are recorded."""
        number = None if step is None else step.number
        return self._state.call_context(number, partial(self._record, step), step, self.prompt, written)

    def _record(self, step: OpenStep | None, call: Call) -> None:
        self.usage.add(call)
        self.totals.add_call(call)
        counted = counted_fields(call)
        if call.settlement is not None:
            counted["settlement"] = call.settlement
            self._settled.add(call.settlement.call)
        if call.outcome == "ok" and not call.model.startswith(CHARGE):
            self._call_back(call)
        event = ProgressEvent.from_payload(call.payload(), call.call_id)
        if step is None:
            self._state.journal.add_call(counted, event)
        else:
            step.add_call(counted, event)

    def _call_back(self, call: Call) -> None:
        """Tell the agent's callbacks of a call, in the words of LiteLLM's."""
        state = self._state
        if not state.agent.success_callbacks:
            return
        end = state.services.clock.now()
        used, task = call.usage, state.task
        tokens = {"prompt_tokens": used.prompt_tokens, "completion_tokens": used.completion_tokens}
        response = {
            "id": call.call_id,
            "model": call.model,
            "usage": {**tokens, "total_tokens": sum(tokens.values())},
        }
        kwargs = {
            "model": call.model,
            "user": call.user,
            "response_cost": None if call.cost_usd is None else float(call.cost_usd),
            "cache_hit": call.cache_hit,
            "metadata": {"task_id": task.task_id, "tenant_id": task.tenant_id, "tags": [*call.tags]},
        }
        for callback in state.agent.success_callbacks:
            try:
                callback(kwargs, response, end - timedelta(milliseconds=call.latency_ms), end)
            except Exception:  # the author's code: the call is made, and its answer counts
                _logger.exception("A success_callback of %s failed", state.agent.agent_id)

    async def ask(
        self,
        prepared: PreparedPrompt,
        messages: Sequence[ChatMessage],
        specs: tuple[ToolSpec, ...],
        shape: type[BaseModel] | None,
        *,
        question: dict[str, Any],
        max_tokens: int | None = None,
        events: Sequence[ProgressEvent] = (),
        begins: bool = False,
        written: WrittenMessages | None = None,
    ) -> tuple[ModelReply, dict[str, Any]]:
        """Call the model, in a step of the journal; return its reply, and what the run had come to by then.

        For a `shape` the reply's content is JSON, unchecked. The step is known by the `question`
        of the agent's code: a reply in the journal stands, whatever prompt, tools and model are now.
        `max_tokens` is instead of the prompt's; `events` are published with the step. `written` is of the
        conversation that the messages belong to.

        Raises LimitReached for a conversation that `begins` where tokens, money or time are used up. If the
        provider is away the run waits, and asks again. Raises ModelError, and the same again when the run is
        resumed, so that an agent which went on without an answer does so again.
        """
        self.prompt = prepared.prompt
        request = self._request(prepared, messages, specs, shape, max_tokens)
        step, result = await self._step(
            request, question, shape, events=events, begins=begins, written=written
        )
        self.dialogue_calls += 1
        return self._note(step, request, result), step.totals

    async def complete(
        self,
        request: ModelRequest,
        prompt: str | None,
        question: CallQuestion,
        on_delta: OnDelta | None = None,
    ) -> ModelReply:
        """Make a call of a model as the code wants it, in a step that is known by `question`.

        `on_delta` takes its text as it comes, and none where the step is replayed. Raises what `ask` raises.
        """
        self.prompt = prompt
        step, result = await self._step(
            request,
            question.parts,
            None,
            question_hash=question.hash,
            begins=True,
            on_delta=on_delta,
            reads_on=True,
        )
        return self._note(step, request, result)

    async def _step(
        self,
        request: ModelRequest,
        question: dict[str, Any],
        shape: type[BaseModel] | None,
        *,
        question_hash: str = "",
        events: Sequence[ProgressEvent] = (),
        begins: bool = False,
        on_delta: OnDelta | None = None,
        reads_on: bool = False,
        written: WrittenMessages | None = None,
    ) -> tuple[OpenStep, StepResult]:
        state, earlier, journal = self._state, tuple(self._settled), self._state.journal
        opened = journal.open_step("model", question, paid=True, request_hash=question_hash)
        if on_delta is not None:
            hand_on_again(await journal.requested_calls.pieces_before(opened), on_delta)
        async with opened as step:
            if step.is_replayed:
                kind = RecordedError if "failed" in step.result else ModelReply
                return step, kind.model_validate(step.result)
            if (budgets := state.services.budgets) is not None:
                budgets.book(earlier)  # they were durable before this step began
            if begins:
                self._check_totals(step)
            context = self.context(step, written)
            if request.context.passed_over:
                context = replace(context, passed_over=request.context.passed_over)
            if reads_on:
                context = replace(context, read_on=partial(self._read_on, step))
            request = replace(request, context=context)
            started = time.perf_counter()
            result: StepResult
            try:
                with state.time.apart(), self._deltas(step, request, on_delta) as take:
                    result = await state.services.model.complete(request, take)
                check_size(f"The reply of {result.model}", result.files, self.max_record_bytes)
            except ModelError as error:
                await self._park(error, request.model, started)
                result = RecordedError.from_error(error)
            self._finish(step, request, result, [*events, *fault_events(result, shape)])
        return step, result

    def _read_on(self, step: OpenStep) -> float | None:
        reads_on = self._state.journal.requested_calls.reads_on(step)
        return self._state.services.read_on_seconds if reads_on else None

    def _deltas(
        self, step: OpenStep, request: ModelRequest, on_delta: OnDelta | None
    ) -> AbstractContextManager[OnDelta | None]:
        """A block with the function that takes the text of a reply; JSON is not shown while it is written."""
        if request.response_schema is not None or not self._state.services.stream:
            return nullcontext(on_delta)
        return Deltas(partial(self._show, step.number), on_delta)

    def _request(
        self,
        prepared: PreparedPrompt,
        messages: Sequence[ChatMessage],
        specs: tuple[ToolSpec, ...],
        shape: type[BaseModel] | None,
        max_tokens: int | None,
    ) -> ModelRequest:
        state = self._state
        return ModelRequest(
            model=prepared.model,
            messages=tuple(messages),
            tags=prepared.tags,
            user=state.agent.agent_id,
            tools=specs,
            response_schema=None if shape is None else response_schema(shape),
            output_mode=prepared.structure,
            temperature=prepared.temperature,
            max_tokens=max_tokens or prepared.max_tokens,
            params=prepared.params,
            timeout_seconds=state.time.timeout.seconds,
            cache=prepared.cache,
        )

    def _check_totals(self, step: OpenStep) -> None:
        if (limit := self.totals.spent()) is not None:
            event_id = f"limit/{self._state.work.steps}/{step.key.path}"
            step.events.append(limit.event("calls", event_id))
            raise limit.error(self._state.agent.agent_id, is_begun=False)

    def _finish(
        self, step: OpenStep, request: ModelRequest, result: StepResult, events: list[ProgressEvent]
    ) -> None:
        if isinstance(result, ModelReply):
            self.totals.add_reply(result)
        step.sent = self.sent.record_request(request)
        step.totals = self.totals.now()
        step.finish(result, events, is_error=isinstance(result, RecordedError))

    def _note(self, step: OpenStep, request: ModelRequest, result: StepResult) -> ModelReply:
        """Note what a step, run or replayed, adds to the run. Raises the error that it recorded."""
        reply = result if isinstance(result, ModelReply) else None
        if reply is not None and reply.files:
            self.attached.add(step.key.path, reply.files)
        self.sent.add(step.key.path, request, reply)
        if isinstance(result, RecordedError):
            raise result.error
        return result

    async def _park(self, error: ModelError, model: str, started: float) -> None:
        """Let the run wait for money, or for a provider that is away; since `started` it did nothing else.

        Returns where it cannot, or waiting does not help.
        """
        state, parking = self._state, self._state.services.parking
        now, pauses = state.services.clock.now(), state.journal.pauses
        kind: WaitKind = "provider"
        due_at: datetime | None = None
        models = [*dict.fromkeys([model, *error.failed_at, *error.away])]
        subject: dict[str, Any] = {"error": error.code, "pauses": pauses, "models": models}
        if isinstance(error, BudgetExceeded):
            kind, due_at = "money", tries_again_at(error, now, pauses, state.task.priority)
            subject = {"budget": error.budget, "account": error.account, "on_empty": error.on_empty}
            subject |= {"of": error.owner, "cheaper": error.can_be_cheaper}
        elif parking is not None:
            due_at = parking.due_at(error, now, pauses, state.task.deadline_at)
        if due_at is not None:
            state.time.stand_still(started)
            with suppress(ToolFailed):  # a tool that may not run twice cannot be taken up again
                await state.journal.park(kind, str(error), due_at, subject)

    def _show(self, step: int, payload: dict[str, Any]) -> None:
        state = self._state
        task, dispatch = state.task, state.work.dispatch
        state.services.runtime.broadcast(
            Event(
                id=new_id(),
                event_type=topics.MODEL_DELTA,
                topic=topics.TASK_PROGRESS,
                time=state.services.clock.now(),
                tenant_id=task.tenant_id,
                task_id=task.task_id,
                agent_id=dispatch.agent_id,
                trace_id=parse_trace_id(task.traceparent),
                aggregate_id=str(state.ref),
                payload={"step": step, "attempt": dispatch.attempt, **payload},
            )
        )


def counted_fields(call: Call) -> dict[str, Any]:
    """The fields of a call that its record in the journal has."""
    fields: dict[str, Any] = dict(zip(_COUNTED, _counted(call), strict=True))
    if call.finish_reason is None:
        del fields["finish_reason"]
    return fields


def _ended_in(record: Any) -> list[Call | Outcome]:
    """The calls, or the delegated task, that a record of the journal is of."""
    match record:
        case {"calls": calls}:
            return [
                Call.model_validate({key: call[key] for key in _COUNTED if key in call}) for call in calls
            ]
        case {"kind": "delegate", "kept": _}:  # it counts in the attempt that asked
            return []
        case {"kind": "delegate", "result": {"task_id": _, "status": _, "completed_at": _} as outcome}:
            return [Outcome.model_validate(outcome)]
        case _:
            return []
