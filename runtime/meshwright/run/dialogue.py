"""The dialogue of a run with its model: replies and calls of tools, until there is an answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from weakref import ref

from pydantic import BaseModel

from meshwright.core.errors import InvalidInput, MemoryUnavailable, ToolFailed
from meshwright.core.tracing import GenAI
from meshwright.models.errors import ContentRefused, ContextTooLong, ModelRefused
from meshwright.models.port import ChatMessage, ModelReply, ToolCall
from meshwright.models.structure import ShapeT, parse_or_repair
from meshwright.run import replies
from meshwright.run.calls import ModelCalls
from meshwright.run.context import RunContext
from meshwright.run.limits import Limit, Pace, limits_of
from meshwright.run.people import Approvals
from meshwright.run.prepared import PreparedPrompt
from meshwright.run.tool_calls import content_of, seconds_of, tool_events
from meshwright.run.window import ContextWindow
from meshwright.tools.approval import Decision
from meshwright.tools.tool import Tool
from meshwright.work.paths import ProgressEvent


class Dialogues:
    """The dialogues of one run; `run` is the context that tools get."""

    def __init__(self, attempt: RunContext, calls: ModelCalls, run: Any) -> None:
        self.last_answer = ""
        """The last answer that a model gave in a shape, as JSON."""
        self._attempt = attempt
        self._calls = calls
        self._run: Callable[[], Any] = ref(
            run
        )  # which has this: a circle would wait for the garbage collector
        self._limits = limits_of(attempt.services.limits, attempt.agent, attempt.task)
        self._approvals = Approvals(attempt)

    async def answer(
        self,
        question: ChatMessage,
        prepared: PreparedPrompt,
        shape: type[ShapeT] | None,
        tools: Mapping[str, Tool] | None,
    ) -> str | ShapeT:
        """The model's answer to a question: text, or an object of the `shape`; see `Run.converse`."""
        talk = _Dialogue(self._attempt, self._calls, prepared, question, shape, tools, Pace(self._limits))
        while (reply := await talk.reply()).tool_calls and talk.may_call_tools:
            await self._call_tools(reply, talk)
        if talk.limit is not None and shape is None and not reply.content.strip():
            raise talk.limit.error(self._attempt.agent.agent_id)
        if shape is None:
            return reply.content
        answer = await parse_or_repair(shape, reply, talk.messages, talk.repair)
        self.last_answer = answer.model_dump_json(by_alias=True)
        return answer

    async def _call_tools(self, reply: ModelReply, talk: _Dialogue) -> None:
        """Call the tools of a reply, side by side where they may, and add their results in order."""
        results: list[Any] = []
        for calls in self._together(reply.tool_calls):
            if len(calls) == 1:  # in the run's own asyncio task, so that its path stays flat
                results.append(await self._call_tool(calls[0]))
            else:
                results += await self._run().gather(*map(self._call_tool, calls))
        contents = [content_of(result) for result in results]
        self._calls.told.add_results(contents)
        talk.add_results(reply, contents, max(map(seconds_of, results)))

    def _together(self, calls: Sequence[ToolCall]) -> Iterator[list[ToolCall]]:
        """The calls in their order, in groups that run side by side: those of exclusive tools alone."""
        group: list[ToolCall] = []
        for call in calls:
            tool = self._attempt.tools.get(call.name)
            if tool is not None and tool.exclusive:
                yield from ([group] if group else [])
                yield [call]
                group = []
            else:
                group.append(call)
        if group:
            yield group

    async def _call_tool(self, call: ToolCall) -> Any:
        """What came of a call, as the journal has it; a fault of the call is told to the model."""
        tool = self._attempt.tools.get(call.name)
        if tool is None:
            names = ", ".join(self._attempt.tools) or "none"
            return {"value": None, "error": f"there is no tool {call.name!r}; there are {names}"}
        decision = await self._approvals.decide(tool, call.arguments)
        started = time.perf_counter()
        return await self._attempt.journal.step(
            f"tool {call.name}",
            {"arguments": call.arguments},
            lambda: self._run_tool(tool, call, decision),
            repeatable=tool.idempotent,
            tell=lambda result: tool_events(call, result, None if self._has_waited else started),
        )

    @property
    def _has_waited(self) -> bool:
        """Whether the tool that is being called has waited."""
        step = self._attempt.journal.inside
        return step is not None and step.has_waited

    async def _run_tool(self, tool: Tool, call: ToolCall, decision: Decision | None) -> dict[str, Any]:
        attributes = {
            GenAI.OPERATION_NAME: GenAI.EXECUTE_TOOL,
            GenAI.TOOL_NAME: tool.name,
            GenAI.TOOL_CALL_ID: call.id,
            GenAI.AGENT_ID: self._attempt.agent.agent_id,
        }
        started = time.perf_counter()
        result: dict[str, Any] = {"value": None, "error": None}
        tracing, parent = self._attempt.services.tracing, self._attempt.span.traceparent
        with tracing.span(f"execute_tool {tool.name}", parent=parent, attributes=attributes) as span:
            try:
                self._approvals.check(tool, call.arguments, decision)
                result["value"] = await tool.call(call.arguments, self._run())
            except (ToolFailed, InvalidInput, MemoryUnavailable) as error:
                span.fail(error)
                result["error"] = str(error)
        if not self._has_waited:
            result["seconds"] = round(time.perf_counter() - started, 3)
        return result


