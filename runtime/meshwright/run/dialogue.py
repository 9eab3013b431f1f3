"""The dialogue of a run with its model: replies and calls of tools, until there is an answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from weakref import ref

from pydantic import BaseModel

from meshwright.core.errors import (
    AgentError,
    InvalidInput,
    MemoryUnavailable,
    MeshError,
    NotFound,
    ToolFailed,
)
from meshwright.core.files import File
from meshwright.core.redaction import redact
from meshwright.core.tracing import TENANT, GenAI
from meshwright.models.errors import ContentRefused, ContextTooLong, ModelRefused
from meshwright.models.port import ChatMessage, ModelReply, ToolCall, ToolSpec
from meshwright.models.structure import ShapeT, parse_or_repair
from meshwright.run.approvals import Approvals
from meshwright.run.calls import ModelCalls
from meshwright.run.context import RunContext
from meshwright.run.files import DELEGATE_TOOL, check_size, files_in, fitting, parts_of_result
from meshwright.run.knowledge import Knowledge
from meshwright.run.limits import Limit, Repeats, reached
from meshwright.run.masks import Masks
from meshwright.run.outputs import Outputs
from meshwright.run.prepared import PreparedPrompt
from meshwright.run.reflection import reflect
from meshwright.run.replies import (
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
from meshwright.run.tool_calls import (
    FailedCall,
    changed_call,
    content_of,
    failed_call,
    is_journaled,
    refused_call,
    seconds_of,
    too_many_calls,
    tool_events,
)
from meshwright.run.window import ContextWindow
from meshwright.tools.approval import Decision
from meshwright.tools.tool import Tool, ToolResult
from meshwright.work.paths import ProgressEvent

_MAX_CHANGE_CHARS = 500  # of the arguments of a call that changes something


class Dialogues:
    """The dialogues of one run; `run` is the context that tools get."""

    def __init__(
        self, attempt: RunContext, calls: ModelCalls, run: Any, masks: Masks, knowledge: Knowledge
    ) -> None:
        self._attempt = attempt
        self._calls = calls
        # A weak reference, since the run has this: a circle would wait for the garbage collector.
        self._run: Callable[[], Any] = ref(run)
        self._approvals = Approvals(attempt, masks)
        self._masks, self._knowledge = masks, knowledge
        self._outputs = Outputs(calls.max_record_bytes)

    async def answer(
        self,
        question: ChatMessage,
        prepared: PreparedPrompt,
        shape: type[ShapeT] | None,
        tools: Mapping[str, Tool] | None,
    ) -> str | ShapeT:
        """The model's answer to a question: text, or an object of the `shape`; see `Run.converse`."""
        talk = _Dialogue(self._attempt, self._calls, prepared, question, shape, tools)
        begins = {"model": talk.request, "shorten": {"messages": len(talk.messages)}}
        self._attempt.journal.join("model", talk.request, begins)
        while (reply := await talk.reply()).tool_calls and talk.may_call_tools:
            await self._call_tools(reply, talk)
        if talk.limit is not None and shape is None and not (reply.content.strip() or reply.files):
            raise talk.limit.error(self._attempt.agent.agent_id, failed=talk.failed_call)
        answer: str | ShapeT = reply.content
        if shape is not None:
            answer = made = await parse_or_repair(shape, reply, talk.messages, talk.repair)
            self._calls.last_answer = made.model_dump_json(by_alias=True)
        if self._attempt.agent.reflects and talk.limit is None and (work := talk.work):
            await reflect(self._attempt, self._calls, (question, *work, reply.message()))
        return answer

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """The result of a tool that code calls; see `Run.call`."""
        tools, agent_id = self._attempt.tools, self._attempt.agent.agent_id
        if name not in tools:
            raise AgentError(
                f"{agent_id} has no tool {name!r}", remedy=f"Call one of {', '.join(tools) or 'none'}"
            )
        call = ToolCall(id="", name=name, arguments=json.dumps(arguments, ensure_ascii=False))
        result = await self._call_tool(call, self._attempt.journal.outside)
        if not is_journaled(result):  # what a person says came of it
            return result
        if result["error"] is not None:
            error = ToolFailed(str(result["error"]))
            error.was_begun = "changed" in result or not tools[name].may_change
            raise error
        return result["value"]

    async def _call_tools(self, reply: ModelReply, talk: _Dialogue) -> None:
        results: list[Any] = []
        outside = self._attempt.journal.outside  # as the model was, which has not read these results yet
        for calls in self._together(reply.tool_calls[: talk.max_calls]):
            if len(calls) == 1:  # in the run's own asyncio task, so that its path stays flat
                results.append(await self._call_tool(calls[0], outside))
            else:
                results += await self._run().gather(*(self._call_tool(call, outside) for call in calls))
        refused = reply.tool_calls[len(results) :]
        results += [refused_call(len(reply.tool_calls), len(results))] * len(refused)
        contents = [content_of(result) for result in results]
        self._calls.sent.add_results(contents)
        parts = [parts_of_result(files_in(result)) for result in results]
        self._offer_outputs(talk)
        talk.add_results(reply, contents, parts, sum(map(seconds_of, results)), len(refused))
        if talk.limit is not None and talk.limit.name == "max_repeats":
            talk.failed_call = failed_call(reply.tool_calls, results, self._attempt.tools)

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

    async def _call_tool(self, call: ToolCall, outside: bool) -> Any:
        """The result of a call, as the journal has it; the model gets a fault of the call."""
        tool = self._attempt.tools.get(call.name)
        asked, decision = await self._approvals.decide(
            call.name, tool, call.arguments, self._run(), outside=outside
        )
        call = call.model_copy(update={"arguments": asked.arguments})
        if tool is None:
            return await self._refuse(call)
        started = time.perf_counter()
        result = await self._attempt.journal.step(
            f"tool {call.name}",
            {"arguments": call.arguments},
            lambda: self._run_tool(tool, call, decision, outside, **changed_call(asked)),
            repeatable=tool.idempotent,
            tell=lambda result: tool_events(call, result, None if self._has_waited else started),
        )
        # Text is of a person: the call was cut off, and is not run again.
        self._calls.changed |= "changed" in result if is_journaled(result) else tool.may_change
        self._outputs.learn(result)
        self._knowledge.learn(tool, call, result)
        self._masks.learn(tool, result, lambda: self._value_of(tool, call.arguments))
        return result

    def _offer_outputs(self, talk: _Dialogue) -> None:
        """Give the model the tool for long results, once there is one; an agent's own of its name stays."""
        tool = self._outputs.tool
        if self._outputs and self._attempt.tools.setdefault(tool.name, tool) is tool:
            talk.offer(tool.spec)

    async def _refuse(self, call: ToolCall) -> Any:
        names = ", ".join(self._attempt.tools) or "none"
        result = {"value": None, "error": f"there is no tool {call.name!r}; there are {names}"}
        request = {"arguments": call.arguments}
        async with self._attempt.journal.open_step(f"tool {call.name}", request, costly=False) as step:
            if not step.is_replayed:
                step.finish(result, tool_events(call, result, None))
        return step.result

    @property
    def _has_waited(self) -> bool:
        step = self._attempt.journal.inside
        return step is not None and step.has_waited

    async def _run_tool(
        self, tool: Tool, call: ToolCall, decision: Decision | None, outside: bool, **known: Any
    ) -> dict[str, Any]:
        attributes = {
            GenAI.OPERATION_NAME: GenAI.EXECUTE_TOOL,
            GenAI.TOOL_NAME: tool.name,
            GenAI.TOOL_TYPE: "function",
            GenAI.TOOL_CALL_ID: call.id,
            GenAI.AGENT_NAME: self._attempt.agent.agent_id,
            GenAI.CONVERSATION_ID: self._attempt.task.thread_id,
            TENANT: self._attempt.task.tenant_id,
        }
        if has_contents := self._attempt.services.tracing.content:
            attributes |= {
                GenAI.TOOL_DESCRIPTION: tool.spec.description,
                GenAI.TOOL_CALL_ARGUMENTS: call.arguments,
            }
        started = time.perf_counter()
        result: dict[str, Any] = {"value": None, "error": None, **known}
        tracing, parent = self._attempt.services.tracing, self._attempt.span.traceparent
        span = tracing.span(f"execute_tool {tool.name}", parent=parent, attributes=attributes)
        with self._attempt.time.apart(), span as span:
            try:
                await self._approvals.check(tool, call.arguments, decision, self._run(), outside=outside)
                if tool.origin == "outside":  # an error of it has words from there too
                    self._attempt.journal.read_outside()
                result |= _change_of(tool, call)
                value = await self._value_of(tool, call.arguments)
                if isinstance(value, ToolResult):
                    result["value"], result["files"] = await self._with_files(tool, value)
                else:
                    result["value"] = value
            except (ToolFailed, InvalidInput, MemoryUnavailable) as error:
                span.fail(error)
                self._note_error(tool, call, decision, result, error)
            except BaseException:  # in the middle of the call: what raises may have changed something before
                self._note_change(result)
                raise
            self._notice_outside()
            self._keep(tool, result)
            if has_contents:
                span.set({GenAI.TOOL_CALL_RESULT: content_of(result)})
        if not self._has_waited:
            result["seconds"] = round(time.perf_counter() - started, 3)
            self._calls.totals.add_tool(result["seconds"])
        return result

    def _note_error(
        self, tool: Tool, call: ToolCall, decision: Decision | None, result: dict[str, Any], error: MeshError
    ) -> None:
        """Note the error of a call. One whose process ended in the middle may have taken effect already."""
        result["error"] = str(error)
        step = self._attempt.journal.inside
        may_have_run = step is not None and step.was_begun and (decision is None or decision.approve)
        if tool.may_change and may_have_run:
            note = f"{tool.name} was interrupted before, and may have taken effect then"
            result |= {"error": f"{error}. {note}", "uncertain": True, **_change_of(tool, call)}
        elif isinstance(error, InvalidInput):  # nothing has run
            result.pop("changed", None)

    def _note_change(self, result: dict[str, Any]) -> None:
        """Note of a call that has no result whether it may have changed something."""
        self._calls.changed |= "changed" in result
        if (step := self._attempt.journal.inside) is not None:
            step.changed = "changed" in result

    def _notice_outside(self) -> None:
        """Notice text from outside in the tree, which another agent may have written during the call."""
        task, trees = self._attempt.task, self._attempt.services.trees
        if trees is not None and trees.have_outside(task.tenant_id, task.family_id):
            self._attempt.journal.read_outside()

    async def _value_of(self, tool: Tool, arguments: str) -> Any:
        return await tool.call(await self._masks.put_back(tool, arguments), self._run())

    def _keep(self, tool: Tool, result: dict[str, Any]) -> None:
        """Make a result fit for the journal: without secrets of the mesh, and whole where it is long."""
        result |= {name: self._masks.hide(result[name]) for name in ("value", "error")}
        self._masks.note(tool, result)
        ours = self._outputs.tool
        if (step := self._attempt.journal.inside) is not None:
            is_offered = self._attempt.tools.get(ours.name, ours) is ours
            self._outputs.keep(tool, result, step.number, is_offered=is_offered)

    async def _with_files(self, tool: Tool, given: ToolResult) -> ToolResult:
        """A result whose files a step can hold; those of an agent that was asked are the outcome's too."""
        most = self._calls.max_record_bytes
        files = fitting([(await self._whole(file), file) for file in given.files], most)
        check_size(tool.name, files, most)
        if tool.name == DELEGATE_TOOL and (step := self._attempt.journal.inside) is not None:
            self._calls.attached.add(step.key.path, files)
        return ToolResult(given.value, tuple(files))

    async def _whole(self, file: File) -> File:
        try:
            return await self._run().read_file(file)
        except NotFound:  # deleted since: what is left is what is said of it
            return file


