"""The dialogue of a run with its model: replies and calls of tools, until there is an answer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from meshwright.core.errors import InvalidInput, MemoryUnavailable, ToolFailed
from meshwright.core.tracing import GenAI
from meshwright.models.port import ChatMessage, EmptyReply, ModelReply, ToolCall
from meshwright.models.structure import ShapeT, parse_or_repair
from meshwright.run.calls import ModelCalls, cut_off, is_cut_off
from meshwright.run.context import RunContext
from meshwright.run.prepared import PreparedPrompt
from meshwright.run.tool_calls import Repeats, content_of, error_text, tool_events
from meshwright.tools.tool import Tool
from meshwright.work.journal import ProgressEvent

_MAX_EMPTY = 2  # replies in a row that are asked for again
_ANSWER_NOW = "Answer now, with what you have; no more tools can be called."
_NOT_CALLED = "This was not called: the call before it gave the same result again and again."
_REPLY_WAS_EMPTY = "Your reply was empty. Answer now, or call a tool."


class Dialogues:
    """The dialogues of one run; `run` is the context that tools get."""

    def __init__(self, attempt: RunContext, calls: ModelCalls, run: Any) -> None:
        self.last_answer = ""
        """The last answer that a model gave in a shape, as JSON."""
        self.has_waited = False
        """Whether the tool that is being called has waited."""
        self._attempt = attempt
        self._calls = calls
        self._run = run

    async def answer(
        self,
        question: str,
        prepared: PreparedPrompt,
        shape: type[ShapeT] | None,
        tools: Mapping[str, Tool] | None,
    ) -> str | ShapeT:
        """The model's answer to a question: text, or an object of the `shape`; see `Run.converse`."""
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
        self.last_answer = answer.model_dump_json(by_alias=True)
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

    async def _call_tool(self, call: ToolCall, repeats: Repeats) -> str:
        """The result of a call as the model is told it: a fault of the call is told too, not raised."""
        tool = self._attempt.tools.get(call.name)
        if tool is None:
            return error_text(
                f"there is no tool {call.name!r}; there are {', '.join(self._attempt.tools) or 'none'}"
            )
        started = time.perf_counter()
        self.has_waited = False

        def tell(result: dict[str, Any]) -> list[ProgressEvent]:
            events = tool_events(call, result, None if self.has_waited else started)
            if repeats.times(call, content_of(result)) == repeats.most:
                events.append(ProgressEvent("tool.repeated", {"tool": call.name, "times": repeats.most}))
            return events

        result = await self._attempt.journal.step(
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
            GenAI.AGENT_ID: self._attempt.agent.agent_id,
        }
        tracing, parent = self._attempt.services.tracing, self._attempt.span.traceparent
        with tracing.span(f"execute_tool {tool.name}", parent=parent, attributes=attributes) as span:
            try:
                return {"value": await tool.call(call.arguments, self._run), "error": None}
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
