"""Runs claimed tasks through their agents, and makes an outcome of however that ends."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from meshwright.agents.agent import Agent
from meshwright.agents.run.author import UnawaitedCalls, attempt_fault, plain_result
from meshwright.agents.run.calls import ModelCalls, RunUsage
from meshwright.agents.run.earlier_changes import settle_calls
from meshwright.agents.run.limits import StepTime, step_timeout
from meshwright.agents.run.lost_calls import add_given_up_calls, add_lost_calls
from meshwright.agents.run.memories import count_cited
from meshwright.agents.run.question import render_question
from meshwright.agents.run.run import Run
from meshwright.agents.run.sdk_errors import error_behind, note_on
from meshwright.agents.run.state import RunState, Services
from meshwright.agents.run.steps import waits_for
from meshwright.agents.run.tool_calls import same_tools
from meshwright.agents.run.tool_chain import recorded_check
from meshwright.agents.tools.limited_work import cut
from meshwright.agents.tools.tool import Tool
from meshwright.core.errors import AgentError, HostError, MailboxFull, MeshError
from meshwright.core.messages import Fault, Outcome, OutcomeStatus
from meshwright.core.money import ZERO
from meshwright.core.tracing import PROMPT, TASK_ID, TASK_STATUS, TENANT, GenAI, text_messages
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work import Complete, Journal, RunInterrupted, RunSuspended, Work
from meshwright.engine.work.claims import SettleResult
from meshwright.engine.work.conversation import TaskMessages, ThreadMessage, conversation_ref
from meshwright.engine.work.protocol import Wait
from meshwright.engine.work.worker import WorkStopped, until_stopped
from meshwright.models.structure import check_answer

_logger = logging.getLogger("meshwright.runner")
_MAX_SAID_CHARS = 32_000  # of a request, and of an answer, in a conversation


class _BoundAgent(Protocol):
    agent: Agent

    @property
    def is_changing(self) -> bool: ...

    async def may_change(self) -> bool: ...

    async def ready_tools(self) -> Mapping[str, Tool]: ...

    async def find_tool(self, name: str) -> Tool | None: ...


class Runner:
    """Runs attempts for a worker: each by the agent that its task was dispatched to."""

    def __init__(self, services: Services, agents: Mapping[str, _BoundAgent]) -> None:
        self._services = services
        self._agents = agents

    async def __call__(self, ref: ActorRef, work: Work, journal: Journal) -> Complete:
        """Run an attempt to its end. Raises RunSuspended where it has to wait, HostError at a stop."""
        services, task, bound = self._services, work.task, self._agents[ref.type]
        attributes = {
            GenAI.OPERATION_NAME: GenAI.INVOKE_AGENT,
            GenAI.AGENT_NAME: ref.type,
            GenAI.CONVERSATION_ID: task.thread_id,
            TASK_ID: task.task_id,
            "meshwright.task.attempt": work.dispatch.attempt,
            TENANT: task.tenant_id,
        }
        with services.tracing.span(
            f"invoke_agent {ref.type}", parent=task.traceparent, attributes=attributes
        ) as span:
            timeout = step_timeout(services.timeout_seconds, bound.agent, task.timeout)
            state = RunState(
                services=services,
                agent=bound.agent,
                tools={},
                ref=ref,
                work=work,
                task=task,
                journal=journal,
                span=span,
                time=StepTime(timeout, work.seconds),
            )
            return await _Attempt(state, bound).complete()

    async def settle(self, ref: ActorRef, work: Work, *, is_over: bool = False) -> SettleResult:
        """Settle the calls of models of an attempt whose cost no run of it has reported."""
        services, bound = self._services, self._agents[ref.type]
        changed, estimated_usd = work.changed or await bound.may_change(), ZERO
        if services.budgets is not None:
            estimated_usd = await settle_calls(services.runtime, services.budgets, ref, work)
        if not is_over:
            return SettleResult(changed, estimated_usd)
        journal = await Journal.open(services.runtime, ref, work)
        tools = None if bound.is_changing else await bound.ready_tools()
        lost_calls = await add_lost_calls(
            journal, ref, work, tools, budgets=services.budgets, usual_call=services.usual_call, is_over=True
        )
        await journal.confirm()
        usage = RunUsage()
        for value in journal.earlier:
            usage.add_record(value)
        for call in lost_calls:
            usage.add(call)
        cost_usd = None if usage.cost_usd is None else usage.cost_usd + estimated_usd
        return SettleResult(changed, estimated_usd, usage.usage, cost_usd)


class _Attempt:
    """One attempt under way: the run that its agent sees, and the parts that it does not."""

    def __init__(self, state: RunState, bound: _BoundAgent) -> None:
        self._state = state
        self._bound = bound
        self._journal = state.journal
        self._calls = ModelCalls(state)
        self._unawaited = UnawaitedCalls()
        self._run = Run(state, self._calls, self._unawaited)

    async def complete(self) -> Complete:
        await self._calls.recover()
        if self._state.work.was_cut:
            await self._add_given_up_calls()
        try:
            completed = await self._finish()
        except RunSuspended as suspended:
            await self._calls.booked()
            await self._tell_open(suspended.waits)
            raise
        else:
            await self._calls.booked()
            return completed
        finally:
            self._calls.leave_reserved()

    async def _finish(self) -> Complete:
        state, task, spent = self._state, self._state.task, self._state.time
        result: dict[str, Any] | None = None
        status: OutcomeStatus = "succeeded"
        fault: Fault | None = None
        try:
            result = await until_stopped(self._within_timeout())
        except WorkStopped:
            status, fault = "cancelled", Fault(type="Cancelled", message="cancelled on request")
        except _OutOfTime:
            kind = "TaskTimeout" if spent.timeout.of_task else "Timeout"
            status, fault = "timed_out", Fault(type=kind, message=spent.exceeded)
        except BaseException as error:  # agents may raise anything: the outcome of their attempt
            if _is_no_outcome(error):
                raise
            if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
                try:  # the next attempt pays for the call that is broken off
                    await self._journal.confirm()
                    await self._calls.book()
                except HostError as lost:  # the work is no longer this worker's: that matters more
                    _logger.warning("task %s does not pay for a call broken off: %s", task.task_id, lost)
                raise
            error = error_behind(error, self._run.refusal)
            if isinstance(error, AgentError) or not isinstance(error, MeshError):
                extra = {"in_outcome": True}
                _logger.exception(
                    "agent %s failed on task %s", state.agent.agent_id, task.task_id, extra=extra
                )
            note = note_on(error, has_clients=self._run.has_clients)
            status, fault = "failed", attempt_fault(state.agent, error, note)
        if fault is not None:
            result = None
            state.span.fail(fault.type)
        self._describe(status, result)
        outcome = self._outcome(status, result, fault)
        if outcome.success:
            state.services.usual_calls.note(state.agent.agent_id, self._calls.dialogue_calls)
            await count_cited(state, outcome.text)
            await self._tell_answer(outcome.text)
        return Complete(
            task_id=task.task_id, fence=state.work.fence, outcome=outcome, answers=state.journal.answers
        )

    def _describe(self, status: OutcomeStatus, result: dict[str, Any] | None) -> None:
        state = self._state
        attributes: dict[str, str] = {TASK_STATUS: status}
        if self._calls.prompt is not None:
            attributes[PROMPT] = self._calls.prompt
        state.span.set(attributes)
        if state.services.tracing.content:
            question, answer = render_question(state.agent, state.task), result or {}
            text = answer.get("text") or json.dumps(answer, ensure_ascii=False)
            messages = {GenAI.INPUT_MESSAGES: ("user", question), GenAI.OUTPUT_MESSAGES: ("assistant", text)}
            state.span.set({name: text_messages(*message) for name, message in messages.items()})

    def _outcome(self, status: OutcomeStatus, result: dict[str, Any] | None, fault: Fault | None) -> Outcome:
        state, task, usage = self._state, self._state.task, self._calls.usage
        return Outcome(
            task_id=task.task_id,
            agent_id=state.work.dispatch.agent_id,
            capability=task.capability,
            status=status,
            success=status == "succeeded",
            result=result,
            files=self._calls.attached.task_files(task.task_id),
            error=fault,
            duration_ms=round(state.time.worked * 1000, 3),
            model=usage.model,
            finish_reason=usage.finish_reason,
            limit=self._calls.limit,
            prompt=self._calls.prompt,
            usage=usage.usage,
            cost_usd=usage.cost_usd,
            completed_at=state.services.clock.now(),
            generation=task.generation,
            attempt=state.work.dispatch.attempt,
            outside=self._journal.outside,
            changed=self._calls.changed,
        )

    async def _within_timeout(self) -> dict[str, Any] | None:
        """Run while the agent's code begins and ends steps."""
        journal, spent = self._journal, self._state.time
        limit = spent.limit()
        result = None
        try:
            async with limit:
                with self._run.as_current():
                    result = await self._result()
        except BaseException as error:  # whatever the agent's code makes of a RunSuspended that it catches
            is_ours = journal.let_go()
            if isinstance(error, (TimeoutError, asyncio.CancelledError)) and limit.expired():
                raise _OutOfTime from error
            if journal.suspended is None or (isinstance(error, asyncio.CancelledError) and not is_ours):
                raise
        finally:
            spent.over()
            await journal.close()
            if journal.replay.is_mismatched:
                await self._add_lost_calls()
        if (suspended := journal.suspended) is None:
            return result
        journal.let_go()
        usage = self._calls.usage
        totals = {"seconds": spent.worked, "usage": usage.usage, "cost_usd": usage.cost_usd}
        totals["changed"] = self._calls.changed
        raise RunSuspended(suspended.suspend.model_copy(update=totals), suspended.waits)

    async def _add_given_up_calls(self) -> None:
        state, services = self._state, self._state.services
        calls = await add_given_up_calls(
            state.journal, state.ref, state.work, services.budgets, services.usual_call
        )
        for call in calls:
            self._calls.usage.add(call)

    async def _add_lost_calls(self) -> None:
        state, services, settled = self._state, self._state.services, self._calls.settled
        lost_calls = await add_lost_calls(
            state.journal,
            state.ref,
            state.work,
            state.tools,
            budgets=services.budgets,
            usual_call=services.usual_call,
            settled=settled,
        )
        for call in lost_calls:
            self._calls.usage.add(call)

    async def _result(self) -> dict[str, Any] | None:
        try:
            context: Any = self._run  # which is a `ToolContext`, too
            self._journal.recorded_check = partial(recorded_check, context, self._state, self._calls)
            await self._journal.begin()
            self._state.tools.update(await self._tools())
            answer: Any = self._state.agent.run(self._run)
            if not inspect.isawaitable(answer):
                raise AgentError("run is not async", remedy="Write `async def run(self, run)`")
            answer = await answer
        except Exception as error:
            await self._journal.replay.decide()
            if not isinstance(error, MeshError):
                self._unawaited.check(error)
            raise
        except (BaseExceptionGroup, RunInterrupted):
            await self._journal.replay.decide()
            raise
        await self._journal.replay.decide()
        self._unawaited.check()
        result = plain_result(answer)
        if (shape := self._state.task.shape) is not None:
            check_answer(shape, result)
        return result

    async def _tools(self) -> Mapping[str, Tool]:
        """The tools of the run: where they may change, those that it had when it began."""
        tools = await self._bound.ready_tools()
        if not self._bound.is_changing:
            return tools
        return await same_tools(self._journal, tools, self._bound.find_tool)

    async def _tell_answer(self, text: str) -> None:
        """Add question and answer to the thread's conversation, durably before the outcome is known.

        An answer without words is the last that a model gave in a shape.
        """
        texts = [text or self._calls.last_answer, *map(str, self._calls.attached.files)]
        await self._tell("\n".join(filter(None, texts)), is_open=False)

    async def _tell_open(self, waits: Sequence[Wait]) -> None:
        """Add the question, and what the run waits for, for the runs that come before its answer."""
        people_first = sorted(waits, key=lambda wait: wait.kind != "person")
        await self._tell(f"Still open: this request {waits_for(people_first[0])}", is_open=True)

    async def _tell(self, answered: str, *, is_open: bool) -> None:
        state, task = self._state, self._state.task
        if task.thread_id == task.task_id:
            return
        question = cut(render_question(state.agent, task), _MAX_SAID_CHARS)
        fields = {"task_id": task.task_id, "agent_id": state.agent.agent_id, "is_open": is_open}
        fields["outside"] = self._journal.outside
        messages = (
            ThreadMessage(role="user", content=question, **fields),
            ThreadMessage(role="assistant", content=cut(answered, _MAX_SAID_CHARS), **fields),
        )
        addition = TaskMessages(task_id=task.task_id, messages=messages)
        await state.services.runtime.call(conversation_ref(state.ref), "add", addition)


class _OutOfTime(Exception):
    """The agent's code has had its time."""


def _is_no_outcome(error: BaseException) -> bool:
    """Whether a run that ends so goes on later; a mailbox is full of an actor that the agent called."""
    is_host = isinstance(error, (HostError, RunSuspended, KeyboardInterrupt))
    return is_host and not isinstance(error, MailboxFull)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