def _change_of(tool: Tool, call: ToolCall) -> dict[str, Any]:
    """The fields of a result that say, for who takes over, what a call may change."""
    if tool.may_change:
        return {"changed": redact(call.arguments)[:_MAX_CHANGE_CHARS]}
    return {"edited": True} if tool.contained else {}


class _Dialogue:
    """One answer of the model: the messages sent for it, and the tools that it may still call.

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
    ) -> None:
        self.messages = prepared.messages(question)
        self.limit: Limit | None = None
        """The limit that was reached: only an answer will do."""
        self.failed_call: FailedCall | None = None
        """The call that was repeated up to the limit, where it failed."""
        self._calls = calls
        self._prepared = prepared
        self._shape = shape
        self._specs = tuple(tool.spec for tool in (tools or {}).values())
        self._has_tools = tools is not None
        self.request = {
            "ask": None if self._has_tools else question.content,
            "shape": None if shape is None else shape.__name__,
        }
        """The request of the agent's code: its question, or the task where tools may be called."""
        self.max_calls = prepared.max_calls
        """How many calls of a reply run: the rest are answered as refused, also when the run is resumed."""
        self._totals = prepared.totals
        self._repeats = Repeats()
        self._begins = True
        self._events: tuple[ProgressEvent, ...] = ()
        self._room = prepared.max_tokens
        self._most_room = max(self._room, prepared.max_output or MAX_ROOM * self._room)
        if prepared.window is not None:
            self._most_room = max(self._room, min(self._most_room, prepared.window // 4))
        self._head = len(self.messages)
        self._window = ContextWindow(attempt, calls, prepared, self._head, self._specs)
        if self._has_tools:
            self._stop_at(
                reached((limit for limit in calls.limits if limit.name == "max_steps"), self._totals)
            )

    @property
    def work(self) -> list[ChatMessage]:
        """The calls of tools so far, and their results."""
        return self.messages[self._head :]

    @property
    def may_call_tools(self) -> bool:
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
            if parts > MAX_PARTS:
                raise unusable(reply, self._prepared, self._room, text)
            text = joined(text, reply.content)
            more += [reply.message(), CONTINUE]

    async def repair(self, messages: Sequence[ChatMessage]) -> ModelReply:
        self._specs = ()
        return await self.ask(messages)

    async def ask(self, messages: Sequence[ChatMessage]) -> ModelReply:
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
        known = {"events": self._events, "begins": self._begins, "max_tokens": self._room}
        self._events, self._begins = (), False
        self._window.ask(messages)
        return {**known, "asked": self.request}

    def offer(self, spec: ToolSpec) -> None:
        """Let the model call one more tool."""
        if spec not in self._specs:
            self._specs = (*self._specs, spec)

    def add_results(
        self,
        reply: ModelReply,
        contents: Sequence[str],
        parts: Sequence[tuple[dict[str, Any], ...]],
        seconds: float,
        refused: int,
    ) -> None:
        """Add the results of a reply's calls: text and parts of each. At a limit only an answer will do.

        So many of them were `refused`, since the reply had too many.
        """
        self.messages.append(reply.message())
        for call, content, shown in zip(reply.tool_calls, contents, parts, strict=True):
            result = ChatMessage(role="tool", content=content, parts=shown, tool_call_id=call.id)
            self.messages.append(result)
        counted = {**self._totals, "max_repeats": self._repeats.add(reply.tool_calls, contents)}
        counted["max_seconds"] = counted.get("max_seconds", 0.0) + seconds
        self._stop_at(reached(self._calls.limits, counted))
        if refused:
            self._events = (*self._events, too_many_calls(self.max_calls, refused))

    def _stop_at(self, limit: Limit | None) -> None:
        if limit is not None:
            self.limit, self._calls.limit = limit, limit.name
            self._events = (limit.event("tools"),)
            self._specs = ()
            self.messages.append(ANSWER_NOW)