class _Dialogue:
    """What a run says to the model for one answer: messages, and the tools that it may still call.

    All that it decides by is in the journal, so that a resumed run says the same.
    """

    def __init__(
        self,
        attempt: RunContext,
        calls: ModelCalls,
        prepared: PreparedPrompt,
        question: ChatMessage,
        shape: type[BaseModel] | None,
        tools: Mapping[str, Tool] | None,
        progress: Pace,
    ) -> None:
        self.messages = [ChatMessage(role="system", content=prepared.system), *prepared.history, question]
        self.limit: Limit | None = None
        """The limit that was reached: only an answer will do."""
        self._calls = calls
        self._prepared = prepared
        self._shape = shape
        self._specs = tuple(tool.spec for tool in (tools or {}).values())
        self._has_tools = tools is not None
        self._progress = progress
        self._events: tuple[ProgressEvent, ...] = ()
        self._room = prepared.max_tokens
        self._most_room = max(self._room, prepared.max_output or replies.MAX_ROOM * self._room)
        if prepared.window is not None:
            self._most_room = max(self._room, min(self._most_room, prepared.window // 4))
        self._window = ContextWindow(attempt, calls, prepared, len(self.messages), self._specs)

    @property
    def may_call_tools(self) -> bool:
        """Whether the tools that a reply asks for are called."""
        return self._has_tools and self.limit is None

    async def reply(self) -> ModelReply:
        """The model's next reply: an empty one is asked for again, one that is cut off continued.

        Raises EmptyReply and ReplyCutOff where it stays so. An answer in a shape that is empty or cut off is
        repaired with what else is wrong with it.
        """
        await self._window.fit(self.messages)
        more: list[ChatMessage] = []
        text = ""
        empty = parts = 0
        while True:
            try:
                reply = await self.ask((*self.messages, *more))
            except ContextTooLong:
                self._window.refused()
                if not await self._window.fit(self.messages, is_refused=True):
                    raise
                continue
            if self._shape is not None and not reply.tool_calls:
                return reply
            if replies.is_empty(reply):
                empty += 1
                if empty > replies.MAX_EMPTY:
                    raise replies.unusable(reply, self._prepared, self._room, text)
                more.append(replies.REPLY_WAS_EMPTY)
                continue
            if not replies.is_cut_off(reply) or replies.must_be_whole(reply, self._shape):
                return reply.model_copy(update={"content": replies.joined(text, reply.content)})
            parts += 1
            if parts > replies.MAX_PARTS:
                raise replies.unusable(reply, self._prepared, self._room, text)
            text = replies.joined(text, reply.content)
            more += [reply.message(), replies.CONTINUE]

    async def repair(self, messages: Sequence[ChatMessage]) -> ModelReply:
        """Ask for an answer in the shape again, without tools."""
        self._specs = ()
        return await self.ask(messages)

    async def ask(self, messages: Sequence[ChatMessage]) -> ModelReply:
        """Ask, and where the reply has to be whole and is cut off, ask again with more room for it.

        Where there is no more the model is told to write less. Raises ReplyCutOff where that does not help.
        """
        note: tuple[ChatMessage, ...] = ()
        tries = 0
        while True:
            tries += 1
            try:
                reply = await self._ask((*messages, *note))
            except (ContextTooLong, ContentRefused):
                raise
            except ModelRefused:
                if self._room == self._prepared.max_tokens:
                    raise
                # More than the model may write, as far as anybody can tell.
                self._room = self._most_room = self._prepared.max_tokens
                note = (replies.write_less(self._room),)
                continue
            if not (replies.is_cut_off(reply) and replies.must_be_whole(reply, self._shape)):
                return reply
            if tries >= replies.MAX_TRIES:
                raise replies.unusable(reply, self._prepared, self._room)
            if self._room < self._most_room:
                self._room = min(2 * self._room, self._most_room)
            elif self._shape is not None and not reply.tool_calls:
                return reply
            else:
                note = (replies.write_less(self._room),)

    def add_results(self, reply: ModelReply, contents: Sequence[str], seconds: float) -> None:
        """Add what came of a reply's calls; at a limit only an answer will do."""
        self.messages.append(reply.message())
        for call, content in zip(reply.tool_calls, contents, strict=True):
            self.messages.append(ChatMessage(role="tool", content=content, tool_call_id=call.id))
        self._progress.add_calls(reply.tool_calls, contents, seconds)
        self.limit = self._progress.reached()
        if self.limit is not None:
            reached = {"limit": self.limit.name, "most": self.limit.most, "setting": self.limit.setting}
            self._events = (ProgressEvent("limit.reached", reached),)
            self._specs = ()
            self.messages.append(replies.ANSWER_NOW)

    async def _ask(self, messages: Sequence[ChatMessage]) -> ModelReply:
        """Ask, and once more where a policy held back the answer, since chance often decides that."""
        reply: ModelReply | None = None
        is_again = False
        while reply is None:
            events, self._events = self._events, ()
            digest = self._window.ask(messages)
            try:
                reply = await self._calls.ask(
                    self._prepared,
                    messages,
                    self._specs,
                    self._shape,
                    digest=digest,
                    max_tokens=self._room,
                    events=events,
                )
            except ContentRefused:
                if is_again:
                    raise
                is_again = True
        self._progress.add_reply(reply)
        self._window.learn(reply)
        return reply
