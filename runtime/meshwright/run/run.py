"""One agent's work on one task: context, then the model and its tools, each step journaled."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, overload

from pydantic import BaseModel

from meshwright.context.memory import MemoryItem
from meshwright.core.errors import AgentError, DelegationFailed, InvalidInput, MemoryUnavailable, ToolFailed
from meshwright.core.messages import MemoryScope, Outcome, derived_id
from meshwright.core.tracing import GenAI
from meshwright.models.port import ChatMessage, EmptyReply, ModelReply, ToolCall
from meshwright.models.structure import ShapeT, parse_or_repair
from meshwright.run.author import Calls, awaited, noted
from meshwright.run.calls import ModelCalls, RunUsage, cut_off, is_cut_off
from meshwright.run.context import RunContext
from meshwright.run.prepared import PreparedPrompt, prepare_run, question_of, summary_of
from meshwright.run.tool_calls import Repeats, content_of, error_text, tool_events
from meshwright.tools.tool import Tool
from meshwright.work import Suspended
from meshwright.work.journal import ProgressEvent

_MAX_EMPTY = 2  # replies in a row that are asked for again
_ANSWER_NOW = "Answer now, with what you have; no more tools can be called."
_NOT_CALLED = "This was not called: the call before it gave the same result again and again."
_REPLY_WAS_EMPTY = "Your reply was empty. Answer now, or call a tool."


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
        self._has_waited = False
        self._prepared: PreparedPrompt | None = None
        self._answer = ""

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

        It stops when the same call gives the same result `max_repeats` times in a row, or after `max_steps`
        calls of the model: it is then asked once more, without tools. Raises ToolFailed where even so it does
        not answer, EmptyReply for replies without anything, and ReplyCutOff for one that ends at
        `max_tokens`; for a `shape` StructureInvalid where it does not answer in it, also when told twice what
        is wrong.
        """
        question = question_of(self.agent, self.task)
        return await self._answer_to(question, await self.prepare(), shape, self.tools)

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
        return await self._answer_to(prompt, self._prepared or await self.prepare(), shape, None)

    async def _answer_to(
        self,
        question: str,
        prepared: PreparedPrompt,
        shape: type[ShapeT] | None,
        tools: Mapping[str, Tool] | None,
    ) -> str | ShapeT:
        services = self._attempt.services
        talk = _Dialogue(prepared, question, shape, tools, services.max_steps, Repeats(services.max_repeats))
        while not talk.is_over(reply := await self._calls.ask(prepared, talk.messages, talk.specs, shape)):
            if reply.tool_calls:
                talk.end_turn(stuck=await self._call_tools(reply, talk))
        if shape is None:
            return reply.content

        def ask(messages: Sequence[ChatMessage]) -> Awaitable[ModelReply]:
            return self._calls.ask(prepared, messages, (), shape)

        answer = await parse_or_repair(shape, reply, talk.messages, ask)
        self._answer = answer.model_dump_json(by_alias=True)
        return answer

    async def _call_tools(self, reply: ModelReply, talk: _Dialogue) -> bool:
        """Call tools one after another, and add the results; returns whether they lead nowhere any more."""
        talk.messages.append(reply.message())
        stuck = False
        for call in reply.tool_calls:
            content = _NOT_CALLED if stuck else await self._call_tool(call, talk.repeats)
            stuck = stuck or talk.repeats.add(call, content)
            talk.messages.append(ChatMessage(role="tool", content=content, tool_call_id=call.id))
        return stuck

    @noted
    async def prepare(self) -> PreparedPrompt:
        """Recall memories and history, compress them into the context, and fill in the prompt."""
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
        self._has_waited = True
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

    def history(self, answer: str) -> tuple[dict[str, Any], ...]:
        """What the thread is to keep of this run; nothing where nobody asked for a thread.

        An answer without words is the last that a model gave in a shape.
        """
        if self.task.thread_id == self.task.task_id:
            return ()
        return (
            {"role": "user", "content": summary_of(self.task), "task_id": self.task.task_id},
            {"role": "assistant", "content": answer or self._answer, "task_id": self.task.task_id},
        )

    # Tools

    async def _call_tool(self, call: ToolCall, repeats: Repeats) -> str:
        """The result of a call as the model is told it: a fault of the call is told too, not raised."""
        tool = self.tools.get(call.name)
        if tool is None:
            return error_text(f"there is no tool {call.name!r}; there are {', '.join(self.tools) or 'none'}")
        started = time.perf_counter()
        self._has_waited = False

        def tell(result: dict[str, Any]) -> list[ProgressEvent]:
            events = tool_events(call, result, None if self._has_waited else started)
            if repeats.times(call, content_of(result)) == repeats.most:
                events.append(ProgressEvent("tool.repeated", {"tool": call.name, "times": repeats.most}))
            return events

        result = await self._journal.step(
            f"tool {call.name}",
            {"arguments": call.arguments},
            lambda: self._run_tool(tool, call),
            repeatable=tool.idempotent,
            tell=tell,
        )
        return content_of(result)

    async def _run_tool(self, tool: Tool, call: ToolCall) -> dict[str, Any]:
        attributes = {
            GenAI.OPERATION_NAME: GenAI.EXECUTE_TOOL,
            GenAI.TOOL_NAME: tool.name,
            GenAI.TOOL_CALL_ID: call.id,
            GenAI.AGENT_ID: self.agent_id,
        }
        tracing, parent = self._attempt.services.tracing, self._attempt.span.traceparent
        with tracing.span(f"execute_tool {tool.name}", parent=parent, attributes=attributes) as span:
            try:
                return {"value": await tool.call(call.arguments, self), "error": None}
            except (ToolFailed, InvalidInput, MemoryUnavailable) as error:
                span.fail(error)
                return {"value": None, "error": str(error)}


