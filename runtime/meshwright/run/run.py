"""One agent's work on one task: context, then the model and its tools, each step journaled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, overload

from meshwright.context.memory import MemoryItem
from meshwright.core.errors import AgentError, DelegationFailed
from meshwright.core.messages import MemoryScope, Outcome, derived_id
from meshwright.models.port import ChatMessage
from meshwright.models.structure import ShapeT
from meshwright.run.author import Calls, awaited, noted
from meshwright.run.calls import ModelCalls, RunUsage
from meshwright.run.context import RunContext
from meshwright.run.dialogue import Dialogues
from meshwright.run.files import parts_of
from meshwright.run.prepared import PreparedPrompt, prepare_run, question_of
from meshwright.work import Suspended
from meshwright.work.conversation import Message


class Run:
    """The work of one agent on one task. Tools get it as their context."""

    def __init__(self, attempt: RunContext) -> None:
        self.agent = attempt.agent
        self.task = attempt.task
        """The task being worked on."""
        self.tools = attempt.tools
        self.calls = Calls()
        self._attempt = attempt
        self._journal = attempt.journal
        self._calls = ModelCalls(attempt)
        self._asyncio_task = asyncio.current_task()
        self._dialogues = Dialogues(attempt, self._calls, self)
        self._prepared: PreparedPrompt | None = None

    @property
    def usage(self) -> RunUsage:
        """What its calls of models and its delegated tasks have cost so far, earlier claims included."""
        return self._calls.usage

    @property
    def suspended(self) -> Suspended | None:
        """What unwinds the run, once it has to wait."""
        return self._journal.suspended

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
        answer, without tools. Raises LimitReached where it then gives none, EmptyReply and ReplyCutOff for a
        reply that stays empty or cut off; for a `shape` StructureInvalid where it does not answer in it, also
        when told twice what is wrong.
        """
        question = ChatMessage(
            role="user", content=question_of(self.agent, self.task), parts=parts_of(self.task)
        )
        return await self._dialogues.answer(question, await self.prepare(), shape, self.tools)

    @overload
    async def ask(self, prompt: str) -> str: ...
    @overload
    async def ask(self, prompt: str, *, shape: type[ShapeT]) -> ShapeT: ...

    @noted
    async def ask(self, prompt: str, *, shape: type[ShapeT] | None = None) -> str | ShapeT:
        """Ask the model once, with the agent's prompt file and context and without tools.

        Raises StructureInvalid where it does not answer in the `shape`, also when told twice what is wrong;
        EmptyReply and ReplyCutOff as `converse` does.
        """
        question = ChatMessage(role="user", content=prompt)
        return await self._dialogues.answer(question, self._prepared or await self.prepare(), shape, None)

    @noted
    async def prepare(self) -> PreparedPrompt:
        """Recall memories and the conversation, and fill in the prompt."""
        number = self._journal.step_number + 1
        self._prepared = prepared = await self._journal.step(
            "context",
            {"task_id": self.task.task_id},
            lambda: prepare_run(self._attempt, number, self._calls.record),
            shape=PreparedPrompt,
            costly=False,
            tell=PreparedPrompt.events,
        )
        return prepared

    @noted
    async def step(self, name: str, run: Callable[[], Awaitable[Any]], *, repeatable: bool = True) -> Any:
        """Run an async function once, however often the work is resumed; the result is plain JSON data.

        With `repeatable=False` it is never run a second time where it may have happened already. Raises
        AgentError where `run` is no async function, or gives what JSON cannot hold.
        """
        return await self._journal.step(name, {}, lambda: awaited(run, name), repeatable=repeatable)

    @noted
    async def delegate(self, agent_id: str, text: str) -> str:
        """Give a task to another agent, wait for its outcome without holding a slot, return its answer.

        An answer without words comes as JSON. Raises ToolFailed where that agent may not be asked, and
        DelegationFailed, which is one, where it did not succeed; AgentError within asyncio.gather, a
        TaskGroup or any other asyncio task.
        """
        if asyncio.current_task() is not self._asyncio_task:
            raise AgentError(
                "run.delegate is called in an asyncio task of its own, by gather, TaskGroup, create_task or "
                "wait_for; a run waits for one agent at a time",
                remedy="Await each delegation before the next, in `run` itself",
            )
        self._attempt.check_delegation(agent_id)
        left = self.usage.left_of(self.task.budget_usd)
        child = self._attempt.child(self._journal.step_number + 1, agent_id, text, left)
        answer = await self._journal.wait("delegate", {"agent_id": agent_id, "text": text}, child)
        outcome = Outcome.model_validate(answer)  # its cost is counted with the journal
        self._dialogues.has_waited = True
        if not outcome.success:
            reason = outcome.error.message if outcome.error is not None else outcome.status
            raise DelegationFailed(f"{agent_id} did not succeed: {reason}")
        result = outcome.result or {}
        if not result or "text" in result:
            return result.get("text", "")
        return json.dumps(result, ensure_ascii=False)

    @noted
    async def remember(self, text: str, scope: MemoryScope) -> str:
        """Store a memory in a scope."""
        services, stream = self._attempt.services, self._attempt.work.stream
        item = MemoryItem(
            memory_id=derived_id(stream, str(self._journal.step_number), scope, text),
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

    async def confirm(self) -> None:
        """Return once all that the run has journaled is durable."""
        await self._journal.confirm()

    def history(self, answer: str) -> tuple[Message, ...]:
        """What the conversation is to keep of this run; nothing where nobody asked for a thread.

        An answer without words is the last that a model gave in a shape.
        """
        if self.task.thread_id == self.task.task_id:
            return ()
        ids = {"task_id": self.task.task_id, "agent_id": self.agent_id}
        asked, answered = question_of(self.agent, self.task), answer or self._dialogues.last_answer
        return (
            Message(role="user", content=asked, **ids),
            Message(role="assistant", content=answered, **ids),
        )
