"""A turn of a conversation: the task that a call makes, or goes on with, until it has something to say."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from contextlib import aclosing, nullcontext, suppress
from datetime import timedelta
from typing import Any

from meshwright import MeshError
from meshwright.component import (
    Conflict,
    Forbidden,
    ModelReply,
    NotFound,
    OnDelta,
    Operations,
    Tasks,
    Thinking,
    thinking_callback,
)
from meshwright.core import topics
from meshwright.core.errors import Draining, ModelError, TaskFailed, error_of_code
from meshwright.core.messages import Outcome
from meshwright.core.schema import described, takes_approval
from meshwright.engine.events.answers import parse_reply
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.inbox import Inbox
from meshwright.engine.work.people import asks_person
from meshwright.engine.work.protocol import Wait
from meshwright.engine.work.record import TaskView
from meshwright.kit import derived_id
from meshwright.mesh.identity.events import EventOperations
from meshwright.mesh.identity.rules import answerable
from meshwright.models.errors import ModelTimeout
from meshwright.models.wire.errors import openai_error
from meshwright.models.wire.responses import REQUIRES_ACTION, ResponseCall
from meshwright.parts.agent_models.requests import AgentCall, unknown_previous

_WAIT_SECONDS = 300.0  # of one wait: it is repeated
_KEY_LASTS = timedelta(days=7)  # of an answer; that of a task lasts as long as the task
_WAITS = re.compile(r"\(Task ([A-Za-z0-9_-]{1,64}) waits for [a-z' ]{1,40}\.\)\s*$")
"""The end of an answer that is a question: a client without ids sends it back with the next message."""


class AgentTurn:
    """A call of an agent."""

    def __init__(self, operations: Operations, call: AgentCall) -> None:
        self._operations = operations
        self._call = call
        self._mesh, self._caller = operations.mesh, operations.caller
        self._after_seq = 0
        self._thinking = ""
        self.task_id = ""
        """The task, once the turn has begun."""

    async def begin(self, key: str | None, traceparent: str | None) -> None:
        """Make a task of the message, or give it to the task that asks: durable when this returns.

        With a `key` that was used before it is the same task. Raises what `Operations.submit` and
        `Operations.answer` raise, and UnknownPreviousResponse.
        """
        previous = await self._previous()
        if key is not None and (answered_id := await self._answered_with(key)) is not None:
            self.task_id = answered_id
            return
        is_repeated = key is not None and await self._see_own(self._keyed_id(key)) is not None
        if previous is not None and not is_repeated and await self._continues(previous, key):
            self.task_id = previous.task_id
            return
        task = self._call.task
        if self._call.previous_id and previous is not None:
            task = task.model_copy(update={"thread_id": previous.thread_id})
        receipt = await self._operations.submit(task, idempotency_key=key, traceparent=traceparent)
        self.task_id = receipt.task_id

    async def _previous(self) -> TaskView | None:
        """The task with which the conversation may go on."""
        if self._call.previous_id:
            try:
                return await self._operations.see(self._call.previous_id)
            except (NotFound, Forbidden):  # to another tenant's caller it is as unknown as any
                raise unknown_previous(f"resp_{self._call.previous_id}") from None
        if thread_id := self._call.task.thread_id:
            question = await self._mesh.get(Inbox).next_question(self._caller.tenant_id, thread_id)
            with suppress(NotFound, Forbidden):
                return None if question is None else await self._operations.see(question.task_id)
        match = _WAITS.search(self._call.last_answer)
        return None if match is None else await self._see_own(match[1])

    async def _see_own(self, task_id: str) -> TaskView | None:
        with suppress(NotFound, Forbidden):
            view = await self._operations.see(task_id)
            return view if view.requested_by == self._caller.requested_by else None
        return None

    async def _continues(self, view: TaskView, key: str | None) -> bool:
        """Whether the message is for a task that asks, which gets it as its answer."""
        if view.parent_task_id or agent_id(view) != self._call.task.agent_id:
            return False
        wait, quoted = open_question(view), self._call.last_answer
        if wait is None:  # somebody was faster, or the client sends it again
            return bool(quoted) and (view.outcome is None or view.outcome.success)
        # The client's own words show a question that may be another by now, or that an agent has made up.
        if may_answer(self._operations, view, wait) and (
            not quoted or quoted.rstrip().endswith(render_question(self._operations, view, wait))
        ):
            self._after_seq = await self._mesh.log.last_seq()
            value = parse_reply(wait.answer_schema, self._call.task.payload["text"].strip())
            with suppress(NotFound, Conflict):  # somebody else was faster
                await self._operations.answer(
                    view.task_id,
                    wait.wait_id,
                    value,
                    digest=wait.digest,
                    idempotency_key=None if key is None else self._answer_key(key),
                )
        return True

    async def _answered_with(self, key: str) -> str | None:
        """The task that got an answer with a key."""
        since = self._mesh.runtime.clock.now() - _KEY_LASTS
        answers = EventFilter(
            tenant_id=self._caller.tenant_id,
            event_type="wait.ended",
            idempotency_key=self._answer_key(key),
            since=since,
            limit=1,
        )
        events = await self._mesh.log.query(answers)
        return events[0].task_id if events else None

    def _answer_key(self, key: str) -> str:
        return f"agent-models:{self._caller.requested_by}:{key}"

    def _keyed_id(self, key: str) -> str:
        return derived_id(self._caller.tenant_id, self._caller.source, key)

    # Answers

    async def reply(self, left: Collection[asyncio.Future[Any]]) -> ModelReply | None:
        """The outcome of the task as an answer, or its question; None once one of `left` is done.

        Raises the error by which the task has failed.
        """
        tasks = self._mesh.get(Tasks)
        while True:
            await tasks.wait(
                self.task_id, self._caller.tenant_id, _WAIT_SECONDS, lambda: nullcontext(left), is_new=True
            )
            if (reply := self.read(await self._operations.see(self.task_id))) is not None:
                return reply
            if any(future.done() for future in left):
                return None

    def read(self, view: TaskView) -> ModelReply | None:
        """The answer that a task has by now. Raises the error by which it has failed."""
        model = self._call.wire.request.model
        if (outcome := view.outcome) is not None:
            if not outcome.success:
                raise failure(outcome)
            return ModelReply(
                content=outcome.answer,
                model=model,
                usage=outcome.usage,
                cost_usd=outcome.cost_usd,
                finish_reason="length" if outcome.finish_reason == "length" else "stop",
            )
        if (wait := open_question(view)) is None:
            return None
        is_response = isinstance(self._call.wire, ResponseCall)
        return ModelReply(
            content=render_question(self._operations, view, wait),
            model=model,
            finish_reason=REQUIRES_ACTION if is_response else "stop",
        )

    async def document(self) -> dict[str, Any]:
        """The response that the task is by now."""
        return self.describe(await self._operations.see(self.task_id))

    def describe(self, view: TaskView) -> dict[str, Any]:
        """A task as a response, in any state."""
        wire = self._call.wire
        assert isinstance(wire, ResponseCall)
        try:
            reply = self.read(view)
        except MeshError as error:
            if view.status == "cancelled":
                return wire.document("cancelled")
            return wire.document("failed") | openai_error(error)
        if reply is not None:
            return wire.whole(reply)
        return wire.document("queued" if view.status in ("accepted", "dispatched") else "in_progress")

    async def stream(self, closing: asyncio.Future[None], on_delta: OnDelta) -> ModelReply:
        """The same, with the work in progress as thinking. Raises Draining where the process stops."""
        relaying = asyncio.create_task(self._relay(on_delta), name="progress of an agent")
        try:
            reply = await self.reply([closing])
        finally:
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)  # progress alone: the answer has all
        if reply is None:
            raise unfinished(self.task_id)
        if not self._thinking:
            return reply
        block = {"type": "thinking", "thinking": self._thinking, "signature": ""}
        return reply.model_copy(update={"thinking": (block,)})

    async def _relay(self, on_delta: OnDelta) -> None:
        think = thinking_callback(on_delta) if self._call.shows_thinking else None
        if think is None:
            return
        events = EventOperations(self._mesh, self._caller)
        feed = await events.follow(self.task_id, after_seq=self._after_seq)
        if feed is None:
            return
        last_step: Any = None
        async with aclosing(feed.batches) as batches:
            async for batch in batches:
                for event in batch:
                    fields = event.fields
                    text = fields.get("text")
                    if event.event_type not in (topics.MODEL_DELTA, "run.progress") or not text:
                        continue
                    step = (event.event_type, fields.get("step"))
                    begins = bool(self._thinking) and (step != last_step or fields.get("restart"))
                    last_step = step
                    piece = f"\n\n{text}" if begins else str(text)
                    self._thinking += piece
                    think(Thinking(piece))


def agent_id(view: TaskView) -> str:
    """The agent that works on a task, or has last done so."""
    return view.attempts[-1].agent_id if view.attempts else ""


def open_question(view: TaskView) -> Wait | None:
    """The oldest thing that a task waits for a person to say; None where it waits for nobody."""
    waits = [wait for wait in view.waits if asks_person(wait)] if view.outcome is None else []
    return min(waits, key=lambda wait: wait.since or view.created_at, default=None)


def may_answer(operations: Operations, view: TaskView, wait: Wait) -> bool:
    """Whether a caller may answer a question by a message."""
    return wait in answerable(view, operations.caller)


def render_question(operations: Operations, view: TaskView, wait: Wait) -> str:
    """A question as the text of an answer, with the id of its task."""
    if not may_answer(operations, view, wait):
        return f"{wait.reason}\n\n(Task {view.task_id} waits for somebody else's answer.)"
    how = ""
    if takes_approval(wait.answer_schema):
        how = "\n\nReply approve or deny, and why if you like."
    elif wait.answer_schema is not None and wait.answer_schema.get("type") != "string":
        how = f"\n\nReply with JSON: {described(wait.answer_schema)}"
    return f"{wait.reason}{how}\n\n(Task {view.task_id} waits for your answer.)"


def failure(outcome: Outcome) -> MeshError:
    """The error of a task that did not succeed, as the APIs have it: an empty budget is one there too."""
    task_id, fault = outcome.task_id, outcome.error
    reason = fault.message if fault is not None else outcome.status
    if outcome.status == "timed_out":
        return ModelTimeout(f"Task {task_id} ran out of time: {reason}")
    if outcome.status == "cancelled":
        return TaskFailed(f"Task {task_id} was cancelled", task_id=task_id)
    kind = None if fault is None else error_of_code(fault.type, ModelError)
    message = f"Task {task_id} failed: {reason}"
    return TaskFailed(message, task_id=task_id) if kind is None else kind(message)


def unfinished(task_id: str) -> Draining:
    """The error for a client that has to ask again, since the process stops."""
    return Draining(
        f"The mesh is stopping, and task {task_id} goes on after its start",
        remedy=f"GET /v1/responses/resp_{task_id} has its answer then",
    )