class _Dialogue:
    """What a run says to the model for one answer: messages, and the tools that it may still call."""

    def __init__(
        self,
        prepared: PreparedPrompt,
        question: str,
        shape: type[BaseModel] | None,
        tools: Mapping[str, Tool] | None,
        max_steps: int,
        repeats: Repeats,
    ) -> None:
        self.prepared = prepared
        self.messages = [
            ChatMessage(role="system", content=prepared.system),
            ChatMessage(role="user", content=question),
        ]
        self.specs = tuple(tool.spec for tool in (tools or {}).values())
        self.repeats = repeats
        self._shape = shape
        self._may_call = tools is not None
        self._turns_left = max_steps
        self._empty = 0
        self._limit = ""

    def is_over(self, reply: ModelReply) -> bool:
        """Whether a reply is the answer; an empty one is to be asked for again.

        Raises ReplyCutOff and EmptyReply, and ToolFailed for no answer without tools. An answer in a shape
        that is empty or cut off is repaired with what else is wrong with it.
        """
        if is_cut_off(reply, self._shape):
            raise cut_off(reply, self.prepared)
        if not (reply.tool_calls or reply.content.strip() or self._shape is not None):
            self._ask_again(reply)
            return False
        self._empty = 0
        if self._limit and not reply.content and self._shape is None:
            raise ToolFailed(
                "the model calls tools and never answers",
                remedy=f"Raise {self._limit}, or say in its prompt when to stop",
            )
        return bool(self._limit) or not (reply.tool_calls and self._may_call)

    def end_turn(self, *, stuck: bool) -> None:
        """Count a turn of tools; after the last, or where they lead nowhere, only an answer will do."""
        self._turns_left -= 1
        if stuck or not self._turns_left:
            self._limit = "max_repeats" if stuck else "max_steps"
            self.specs = ()
            self.messages.append(ChatMessage(role="user", content=_ANSWER_NOW))

    def _ask_again(self, reply: ModelReply) -> None:
        self._empty += 1
        if self._empty > _MAX_EMPTY:
            model = reply.model or self.prepared.model
            raise EmptyReply(
                f"{model} gave neither text nor a tool call, {self._empty} times",
                remedy="Raise max_tokens in the prompt file, since reasoning counts, or name another model",
            )
        self.messages.append(ChatMessage(role="user", content=_REPLY_WAS_EMPTY))
