"""One agent's work on one task: context, then the model and its tools, each step journaled."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property, partial
from typing import Any, Literal, Unpack, overload

from meshwright.agents.run.author import UnawaitedCalls, noted
from meshwright.agents.run.calls import ModelCalls, RunUsage
from meshwright.agents.run.clients import RunClients
from meshwright.agents.run.delegation import Delegation
from meshwright.agents.run.dialogue import Dialogue
from meshwright.agents.run.earlier_changes import EarlierChange, EarlierChanges, earlier_changes
from meshwright.agents.run.files import ATTACH, check_size, file_parts, files_in, read_file, referred_in
from meshwright.agents.run.memories import NewMemory, recalled, remembered
from meshwright.agents.run.preparation import PreparedPrompt, check_window, prepare_run
from meshwright.agents.run.question import question_below, unsent_field
from meshwright.agents.run.state import RunState
from meshwright.agents.run.tool_chain import RunTools
from meshwright.agents.skills.catalog import NO_SKILLS
from meshwright.agents.skills.event_types import SkillsOffered
from meshwright.agents.tools.tool import DelegationOptions
from meshwright.agents.trees.tree import Tree
from meshwright.core.errors import AgentError, DelegationFailed, InvalidInput, ToolFailed
from meshwright.core.files import File, TaskFile, parse_task_file
from meshwright.core.messages import AnswerT, MemoryKind, MemoryScope, Outcome
from meshwright.core.step_events import FileAttached
from meshwright.engine.work.record import read_task
from meshwright.engine.work.records import ProgressEvent
from meshwright.engine.work.waits import WaitGroup
from meshwright.models.port import ChatMessage
from meshwright.models.structure import ShapeT
from meshwright.money.spending import Activity

_CURRENT: ContextVar[Run | None] = ContextVar("_CURRENT", default=None)
"""The run that the code is within. An asyncio task begins in the run of its maker."""
_GROUP: ContextVar[WaitGroup | None] = ContextVar("_GROUP", default=None)
"""The waits that a delegation is one of, if it is the whole work of an asyncio task."""


class Run(RunClients):
    """The work of one agent on one task. Tools get it as their context."""

    def __init__(self, state: RunState, calls: ModelCalls, unawaited: UnawaitedCalls) -> None:
        super().__init__(state, calls, unawaited)
        self.agent = state.agent
        self.task = state.task
        """The task being worked on."""
        self._prepared: PreparedPrompt | None = None

    @classmethod
    def current(cls) -> Run | None:
        """The run that the code is within, in asyncio tasks that it started too; None outside a run."""
        return _CURRENT.get()

    @contextmanager
    def as_current(self) -> Iterator[None]:
        """A block of code that is within the run."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:  # else its asyncio task would hold it, in a circle
            _CURRENT.reset(token)

    @cached_property
    def tools(self) -> RunTools:
        """The tools of the agent by name, to be called without a step; see `call` for those with one."""
        return RunTools(self._state, self._calls)

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

    def secret(self, name: str) -> str:
        """A secret of the mesh: a variable of the environment, or a reference like `file:/run/token`.

        It is hidden in results of tools. Raises ToolFailed where there is none.
        """
        return self._state.masks.give(name)

    def mask(self, secret: str) -> str:
        """The text in place of a secret in what the model reads of the workspace, like `[secret:1]`."""
        return self._state.masks.mask(secret)

    @noted
    async def charge(self, usd: Decimal, what: str, *, is_spent: bool = False) -> None:
        """Book money that a tool, or a step, spends, under a name: `await context.charge(price, "search")`.

        Call it before the money is spent: it raises ToolFailed where a budget has no room. It is in the
        ledger as a call of `tool:search`, in the cost of the outcome, and counts for `max_usd`. A tool that
        runs again after a crash is charged once. Money that `is_spent` already is booked where no budget has
        room too; the account of a budget that has nothing left stays as it is.
        """
        await self._calls.charge(usd, what, is_spent=is_spent)

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
        `shape` StructureInvalid where its answer does not fit, even after two corrections. Raises ConfigError
        for a model whose window is too small for one of the tools.
        """
        parts = file_parts(self.task, await self._referred())
        prepared = await self._prepare()
        without = unsent_field(self.agent)
        text = question_below(prepared.request, self.task.payload, prepared.used, without=without)
        question = ChatMessage(role="user", content=text, parts=parts)
        check_window(self.agent_id, prepared, self._state.tools)
        state = self._state
        return await Dialogue(self, state, self._calls, prepared, question, shape, state.tools).answer()

    async def _referred(self) -> dict[str, File]:
        urls = referred_in(self.task.payload)
        if not urls:
            return {}
        result = await self._journal.step("files", {"urls": urls}, lambda: self._read_all(urls), costly=False)
        return dict(zip(urls, files_in(result), strict=True))

    async def _read_all(self, urls: Sequence[str]) -> dict[str, Any]:
        files = [await self._read(url) for url in urls]
        check_size("payload.files", files, self._calls.max_record_bytes)
        return {"files": files}

    async def _read(self, url: str) -> File:
        place = parse_task_file(url)
        if place is None:
            raise InvalidInput(f"{url!r} names no file of a task", field="url")
        runtime, tenant_id = self._state.services.runtime, self.task.tenant_id
        file = await read_file(runtime, *place, tenant_id)
        record, _ = await read_task(runtime, place[0], tenant_id)
        if record.outcome is not None and record.outcome.outside:
            self._journal.read_outside()
        return file

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
                whole = await self.read_file(file)
                check_size("run.attach", [whole], self._calls.max_record_bytes)
                result = {"files": [whole.model_dump(mode="json")]}
                step.finish(result, [ProgressEvent.from_payload(FileAttached.from_payload(whole.facts))])
        attached = files_in(step.result)
        self._calls.attached.add(step.key.path, attached)
        return attached[0]

    @noted
    async def read_file(self, file: File | TaskFile) -> File:
        """A file of another task's outcome, with its bytes; any other as it is. Raises NotFound."""
        if parse_task_file(file.url) is None:
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
        prepared = self._prepared or await self._prepare()
        return await Dialogue(self, self._state, self._calls, prepared, question, shape, None).answer()

    async def _prepare(self) -> PreparedPrompt:
        """Recall memories and the conversation, and fill in the prompt."""
        self._prepared = prepared = await self._journal.step(
            "context",
            {"task_id": self.task.first_task_id},
            self._made_ready,
            shape=PreparedPrompt,
            costly=False,
            tell=PreparedPrompt.events,
        )
        if prepared.outside:
            self._journal.read_outside()
        return prepared

    async def _made_ready(self) -> PreparedPrompt:
        with self._state.time.apart():
            context = partial(self._calls.context, self._journal.inside)
            return await prepare_run(self._state, context, self._calls.totals.now)

    @noted
    async def skills(self) -> str:
        """The names and descriptions of the agent's skills, for instructions that your code writes itself.

        `converse` has them in its prompt without this. A resumed run gets the same text; "" without skills.
        """
        offered = await self._journal.step(
            "skills", {}, self._offered_skills, costly=False, tell=_skills_events
        )
        if offered["outside"]:
            self._journal.read_outside()
        return "\n\n".join(filter(None, (offered["text"], offered["outside"])))

    async def _offered_skills(self) -> dict[str, Any]:
        skills = self._state.services.skills
        offered = NO_SKILLS if skills is None else skills.offered(self.agent_id)
        return offered._asdict()

    @noted
    async def changes(self) -> tuple[EarlierChange, ...]:
        """The changes that earlier attempts at the task have made, and that may be in effect.

        `converse` and `ask` tell the model of them; ask here before code changes something.
        """
        if not self._state.work.taken_over:
            return ()
        earlier = await self._journal.step(
            "changes", {}, lambda: earlier_changes(self._state), shape=EarlierChanges, costly=False
        )
        if earlier.outside:
            self._journal.read_outside()
        return earlier.changes

    @overload
    async def delegate(
        self,
        agent_id: str = "",
        text: str = "",
        *,
        payload: Mapping[str, Any] | None = None,
        **options: Unpack[DelegationOptions],
    ) -> str: ...
    @overload
    async def delegate(
        self,
        agent_id: str = "",
        text: str = "",
        *,
        payload: Mapping[str, Any] | None = None,
        shape: type[AnswerT],
        **options: Unpack[DelegationOptions],
    ) -> AnswerT: ...

    @noted
    async def delegate(
        self,
        agent_id: str = "",
        text: str = "",
        *,
        payload: Mapping[str, Any] | None = None,
        shape: Any = None,
        **options: Any,
    ) -> Any:
        """Give a task to another agent, wait for its outcome without holding a slot, return its answer.

        The agent is named, or chosen by `capability`. `payload` goes beside the text; `thread_id` is the
        conversation that it continues, by default one of its own; `budget_usd` is what it may cost of the
        budgets of this task; `timeout` is how many seconds a step of it may take, `deadline` all of it. The
        agent gets the run's failures, open questions and last progress with it, the constraints of this task,
        and `constraints` and `questions` of yours. The answer is text (JSON where it has no words), or with a
        `shape` an object of that pydantic model, in which the agent's model answers; `dict[str, Any]` gives
        the result as it is, `Outcome` all of the outcome with its files. Raises ToolFailed where that agent
        may not be asked, and DelegationFailed, which is one, where it did not succeed or its answer has
        another shape.
        """
        return await self._delegate(Delegation(agent_id, text, payload=payload, shape=shape, **options))

    @overload
    async def delegate_all(
        self, delegations: Sequence[Delegation[AnswerT]], *, return_exceptions: Literal[False] = False
    ) -> list[AnswerT]: ...
    @overload
    async def delegate_all(
        self, delegations: Sequence[Delegation[AnswerT]], *, return_exceptions: Literal[True]
    ) -> list[AnswerT | BaseException]: ...

    @overload  # of several shapes
    async def delegate_all(
        self, delegations: Sequence[Delegation[Any]], *, return_exceptions: bool = False
    ) -> list[Any]: ...

    @noted
    async def delegate_all(
        self, delegations: Sequence[Delegation[Any]], *, return_exceptions: bool = False
    ) -> list[Any]:
        """Give tasks to other agents side by side, and return their answers in order; see `gather`.

        Raises AgentError for what is no Delegation, before any of them starts.
        """
        for number, delegation in enumerate(delegations):
            if not isinstance(delegation, Delegation):
                raise AgentError(
                    f"run.delegate_all got a {type(delegation).__name__} as its item {number}",
                    remedy='Write Delegation("researcher-agent", "What is a turn?") for each',
                )
        work = [self._delegate(delegation) for delegation in delegations]
        return await self.gather(*work, return_exceptions=return_exceptions)  # type: ignore[call-overload]

    def _begin(self, work: Sequence[Awaitable[Any]]) -> Sequence[Awaitable[Any]]:
        """Begin work in order; delegations that no other code follows are one group of waits."""
        delegations = (inspect.unwrap(Run.delegate).__code__, Run._delegate.__code__)
        group, begun = WaitGroup(), dict[Awaitable[Any], asyncio.Future[Any]]()
        for call in dict.fromkeys(work):
            token = _GROUP.set(group if getattr(call, "cr_code", None) in delegations else None)
            try:
                begun[call] = asyncio.ensure_future(call)
            finally:
                _GROUP.reset(token)
        return [begun[call] for call in work]

    async def _delegate(self, delegation: Delegation[Any]) -> Any:
        answer = await self._journal.wait(
            "delegate",
            delegation.request,
            kind="task",
            subject={"to": delegation.whom},
            group=_GROUP.get(),
            check=lambda: self._state.check_delegation(delegation.whom),
            child=lambda wait_id, identity: self._state.child(
                wait_id, identity, delegation, self._state.knowledge.for_delegate(delegation)
            ),
        )
        outcome = Outcome.model_validate(answer)  # its cost is counted with the journal
        if outcome.outside:
            self._journal.read_outside()
        self._calls.changed |= outcome.changed
        try:
            return delegation.read_answer(outcome)
        except DelegationFailed as error:
            self._state.knowledge.learn_failed(delegation.whom, str(error))
            raise

    @noted
    async def call(self, tool: str, /, **arguments: Any) -> Any:
        """Call a tool of the agent in code, as its model would: checked, bounded, approved, and as a step.

        A person who approves the call may change its arguments.
        Returns its result as plain JSON data; one that is too long for a model is text, whole up to 400,000
        characters. Raises ToolFailed where the tool fails or its approval is denied, AgentError where the
        agent has no such tool.
        """
        return await self._call(tool, json.dumps(arguments, ensure_ascii=False))

    @noted
    async def remember(
        self,
        text: str,
        scope: MemoryScope,
        *,
        kind: MemoryKind = "fact",
        subject: str | None = None,
        expires: timedelta | datetime | None = None,
    ) -> str:
        """Store a memory in a scope; returns what to tell the model.

        It supersedes others of its `subject` that have less trust, or as much and are a week older. It is
        not stored where the run could recall the same. If the run has read text from outside, it is
        recalled only once a person promotes it. After `expires` it is not recalled any more.
        """
        new = NewMemory(text, scope, kind, subject, expires)
        return await remembered(self._state, new, has_asked=self._calls.usage != RunUsage())

    @noted
    async def recall(self, query: str, kind: MemoryKind | None = None) -> str:
        """Recall memories that suit a question: a line for each with its id, or no text where none does."""
        return str(
            await self._journal.step(
                "recall", {"query": query, "kind": kind}, lambda: self._recall(query, kind), costly=False
            )
        )

    async def _recall(self, query: str, kind: MemoryKind | None) -> str:
        now = self._state.services.clock.now()
        return "\n".join([item.line(now) for item in await recalled(self._state, query, kind)])

    @noted
    async def tree(self) -> Tree:
        """The tree of the task and of all that it is delegated with, made at its first use.

        Raises ToolFailed where there is no repository, or the tree that the run has changed is gone, and
        InvalidInput where the task names no repository that is known.
        """
        if self._state.services.trees is None:
            raise ToolFailed("This worker has no trees", remedy="Have its mesh run the part trees")
        task, changing = (
            self.task,
            {f"tool {tool.name}" for tool in self._state.tools.values() if tool.contained},
        )
        has_changed = any(record.get("kind") in changing for record in self._journal.earlier)
        tree = await self._state.services.trees.lease(
            task.tenant_id, task.family_id, task.repository, may_make=not has_changed
        )
        if self.outside:
            tree.note_outside()
        elif tree.may_have_outside:  # from an earlier attempt, or an agent that works beside this one
            self._journal.read_outside()
        return tree

    @noted
    async def activity(self, since: datetime) -> Activity:
        """The activity in the task's tenant since a time, as the event log has it now.

        Call it in a `run.step`: read again, it differs. Reasons and questions of other runs count as text
        from outside. Raises ToolFailed where this worker has no log.
        """
        read_activity = self._state.services.activity
        if read_activity is None:
            raise ToolFailed(
                "This worker has no event log to read",
                remedy="Set reads_log = True in the class of the agent, whose tasks run at the front then",
            )
        report = await read_activity(self.task.tenant_id, since)
        if report.failed or report.waiting.items:  # words of other runs, which may have them from strangers
            self._journal.read_outside()
        return report


def _skills_events(offered: dict[str, Any]) -> list[ProgressEvent]:
    digests = offered["digests"]
    return [ProgressEvent.from_payload(SkillsOffered(skills=digests))] if digests else []
