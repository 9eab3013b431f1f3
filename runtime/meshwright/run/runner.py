"""Runs claimed tasks through their agents, and makes an outcome of however that ends."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from meshwright.agent import Agent
from meshwright.core.errors import AgentError, HostError, MailboxFull, MeshError
from meshwright.core.messages import Fault, Outcome, OutcomeStatus
from meshwright.core.tracing import TENANT, GenAI, Span
from meshwright.kernel.envelope import ActorRef
from meshwright.run.author import fault_of, result_of
from meshwright.run.context import RunContext, Services
from meshwright.run.limits import StepTime, step_timeout
from meshwright.run.run import Run
from meshwright.tools.tool import Tool
from meshwright.work import Completed, Journal, Suspended, Work
from meshwright.work.worker import Stopped, until_stopped

logger = logging.getLogger("meshwright.runner")


class _ToolUser(Protocol):
    """An agent with its tools, by name."""

    agent: Agent
    tools: dict[str, Tool]


class Runner:
    """What a worker runs: the agent that the task was dispatched to."""

    def __init__(self, services: Services, agents: Mapping[str, _ToolUser]) -> None:
        self._services = services
        self._agents = agents

    async def __call__(self, ref: ActorRef, work: Work, journal: Journal) -> Completed:
        """Run an attempt to its end. Raises Suspended where it has to wait, HostError where the host ends."""
        task = work.task
        attributes = {
            GenAI.OPERATION_NAME: GenAI.INVOKE_AGENT,
            GenAI.AGENT_ID: ref.type,
            GenAI.AGENT_NAME: ref.type,
            GenAI.CONVERSATION_ID: task.thread_id,
            "meshwright.task.id": task.task_id,
            TENANT: task.tenant_id,
        }
        with self._services.tracing.span(
            f"invoke_agent {ref.type}", parent=task.traceparent, attributes=attributes
        ) as span:
            bound = self._agents[ref.type]
            timeout = step_timeout(self._services.timeout_seconds, bound.agent, task.timeout)
            spent = StepTime(timeout, work.seconds)
            attempt = RunContext(
                self._services, bound.agent, bound.tools, ref, work, task, journal, span, spent
            )
            run = Run(attempt)
            await run.recover()
            try:
                completed = await self._finish(run, work, span, spent)
            except Suspended as suspended:
                await run.booked()
                await run.tell_open(suspended.waits)
                raise
            await run.booked()
            return completed

    async def _finish(self, run: Run, work: Work, span: Span, spent: StepTime) -> Completed:
        task = work.task
        result: dict[str, Any] | None = None
        status: OutcomeStatus = "succeeded"
        fault: Fault | None = None
        try:
            result = await until_stopped(self._within_timeout(run, spent))
        except Stopped:
            status, fault = "cancelled", Fault(type="Cancelled", message="cancelled on request")
        except _OutOfTime:
            kind = "TaskTimeout" if spent.timeout.of_task else "Timeout"
            status, fault = "timed_out", Fault(type=kind, message=spent.exceeded)
        except BaseException as error:  # agents may raise anything: the outcome of their attempt
            if _is_no_outcome(error):
                raise
            if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
                try:  # the next attempt pays for the call that is broken off
                    await run.confirm()
                except HostError as lost:  # the work is no longer this worker's: that matters more
                    logger.warning("task %s does not pay for a call broken off: %s", task.task_id, lost)
                raise
            if isinstance(error, AgentError) or not isinstance(error, MeshError):
                logger.exception("agent %s failed on task %s", run.agent_id, task.task_id)
            status, fault = "failed", fault_of(run.agent, error)
        if fault is not None:
            result = None
            span.fail(fault.type)
        usage = run.usage
        outcome = Outcome(
            task_id=task.task_id,
            agent_id=work.dispatch.agent_id,
            capability=task.capability,
            status=status,
            success=status == "succeeded",
            result=result,
            files=run.outcome_files(),
            error=fault,
            duration_ms=round(spent.worked * 1000, 3),
            model=usage.model,
            finish_reason=usage.finish_reason,
            limit=run.limit,
            usage=usage.usage,
            cost_usd=usage.cost_usd,
            completed_at=self._services.clock.now(),
            generation=task.generation,
            attempt=work.dispatch.attempt,
        )
        if outcome.success:
            await run.tell_thread(outcome.text)
        return Completed(task_id=task.task_id, fence=work.fence, outcome=outcome)

    async def _within_timeout(self, run: Run, spent: StepTime) -> dict[str, Any] | None:
        """Run while the agent's code begins and ends steps."""
        limit = spent.limit()
        result = None
        try:
            async with limit:
                result = await self._result(run)
        except BaseException as error:  # whatever the agent's code makes of a Suspended that it catches
            is_ours = run.let_go()
            if isinstance(error, (TimeoutError, asyncio.CancelledError)) and limit.expired():
                raise _OutOfTime from error
            if run.suspended is None or (isinstance(error, asyncio.CancelledError) and not is_ours):
                raise
        finally:
            spent.over()
            await run.close()
        if run.suspended is None:
            return result
        run.let_go()
        known = {"seconds": spent.worked, "usage": run.usage.usage, "cost_usd": run.usage.cost_usd}
        raise Suspended(run.suspended.suspend.model_copy(update=known), run.suspended.waits)

    async def _result(self, run: Run) -> dict[str, Any] | None:
        try:
            answer: Any = run.agent.run(run)
            if not inspect.isawaitable(answer):
                raise AgentError("run is not async", remedy="Write `async def run(self, run)`")
            answer = await answer
        except Exception as error:
            run.check_followed()
            if not isinstance(error, MeshError):
                run.calls.check(error)
            raise
        run.check_followed()
        run.calls.check()
        return result_of(answer)


class _OutOfTime(Exception):
    """The agent's code has had its time."""


def _is_no_outcome(error: BaseException) -> bool:
    """Whether a run that ends so goes on later; a mailbox is full of an actor that the agent called."""
    is_host = isinstance(error, (HostError, Suspended, KeyboardInterrupt))
    return is_host and not isinstance(error, MailboxFull)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
