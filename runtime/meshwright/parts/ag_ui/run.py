"""One run of a user interface: it begins, answers or finds a task, and shows the task's events.

A run is one view of a task, which goes on without it. A client that was cut off, or another one, sends the
run again and sees how the task stands. Interrupts are the questions of the thread's tasks.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, NamedTuple

from pydantic import ValidationError

from meshwright import Event, MeshError, TaskRequest
from meshwright.component import Forbidden, NotFound, Operations, record_refusal
from meshwright.core.encoding import encode
from meshwright.core.errors import Draining
from meshwright.core.ids import derived_id
from meshwright.edges.bodies import InvalidFields
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.work.people import APPROVAL
from meshwright.engine.work.protocol import APPROVED_BY, Wait
from meshwright.engine.work.record import TaskView
from meshwright.kit import ID_PATTERN, Registry, Role, has_role
from meshwright.mesh.identity.events import EventFeed, EventOperations
from meshwright.mesh.identity.rules import answerable
from meshwright.parts.ag_ui import wire
from meshwright.parts.ag_ui.wire import Frame, RunAgentInput, Translation

_MAX_TASKS = 20  # of a thread, the newest, that are shown and in which interrupts are looked for
_PAGE_SIZE = 500
_LOOK_SECONDS = 1.0
_VERSION = "1.0"


def read_run(body: Any) -> RunAgentInput:
    """Reads a run. Raises InvalidFields."""
    try:
        return RunAgentInput.model_validate(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise InvalidFields.from_problems(problems, RunAgentInput) from None


class _OpenQuestion(NamedTuple):
    """A question that its caller may answer, and its task."""

    task: TaskView
    wait: Wait


class RunView:
    """One run of a client, seen while its stream lasts."""

    def __init__(self, operations: Operations, agent_id: str, run: RunAgentInput) -> None:
        self._operations, self._agent_id, self._run = operations, agent_id, run
        self._events = EventOperations(operations.mesh, operations.caller)
        self._thread_id = run.thread_id
        if not re.fullmatch(ID_PATTERN, run.thread_id):  # the protocol takes any text
            self._thread_id = f"agui-{derived_id(run.thread_id)}"
        self._names = {"threadId": run.thread_id, "runId": run.run_id}
        self._refusal: Frame | None = None
        self._task_id = ""
        self._view: TaskView
        self._after_seq = 0
        self._answered: list[wire.TaskWait] = []
        self._is_new = self._knows_messages = False

    async def begin(self) -> None:
        """Make the task of the run, answer its questions or find it: durable when this returns."""
        run, tenant_id = self._run, self._operations.caller.tenant_id
        task_id = f"agui-{derived_id(tenant_id, self._agent_id, run.thread_id, run.run_id)}"
        views = await self._thread()
        if not views and self._agent_id not in self._agent_ids():
            raise NotFound(f"There is no agent {self._agent_id!r} for user interfaces", field="agent_id")
        questions = self._questions(views)
        if run.resume:
            await self._resume(views, questions)
        elif await self._find(task_id) is not None:
            self._task_id = task_id
        elif (payload := run.payload()) is None:
            self._task_id = views[0].task_id if views else ""
        elif questions:
            self._refuse("Answer the open interrupts of this thread before you send a message", questions)
        else:
            request = TaskRequest(
                task_id=task_id, agent_id=self._agent_id, payload=payload, thread_id=self._thread_id
            )
            self._task_id = (await self._operations.submit(request)).task_id
            self._is_new = self._knows_messages = True

    def _agent_ids(self) -> set[str]:
        agents = self._operations.mesh.get(Registry).agents()
        return {agent.agent_id for agent in agents if agent.kind != "system"}

    async def _resume(self, views: Sequence[TaskView], questions: dict[str, _OpenQuestion]) -> None:
        """Answer the open questions. Those that were answered before are passed over, also by others."""
        entries = {entry.interrupt_id: entry for entry in self._run.resume}
        if missing := questions.keys() - entries:
            return self._refuse("Answer each open interrupt of this thread", sorted(missing))
        if unknown := [name for name in entries if name not in questions and not _was_open(views, name)]:
            return self._refuse("This thread has no such interrupt that you may answer", unknown)
        self._task_id = next(view.task_id for view in views if any(view.task_id in name for name in entries))
        if not questions:
            return None
        seq = await self._operations.mesh.log.last_seq()
        for name, question in questions.items():
            self._task_id = question.task.task_id
            try:
                await self._answer(question, entries[name])
            except MeshError as error:
                if error.status in (404, 409) and error.field != "anyway":
                    continue  # somebody else was faster
                request = f"ag-ui resume {self._agent_id}"
                caller, mesh = self._operations.caller, self._operations.mesh
                record_refusal(mesh, error, caller=caller, request=request, edge="ag-ui")
                return self._refuse(str(error), [name])
        if self._run.knows(self._task_id):  # else its client is another, or was cut off
            self._after_seq, self._knows_messages = seq, True
            own = [question for question in questions.values() if question.task.task_id == self._task_id]
            self._answered = [wire.TaskWait(self._task_id, question.wait) for question in own]
        return None

    async def _answer(self, question: _OpenQuestion, entry: wire.ResumeEntry) -> None:
        task_id, wait = question.task.task_id, question.wait
        if entry.status == "resolved" or wait.subject.get("kind") == APPROVAL:
            answer, anyway = wire.read_answer(wait, entry), entry.metadata.get("anyway") is True
            await self._operations.answer(task_id, wait.wait_id, answer, anyway=anyway)
        else:
            await self._operations.cancel(task_id)

    def _refuse(self, message: str, names: Sequence[str] | dict[str, Any]) -> None:
        text = f"{message}: {', '.join(names)}"
        self._refusal = {"type": "RUN_ERROR", "message": text, "code": "interrupts"}

    async def _thread(self) -> list[TaskView]:
        """The newest tasks of the thread for this agent that the caller may see, the newest first."""
        caller = self._operations.caller
        own = None if has_role(caller, Role.VIEWER) else caller.requested_by
        page = await self._operations.mesh.log.tasks(
            tenant_id=caller.tenant_id,
            thread_id=self._thread_id,
            agent_id=self._agent_id,
            limit=_MAX_TASKS,
            requested_by=own,
        )
        views = [await self._find(task.task_id) for task in page.items]
        return [view for view in views if view is not None]

    async def _find(self, task_id: str) -> TaskView | None:
        with suppress(NotFound, Forbidden):
            return await self._operations.see(task_id)
        return None

    def _questions(self, views: Sequence[TaskView]) -> dict[str, _OpenQuestion]:
        """The open questions that the caller may answer, and has not answered before others."""
        caller = self._operations.caller
        return {
            wait.wait_id: _OpenQuestion(view, wait)
            for view in views
            if view.outcome is None
            for wait in answerable(view, caller)
            if caller.requested_by not in wait.subject.get(APPROVED_BY, ())
        }

    # The stream

    async def frames(self) -> AsyncGenerator[Frame]:
        """The events of the run, until its task ends or waits for a person whom the caller stands for."""
        yield {"type": "RUN_STARTED", **self._names, "protocolVersion": _VERSION}
        if self._run.tools:
            yield {"type": "CUSTOM", "name": "unsupported", "value": ["tools"]}
        if self._refusal is not None:
            yield self._refusal
            return
        if not self._task_id:
            yield {"type": "MESSAGES_SNAPSHOT", "messages": []}
            yield {"type": "RUN_FINISHED", **self._names, "outcome": {"type": "success"}}
            return
        view = self._view = await self._operations.see(self._task_id)
        if not self._knows_messages:
            earlier = [task for task in await self._thread() if task.created_at < view.created_at]
            yield {"type": "MESSAGES_SNAPSHOT", "messages": wire.thread_messages([*earlier[::-1], view])}
        yield wire.state_snapshot(view)
        shown_calls = self._run.tool_call_ids if self._knows_messages else ()
        translation = Translation(view.task_id, shown_calls, self._answered)
        async with aclosing(self._task_events()) as events:
            async for event in events:
                for frame in translation.frames(event):
                    yield frame
        questions = self._questions([self._view])
        if questions:
            questions |= self._questions(await self._thread())
        for frame in self._end(self._view, questions, translation):
            yield frame

    async def _task_events(self) -> AsyncGenerator[Event]:
        """The events of the task, until it ends or waits for the caller."""
        if not self._is_new:  # else nothing is to be read before its pieces of text are followed
            async for event in self._stored_events():
                yield event
        while True:
            feed = await self._events.follow(self._task_id, after_seq=self._after_seq)
            if feed is None:
                self._view = await self._operations.see(self._task_id)
                return
            async with aclosing(self._follow(feed)) as events:
                async for event in events:
                    yield event
            self._view = await self._operations.see(self._task_id)
            if self._view.outcome is not None:
                return
            if self._questions([self._view]):  # else somebody has answered meanwhile
                async for event in self._stored_events():  # it may have asked before it was followed
                    yield event
                return

    async def _stored_events(self) -> AsyncGenerator[Event]:
        """The events of the task so far."""
        next_seq: int | None = self._after_seq
        while next_seq is not None:
            filter = EventFilter(after_seq=next_seq, limit=_PAGE_SIZE)
            events, next_seq = await self._events.task_events(self._task_id, filter)
            for event in events:
                self._after_seq = event.seq or self._after_seq
                yield event

    async def _follow(self, feed: EventFeed) -> AsyncGenerator[Event]:
        """The events of the task as they come, until it ends or waits for the caller."""
        reading: asyncio.Future[list[Event] | None] | None = None
        may_wait = True
        try:
            while True:
                asks = False
                if may_wait:
                    view = await self._operations.see(self._task_id)
                    asks = bool(self._questions([view]))
                    if asks and view.status == "waiting":
                        return
                reading = reading or asyncio.ensure_future(anext(feed.batches, None))
                # Once the other legs of a run that asks wait too, no event says so.
                await asyncio.wait({reading}, timeout=_LOOK_SECONDS if asks else None)
                if not reading.done():
                    continue
                batch, reading = reading.result(), None
                if batch is None:
                    raise stopping()
                for event in batch:
                    self._after_seq = event.seq or self._after_seq
                    yield event
                    if feed.is_last(event):
                        return
                may_wait = asks or any(event.event_type == "task.waiting" for event in batch)
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            await feed.batches.aclose()

    def _end(
        self, view: TaskView, questions: Mapping[str, _OpenQuestion], translation: Translation
    ) -> Iterator[Frame]:
        outcome, result = view.outcome, dict[str, Any]()
        if outcome is None:
            waits = [wire.TaskWait(question.task.task_id, question.wait) for question in questions.values()]
            yield from translation.interrupted(waits)
            result = {"outcome": {"type": "interrupt", "interrupts": wire.interrupts(waits)}}
        elif outcome.status == "succeeded":
            yield from translation.answer(outcome)
            result = {"result": outcome.result, "outcome": {"type": "success"}}
        else:
            yield from translation.end_text()
            result = {"outcome": {"type": "cancelled"}}
        yield wire.state_snapshot(view)
        if outcome is None or outcome.status in ("succeeded", "cancelled"):
            yield {"type": "RUN_FINISHED", **self._names, **result}
        else:
            yield wire.task_error(outcome)


def _was_open(views: Sequence[TaskView], interrupt_id: str) -> bool:
    """Whether an interrupt may have been one of the thread's tasks, and is not open any more."""
    view = next((view for view in views if f"/{view.task_id}/" in interrupt_id), None)
    return view is not None and all(wait.wait_id != interrupt_id for wait in view.waits)


def stopping() -> MeshError:
    """Returns the error of a run whose mesh stops."""
    return Draining("The mesh stops, and the task goes on", remedy="Send the run again")


def encode_frame(frame: Frame) -> bytes:
    """Returns an event as it goes over the wire."""
    return b"data: " + encode(frame) + b"\n\n"


def encode_error(error: MeshError) -> bytes:
    """Returns an error of the mesh as the last event of a run."""
    return encode_frame(wire.run_error(error))
