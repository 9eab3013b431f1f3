"""One agent's work on one task: context, then the model and its tools, each step journaled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Literal, TypeVar, overload

from pydantic import BaseModel

from meshwright.context.memory import MemoryItem
from meshwright.core.errors import AgentError, InvalidInput, ToolFailed
from meshwright.core.files import File, TaskFile, task_file_of
from meshwright.core.messages import MemoryScope, Outcome, derived_id
from meshwright.ledger.spending import Activity
from meshwright.models.port import ChatMessage
from meshwright.models.structure import ShapeT
from meshwright.run.author import Unawaited, awaited, noted
from meshwright.run.calls import ModelCalls, RunUsage
from meshwright.run.context import Delegation, RunContext
from meshwright.run.dialogue import Dialogues
from meshwright.run.files import ATTACH, check_size, files_in, parts_of, read_file, referred_in
from meshwright.run.people import ask_person, wait_event
from meshwright.run.prepared import PreparedPrompt, prepare_run, question_of
from meshwright.tools.limited import cut
from meshwright.work.paths import ProgressEvent

_MAX_PROGRESS_CHARS = 1_000
_ResultT = TypeVar("_ResultT")
_DataT = TypeVar("_DataT", bound=BaseModel | dict[str, Any] | Outcome)


class Run:
    """The work of one agent on one task. Tools get it as their context."""

    def __init__(self, attempt: RunContext, calls: ModelCalls, unawaited: Unawaited) -> None:
        self.agent = attempt.agent
        self.task = attempt.task
        """The task being worked on."""
        self.tools = attempt.tools
        self._attempt = attempt
        self._journal = attempt.journal
        self._calls = calls
        self._unawaited = unawaited
        self._dialogues = Dialogues(attempt, calls, self)
        self._prepared: PreparedPrompt | None = None

    @property
    def usage(self) -> RunUsage:
        """The cost of its calls of models and of delegated tasks so far, earlier claims included."""
        return self._calls.usage

    @property
    def limit(self) -> str | None:
        """The limit that the run has reached, by name."""
        return self._calls.limit

    @property
    def agent_id(self) -> str:
        """The agent that works on it."""
        return self.agent.agent_id

    @overload
    async def converse(self) -> str: ...
    @overload
    async def converse(self, shape: type[ShapeT]) -> ShapeT: ...

    @noted
    async def converse(self, shape: type[ShapeT] | None = None) -> str | ShapeT:
        """Prepare the context, then let the model call tools until it answers; returns its answer.

        It may call the same tool as often as it takes. At a limit (see `Limits`) it is asked once for its
        answer, without tools. Raises LimitReached where it then gives none, or tokens, money or time of the
        run were used up before; EmptyReply and ReplyCutOff for a reply that stays empty or cut off; for a
        `shape` StructureInvalid where its answer does not fit, even after two corrections.
        """
        parts = parts_of(self.task, await self._referred())
        question = ChatMessage(role="user", content=question_of(self.agent, self.task), parts=parts)
        return await self._dialogues.answer(question, await self.prepare(), shape, self.tools)

    async def _referred(self) -> dict[str, File]:
        urls = referred_in(self.task.payload)
        if not urls:
            return {}
        found = await self._journal.step("files", {"urls": urls}, lambda: self._read_all(urls), costly=False)
        return dict(zip(urls, files_in(found), strict=True))

    async def _read_all(self, urls: Sequence[str]) -> dict[str, Any]:
        files = [await self._read(url) for url in urls]
        check_size("payload.files", files, self._calls.max_record_bytes)
        return {"files": files}

    async def _read(self, url: str) -> File:
        place = task_file_of(url)
        if place is None:
            raise InvalidInput(f"{url!r} names no file of a task", field="url")
        return await read_file(self._attempt.services.host, *place, self.task.tenant_id)

    @property
    def files(self) -> tuple[File, ...]:
        """The files that the outcome will have: what its models gave, and what was attached, so far."""
        return self._calls.attached.files

    @noted
    async def attach(self, file: File | TaskFile) -> File:
        """Give the outcome a file; one of another task's outcome is copied. Returns it with its bytes.

        Pictures and sound that models give in the run are attached automatically, as are the files of an
        agent that the model asked. Raises TooLarge over six tenths of `max_record_bytes`, NotFound for a file
        of another task that is not there any more.
        """
        if not isinstance(file, File | TaskFile):
            raise AgentError(
                f"run.attach is given {type(file).__name__}, not a file",
                remedy='Write run.attach(File(name="chart.png", data=png_bytes))',
            )
        async with self._journal.open_step(ATTACH, {"name": file.name}, costly=False) as step:
            if not step.is_replayed:
                made = await self.read_file(file)
                check_size("run.attach", [made], self._calls.max_record_bytes)
                result = {"files": [made.model_dump(mode="json")]}
                step.finish(result, [ProgressEvent("file.attached", made.facts)])
        attached = files_in(step.result)
        self._calls.attached.add(step.key.path, attached)
        return attached[0]

    @noted
    async def read_file(self, file: File | TaskFile) -> File:
        """A file of another task's outcome, with its bytes; any other as it is. Raises NotFound."""
        if task_file_of(file.url) is None:
            return file if isinstance(file, File) else file.file
        return await self._read(file.url)

    @overload
    async def ask(self, prompt: str) -> str: ...
    @overload
    async def ask(self, prompt: str, *, shape: type[ShapeT]) -> ShapeT: ...

    @noted
    async def ask(self, prompt: str, *, shape: type[ShapeT] | None = None) -> str | ShapeT:
        """Ask the model once, with the agent's prompt file and context and without tools.

        Raises StructureInvalid where it does not answer in the `shape`, even after two corrections;
        LimitReached, EmptyReply and ReplyCutOff as `converse` does.
        """
        question = ChatMessage(role="user", content=prompt)
        return await self._dialogues.answer(question, self._prepared or await self.prepare(), shape, None)

    @noted
    async def prepare(self) -> PreparedPrompt:
        """Recall memories and the conversation, and fill in the prompt."""
        self._prepared = prepared = await self._journal.step(
            "context",
            {"task_id": self.task.first_task_id},
            self._prepare,
            shape=PreparedPrompt,
            costly=False,
            tell=PreparedPrompt.events,
        )
        return prepared

    async def _prepare(self) -> PreparedPrompt:
        with self._attempt.time.apart():
            prepared = await prepare_run(self._attempt, partial(self._calls.context, self._journal.inside))
        return prepared.model_copy(update={"totals": self._calls.totals.now()})

    @noted
    async def step(
        self, name: str, run: Callable[[], Awaitable[_ResultT]], *, repeatable: bool = True
    ) -> _ResultT:
        """Run an async function once, however often the work is resumed; the result is plain JSON data.

        With `repeatable=False` it is never run a second time where it may have happened already. Steps may
        run side by side. Raises AgentError where `run` is no async function, or gives what JSON cannot hold.
        """
        started = time.perf_counter()

        def tell(result: Any) -> list[ProgressEvent]:
            duration_ms = round((time.perf_counter() - started) * 1000, 3)
            return [ProgressEvent("step.finished", {"name": name, "duration_ms": duration_ms})]

        return await self._journal.step(
            name, {}, lambda: self._timed(name, run), repeatable=repeatable, tell=tell
        )

    async def _timed(self, name: str, run: Callable[[], Awaitable[_ResultT]]) -> _ResultT:
        with self._attempt.time.of_step(name):
            return await awaited(run, name)

    @overload
    async def gather(
        self, *work: Awaitable[_ResultT], return_exceptions: Literal[False] = False
    ) -> list[_ResultT]: ...
    @overload
    async def gather(
        self, *work: Awaitable[_ResultT], return_exceptions: Literal[True]
    ) -> list[_ResultT | BaseException]: ...

    @noted
    async def gather(self, *work: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
        """Do things side by side, and return their results in order once all have ended.

        Unlike asyncio's, it lets the others finish when one fails, and raises the first error afterwards;
        with `return_exceptions` errors stand in the place of results. While all that is left is waiting the
        run holds no slot.
        """
        results = await asyncio.gather(*work, return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed and not return_exceptions:
            raise failed[0]
        return results

    @overload
    async def delegate(
        self,
        agent_id: str = "",
        text: str = "",
        *,
        capability: str = "",
        payload: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        budget_usd: Decimal | str | None = None,
    ) -> str: ...
    @overload
    async def delegate(
        self,
        agent_id: str = "",
        text: str = "",
        *,
        shape: type[_DataT],
        capability: str = "",
        payload: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        budget_usd: Decimal | str | None = None,
    ) -> _DataT: ...

    @noted
    async def delegate(self, agent_id: str = "", text: str = "", **wishes: Any) -> Any:
        """Give a task to another agent, wait for its outcome without holding a slot, return its answer.

        The agent is named, or chosen by `capability`. `payload` goes beside the text; `timeout` is
        how many seconds a step of it may take, `deadline` all of it; `budget_usd` is what it may cost of the
        budgets of this task. The answer is text (JSON
        where it has no words), or with a `shape` an object of that pydantic model; `dict` gives the result
        as it is, `Outcome` all of the outcome with its files. Raises ToolFailed where that agent may not be
        asked, and DelegationFailed, which is one, where it did not succeed or its answer has another shape.
        """
        return await self._delegate(Delegation(agent_id, text, **wishes))

    @noted
    async def delegate_all(
        self, delegations: Sequence[Delegation], *, return_exceptions: bool = False
    ) -> list[Any]:
        """Give tasks to other agents side by side, and return their answers in order; see `gather`.

        Raises AgentError for what is no Delegation, before any of them starts.
        """
        for number, wanted in enumerate(delegations):
            if not isinstance(wanted, Delegation):
                raise AgentError(
                    f"run.delegate_all got a {type(wanted).__name__} as its item {number}",
                    remedy='Write Delegation("researcher-agent", "What is a turn?") for each',
                )
        work = [self._delegate(wanted) for wanted in delegations]
        return await self.gather(*work, return_exceptions=return_exceptions)  # type: ignore[call-overload]

    async def _delegate(self, wanted: Delegation) -> Any:
        self._attempt.check_delegation(wanted.whom)
        answer = await self._journal.wait(
            "delegate",
            wanted.request,
            kind="task",
            subject={"to": wanted.whom},
            child=lambda path: self._attempt.child(path, wanted),
        )
        return wanted.answer_of(Outcome.model_validate(answer))  # its cost is counted with the journal

    @noted
    async def sleep(
        self, seconds: float = 0, *, minutes: float = 0, hours: float = 0, days: float = 0
    ) -> None:
        """Wait for some time, through restarts, without holding a slot; the attempt's clock stands still."""
        pause = timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days)
        due_at = self._attempt.services.clock.now() + pause
        request = {"seconds": pause.total_seconds()}
        await self._journal.wait("sleep", request, kind="timer", due_at=due_at, reason=f"sleeps for {pause}")

    @noted
    async def progress(self, text: str) -> None:
        """Say how far the work is, as an event of the task."""
        async with self._journal.open_step("progress", {"text": text}, costly=False) as step:
            if not step.is_replayed:
                step.finish(None, [ProgressEvent("run.progress", {"text": cut(text, _MAX_PROGRESS_CHARS)})])

    @noted
    async def wait_event(
        self,
        topic: str,
        match: Mapping[str, Any] | None = None,
        *,
        expires: timedelta | datetime | None = None,
    ) -> dict[str, Any]:
        """Wait for an event of the mesh's log, through restarts and without holding a slot, and return it.

        `topic` may be a pattern (`app.orders`, `app.*`, `#`); `match` names fields by dotted paths:
        `{"event_type": "order.paid", "payload.order": 7}`; on a topic that begins with `app.` the type is
        `app.order.paid` in the log, and either is right. The first event of the task's tenant counts that
        came after the run began to wait. Raises WaitExpired where none has come by `expires` (by default
        never), AgentError for a topic or a match that cannot be meant.
        """
        return await wait_event(self._attempt, topic, match, expires)

    @overload
    async def ask_person(
        self,
        question: str,
        *,
        expires: timedelta | datetime | None = None,
        about: Mapping[str, Any] | None = None,
        may_answer: Sequence[str] = (),
    ) -> str: ...
    @overload
    async def ask_person(
        self,
        question: str,
        *,
        shape: type[ShapeT],
        expires: timedelta | datetime | None = None,
        about: Mapping[str, Any] | None = None,
        may_answer: Sequence[str] = (),
    ) -> ShapeT: ...

    @noted
    async def ask_person(
        self,
        question: str,
        *,
        shape: type[ShapeT] | None = None,
        expires: timedelta | datetime | None = None,
        about: Mapping[str, Any] | None = None,
        may_answer: Sequence[str] = (),
    ) -> str | ShapeT:
        """Ask a person, and wait for the answer, for days and through restarts, without holding a slot.

        The answer is text, or an object of the pydantic model `shape`; one that does not fit is refused where
        it is given. `about` is data that is shown with the question, and `may_answer` names the callers that
        may answer (none named: all but the agents that ask). Raises WaitExpired without an answer by
        `expires` (by default after `people.patience_days`), AgentError for what cannot be asked.
        """
        return await ask_person(self._attempt, question, shape, expires, about, may_answer)

    @noted
    async def remember(self, text: str, scope: MemoryScope) -> str:
        """Store a memory in a scope."""
        services, inside = self._attempt.services, self._journal.inside
        path = "" if inside is None else inside.key.path
        item = MemoryItem(
            memory_id=derived_id(self._attempt.work.first_steps, path, scope, text),
            tenant_id=self.task.tenant_id,
            scope=scope,
            scope_id=self._attempt.scopes[scope],
            text=text,
            created_at=services.clock.now(),
            task_id=self.task.task_id,
            agent_id=self.agent_id,
        )
        await services.memory.remember(item)
        return f"Remembered for {scope}."

    @noted
    async def activity(self, since: datetime) -> Activity:
        """The activity in the task's tenant since a time, as the event log has it now.

        Call it in a `run.step`: read again, it differs. Raises ToolFailed where this worker has no log.
        """
        read = self._attempt.services.activity
        if read is None:
            raise ToolFailed(
                "This worker has no event log to read",
                remedy="Set reads_log = True in the class of the agent, whose tasks run at the front then",
            )
        return await read(self.task.tenant_id, since)
