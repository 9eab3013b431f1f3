"""The dialogue of a run with its model: replies and calls of tools, until there is an answer.

After it, at most one lesson for later runs, by one call of the compression model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Generic, NamedTuple

from meshwright.agents.run.calls import ModelCalls
from meshwright.agents.run.files import files_in, parts_of_result
from meshwright.agents.run.limits import Limit, Repeats, reached
from meshwright.agents.run.memories import NewMemory, remembered
from meshwright.agents.run.preparation import PreparedPrompt
from meshwright.agents.run.replies import (
    ANSWER_NOW,
    CONTINUE,
    MAX_EMPTY,
    MAX_PARTS,
    MAX_ROOM,
    MAX_TRIES,
    REPLY_WAS_EMPTY,
    is_cut_off,
    is_empty,
    joined,
    must_be_whole,
    unusable,
    write_less,
)
from meshwright.agents.run.state import RunState
from meshwright.agents.run.tool_calls import (
    FailedCall,
    failed_call,
    read_seconds,
    refused_call,
    render_content,
    too_many_calls,
)
from meshwright.agents.run.tool_chain import call_tool
from meshwright.agents.run.window import ContextWindow, material
from meshwright.agents.tools.tool import Tool
from meshwright.core.errors import MeshError
from meshwright.engine.work.records import ProgressEvent
from meshwright.models.errors import ContentRefused, ContextTooLong, ModelRefused
from meshwright.models.port import ChatMessage, ModelReply, ToolCall
from meshwright.models.structure import ShapeT, parse_or_repair
from meshwright.models.written import WrittenMessages


class _CalledTool(NamedTuple):
    """A call of a reply with its result, and the text of that for the model."""

    call: ToolCall
    result: Any
    content: str

    @property
    def message(self) -> ChatMessage:
        """The result as a message."""
        parts = parts_of_result(files_in(self.result))
        return ChatMessage(role="tool", content=self.content, parts=parts, tool_call_id=self.call.id)


class Dialogue(Generic[ShapeT]):
    """One answer of the model: the messages sent for it, and the tools that it may still call.

    All that it decides by is in the journal, so that a resumed run says the same. `run` is the context that
    tools get.
    """

    def __init__(
        self,
        run: Any,
        state: RunState,
        calls: ModelCalls,
        prepared: PreparedPrompt,
        question: ChatMessage,
        shape: type[ShapeT] | None,
        tools: Mapping[str, Tool] | None,
    ) -> None:
        self._run, self._state, self._calls = run, state, calls
        self._prepared, self._question, self._shape = prepared, question, shape
        self._messages = prepared.messages(question, has_tools=tools is not None)
        self._limit: Limit | None = None
        """The limit that was reached: only an answer will do."""
        self._failed_call: FailedCall | None = None
        """The call that was repeated up to the limit, where it failed."""
        self._specs = tuple(tool.spec for tool in (tools or {}).values())
        self._has_tools = tools is not None
        self._request = {
            "ask": None if self._has_tools else question.content,
            "shape": None if shape is None else shape.__name__,
        }
        """The request of the agent's code: its question, or the task where tools may be called."""
        self._totals = prepared.totals
        self._begins = True
        self._events: tuple[ProgressEvent, ...] = ()
        self._room = prepared.max_tokens
        self._most_room = max(self._room, prepared.max_output or MAX_ROOM * self._room)
        if prepared.window is not None:
            self._most_room = max(self._room, min(self._most_room, prepared.window // 4))
        self._head = len(self._messages)
        self._written = WrittenMessages() if self._has_tools else None
        """The messages as earlier calls wrote them. None where one call is usual."""
        self._window = ContextWindow(state, calls, prepared, self._head, self._specs)
        if self._has_tools:
            self._stop_at(
                reached((limit for limit in calls.limits if limit.name == "max_steps"), self._totals)
            )

    @cached_property
    def _repeats(self) -> Repeats:
        return Repeats()

    async def answer(self) -> str | ShapeT:
        """The model's answer: text, or an object of the shape; see `Run.converse`."""
        shape = self._shape
        begins = {"model": self._request, "shorten": {"messages": len(self._messages)}}
        self._state.journal.join("model", self._request, begins)
        while (reply := await self._reply()).tool_calls and self._has_tools and self._limit is None:
            await self._call_tools(reply)
        if self._limit is not None and shape is None and not (reply.content.strip() or reply.files):
            raise self._limit.error(self._state.agent.agent_id, failed=self._failed_call)
        answer: str | ShapeT = reply.content
        if shape is not None:
            answer = shaped = await parse_or_repair(shape, reply, self._messages, self._repair)
            self._calls.last_answer = shaped.model_dump_json(by_alias=True)
        work = self._messages[self._head :]
        if self._state.agent.reflects and self._limit is None and work:
            await reflect(self._state, self._calls, (self._question, *work, reply.message()))
        return answer

    async def _call_tools(self, reply: ModelReply) -> None:
        """Call the tools of a reply; the calls over its limit are refused, also when the run is resumed."""
        results: list[Any] = []
        state, max_calls = self._state, self._prepared.max_calls
        call = partial(call_tool, self._run, state, self._calls)
        outside = state.journal.outside  # as the model was, which has not read these results yet
        for group in _side_by_side(reply.tool_calls[:max_calls], state.tools):
            if len(group) == 1:  # in the run's own asyncio task, so that its path stays flat
                results.append(await call(group[0], outside=outside))
            else:
                results += await self._run.gather(*(call(one, outside=outside) for one in group))
        refused = len(reply.tool_calls) - len(results)
        results += [refused_call(len(reply.tool_calls), len(results))] * refused
        called = [
            _CalledTool(tool_call, result, render_content(result))
            for tool_call, result in zip(reply.tool_calls, results, strict=True)
        ]
        self._calls.sent.add_results([tool.content for tool in called])
        self._offer_outputs()
        self._add_results(reply, called)
        if refused:
            self._events = (*self._events, too_many_calls(max_calls, refused))
        if self._limit is not None and self._limit.name == "max_repeats":
            self._failed_call = failed_call(reply.tool_calls, results, state.tools)

    def _offer_outputs(self) -> None:
        """Give the model the tool for long results, once there is one; an agent's own of its name stays."""
        outputs, tools = self._state.outputs, self._state.tools
        tool = outputs.tool
        if outputs and tools.setdefault(tool.name, tool) is tool and tool.spec not in self._specs:
            self._specs = (*self._specs, tool.spec)

    def _add_results(self, reply: ModelReply, called: Sequence[_CalledTool]) -> None:
        """Add the results of a reply's calls as messages. At a limit only an answer will do."""
        self._messages += [reply.message(), *(tool.message for tool in called)]
        contents = [tool.content for tool in called]
        counted = {**self._totals, "max_repeats": self._repeats.add(reply.tool_calls, contents)}
        seconds = sum(read_seconds(tool.result) for tool in called)
        counted["max_seconds"] = counted.get("max_seconds", 0.0) + seconds
        self._stop_at(reached(self._calls.limits, counted))

    async def _reply(self) -> ModelReply:
        """The model's next reply: an empty one is asked for again, one that is cut off continued.

        Raises EmptyReply and ReplyCutOff where it stays so. An answer in a shape that is empty or cut off is
        repaired with what else is wrong with it.
        """
        await self._window.fit(self._messages)
        more: list[ChatMessage] = []
        text = ""
        empty = parts = 0
        while True:
            try:
                reply = await self._ask((*self._messages, *more))
            except ContextTooLong:
                self._window.refused()
                if not await self._window.fit(self._messages, is_refused=True):
                    raise
                continue
            if self._shape is not None and not reply.tool_calls:
                return reply
            if is_empty(reply):
                empty += 1
                if empty > MAX_EMPTY:
                    raise unusable(reply, self._prepared, self._room, text)
                more.append(REPLY_WAS_EMPTY)
                continue
            if not is_cut_off(reply) or must_be_whole(reply, self._shape):
                whole = {"content": joined(text, reply.content)}
                return reply.model_copy(update=whole) if text else reply
            parts += 1
            longer = joined(text, reply.content)
            # A model that writes the same again would do so each time, at the price of the whole prompt.
            if parts > MAX_PARTS or longer == text:
                raise unusable(reply, self._prepared, self._room, text)
            text = longer
            more += [reply.message(), CONTINUE]

    async def _repair(self, messages: Sequence[ChatMessage]) -> ModelReply:
        self._specs = ()
        return await self._ask(messages)

    async def _ask(self, messages: Sequence[ChatMessage]) -> ModelReply:
        """Ask, and where the reply has to be whole and is cut off, ask again with more room for it.

        At the most the model is asked to write less. Raises ReplyCutOff where that does not help. A reply
        that a policy held back is asked for once more, since chance often decides that.
        """
        note: tuple[ChatMessage, ...] = ()
        tries, is_again = 0, False
        while True:
            tries += not is_again
            try:
                reply, self._totals = await self._calls.ask(
                    self._prepared, sent := (*messages, *note), self._specs, self._shape, **self._next(sent)
                )
            except ContextTooLong:
                raise
            except ContentRefused:
                if is_again:
                    raise
                is_again = True
                continue
            except ModelRefused:
                if self._room == self._prepared.max_tokens:
                    raise
                # More than the model may write, as far as can be known.
                self._room = self._most_room = self._prepared.max_tokens
                note, is_again = (write_less(self._room),), False
                continue
            self._window.learn(reply)
            is_again = False
            if not (is_cut_off(reply) and must_be_whole(reply, self._shape)):
                return reply
            if tries >= MAX_TRIES:
                raise unusable(reply, self._prepared, self._room)
            if (more := self._more_room(reply)) is None:
                return reply
            note = more

    def _more_room(self, reply: ModelReply) -> tuple[ChatMessage, ...] | None:
        """Give the next reply more room, or ask for less; None for an answer that is repaired instead."""
        if self._room < self._most_room:
            self._room = min(2 * self._room, self._most_room)
            return ()
        if self._shape is not None and not reply.tool_calls:
            return None
        return (write_less(self._room),)

    def _next(self, messages: Sequence[ChatMessage]) -> dict[str, Any]:
        """The arguments of the next call besides the messages; events and the begin are of one call."""
        arguments = {"events": self._events, "begins": self._begins, "max_tokens": self._room}
        self._events, self._begins = (), False
        self._window.ask(messages)
        return {**arguments, "question": self._request, "written": self._written}

    def _stop_at(self, limit: Limit | None) -> None:
        if limit is not None:
            self._limit, self._calls.limit = limit, limit.name
            self._events = (limit.event("tools"),)
            self._specs = ()
            self._messages.append(ANSWER_NOW)


def _side_by_side(calls: Sequence[ToolCall], tools: Mapping[str, Tool]) -> Iterator[list[ToolCall]]:
    """The calls in their order, in groups that run side by side: those of exclusive tools alone."""
    group: list[ToolCall] = []
    for call in calls:
        tool = tools.get(call.name)
        if tool is not None and tool.exclusive:
            yield from ([group] if group else [])
            yield [call]
            group = []
        else:
            group.append(call)
    if group:
        yield group


_MATERIAL_TOKENS = 4_000
_MAX_TOKENS = 200
_MAX_CHARS = 600


async def reflect(state: RunState, calls: ModelCalls, messages: Sequence[ChatMessage]) -> None:
    """Remember one lesson of a run for its agent, where a model finds one; a step of the journal.

    It is quarantined where the run has read text from outside. A run succeeds without its lesson.
    """
    await state.journal.step("reflect", {}, lambda: _reflected(state, calls, messages))


async def _reflected(
    state: RunState, calls: ModelCalls, messages: Sequence[ChatMessage]
) -> dict[str, str | None]:
    """The lesson and what came of it, for people who look at the step."""
    lesson, error = await state.services.context.reflect(
        material(messages, _MATERIAL_TOKENS),
        max_tokens=_MAX_TOKENS,
        context=calls.context(state.journal.inside),
    )
    if lesson is None:
        return {"lesson": None, "result": error}
    if len(lesson) > _MAX_CHARS:
        return {"lesson": None, "result": f"it has {len(lesson):,} characters"}
    try:
        result = await remembered(state, NewMemory(lesson, "agent", "procedure"), has_asked=True)
    except MeshError as failed:  # as of a database that is away: the answer matters more
        result = str(failed)
    return {"lesson": lesson, "result": result}
