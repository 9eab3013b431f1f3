"""The calls of models that a run makes: each a step of its journal, told, counted, and shown as it comes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

from pydantic import BaseModel

from meshwright import genai
from meshwright.envelope import ActorRef, Record
from meshwright.errors import ModelError
from meshwright.ledger.calls import Call, left
from meshwright.messages import Outcome, Usage
from meshwright.models.port import (
    ChatMessage,
    Model,
    ModelReply,
    ModelRequest,
    OnDelta,
    ReplyCutOff,
    StructureInvalid,
    ToolSpec,
)
from meshwright.models.structure import Way, read_answer, response_schema
from meshwright.run.failure import Ended, Failure
from meshwright.run.services import Services
from meshwright.run.setting import Setting, call_context
from meshwright.run.streaming import Deltas, delta_of
from meshwright.run.told import call_of, model_called
from meshwright.tools.tool import cut
from meshwright.tracing import Span
from meshwright.work import Journal, Work
from meshwright.work.journal import Told

MAX_RAW_CHARS = 4_000  # of an answer that does not fit, in its event
MAX_CUT_CHARS = 100_000  # of an answer that is cut off, in its event


@dataclass(slots=True)
class Spent:
    """What calls of models have cost so far, with those that failed, and delegated tasks.

    The cost is None once nobody knows; `known_usd` is what is known of it. `broken_off` are the calls of
    which no step of the journal tells.
    """

    usage: Usage = field(default_factory=Usage)
    cost_usd: Decimal | None = Decimal(0)
    model: str | None = None
    finish_reason: str | None = None
    broken_off: list[Call] = field(default_factory=list)
    known_usd: Decimal = Decimal(0)
    has_unknown_child: bool = False

    def left_of(self, budget_usd: Decimal | None) -> Decimal | None:
        """What is left of a budget; nothing once a delegated task may have spent all that it was given."""
        if budget_usd is None:
            return None
        return Decimal(0) if self.has_unknown_child else max(Decimal(0), budget_usd - self.known_usd)

    def add(self, call: ModelReply | Call | Outcome) -> None:
        """Count one call, or a delegated task."""
        self.usage = self.usage + call.usage
        before, more = self.cost_usd, call.cost_usd
        self.cost_usd = None if before is None or more is None else before + more
        self.known_usd += more or 0
        if isinstance(call, Outcome):
            self.has_unknown_child = self.has_unknown_child or more is None
            return
        self.model = call.model or self.model
        self.finish_reason = call.finish_reason or self.finish_reason

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the call that ends what is within by an error, where it was told of."""
        try:
            yield
        except BaseException as error:  # cancelled or failed: whatever the call cost is the task's
            call = left(error)
            if call is not None:
                self.add(call)
                self.broken_off.append(call)
            raise


class Asked:
    """A model for one step; `request` is the last that it was asked, of several where it refused others."""

    def __init__(self, model: Model, request: ModelRequest) -> None:
        self.name = model.name
        self.request = request
        self._model = model

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Ask the model."""
        self.request = request
        return await self._model.complete(request, on_delta)

    async def close(self) -> None:
        """Nothing: the model is the mesh's."""


class ModelCalls:
    """The calls of one run; `spent` is what they have cost, replayed ones included."""

    def __init__(
        self, services: Services, agent_id: str, ref: ActorRef, work: Work, journal: Journal, span: Span
    ) -> None:
        self.spent = Spent()
        self._counted: set[int] = set()
        self._services = services
        self._agent_id = agent_id
        self._ref = ref
        self._work = work
        self._journal = journal
        self._span = span

    async def ask(
        self,
        setting: Setting,
        messages: Sequence[ChatMessage],
        specs: tuple[ToolSpec, ...],
        shape: type[BaseModel] | None,
    ) -> ModelReply:
        """Call the model, in a step of the journal. For a `shape` the reply's content is JSON, unchecked.

        Raises ModelError, and the same again when the run is resumed: an agent that went on without an answer
        then stays on its road.
        """
        request = ModelRequest(
            model=setting.model,
            messages=tuple(messages),
            tags=setting.tags,
            user=self._agent_id,
            context=call_context(self._work, self._agent_id, self._journal.step_number + 1),
            tools=specs,
            response_schema=None if shape is None else response_schema(shape),
            temperature=setting.temperature,
            max_tokens=setting.max_tokens,
            timeout_seconds=self._work.task.timeout,
            cache=setting.cache,
        )
        started = time.perf_counter()
        model = Asked(self._services.model, request)

        def tell(ended: Ended) -> list[Told]:
            reply = ended.root
            if isinstance(reply, Failure):  # who accounts for calls has told of it
                return []
            called = model_called(model.request, reply, started)
            return [*called, *tell_misfit(shape, reply), *tell_cut_off(shape, reply)]

        with self.spent.counting():
            ended: Ended = await self._journal.step(
                "model",
                request,
                lambda: self._ended(model, request, setting.structure),
                shape=Ended,
                tell=tell,
            )
        if isinstance(ended.root, Failure):
            self.count(ended.root.call)
            raise ended.root.error
        self.count(ended.root)
        return ended.root

    def count(self, call: ModelReply | Call | Outcome | None) -> None:
        """Count the call of the step that ran last, once; None is one that nobody told of."""
        if call is not None and self._journal.step_number not in self._counted:
            self.spent.add(call)
        self._counted.add(self._journal.step_number)

    async def _ended(self, model: Model, request: ModelRequest, way: Way) -> Ended:
        try:
            return Ended(await self._complete(model, request, way))
        except ModelError as error:
            return Ended(Failure.of(error))

    async def _complete(self, model: Model, request: ModelRequest, way: Way) -> ModelReply:
        attributes = {
            genai.OPERATION_NAME: genai.CHAT,
            genai.REQUEST_MODEL: request.model,
            genai.REQUEST_MAX_TOKENS: request.max_tokens,
            genai.REQUEST_TEMPERATURE: request.temperature,
            genai.AGENT_ID: self._agent_id,
            genai.CONVERSATION_ID: self._work.task.thread_id,
        }
        with self._services.tracing.span(
            f"chat {request.model}", parent=self._span.traceparent, attributes=attributes, kind="client"
        ) as span:
            reply = await self._replied(model, request, way)
            span.set(
                {
                    genai.RESPONSE_MODEL: reply.model,
                    genai.USAGE_INPUT_TOKENS: reply.usage.prompt_tokens,
                    genai.USAGE_OUTPUT_TOKENS: reply.usage.completion_tokens,
                    genai.RESPONSE_FINISH_REASONS: (reply.finish_reason,),
                }
            )
            if self._services.trace_content:
                span.set(
                    {genai.INPUT_MESSAGES: _dump(request.messages), genai.OUTPUT_MESSAGES: reply.content}
                )
            return reply

    async def _replied(self, model: Model, request: ModelRequest, way: Way) -> ModelReply:
        """The model's reply; its text is shown while it is written, unless it is JSON."""
        ways = self._services.ways
        if request.response_schema is not None or not self._services.stream:
            return await ways.complete(model, request, way)
        with Deltas(partial(self._show, request.context.step or 0)) as deltas:
            return await ways.complete(model, request, way, deltas)

    def _show(self, step: int, payload: dict[str, Any]) -> None:
        self._services.host.broadcast(delta_of(self._work, self._ref, step, self._services.clock, payload))

    async def count_earlier(self) -> None:
        """Count the calls and delegated tasks of earlier claims, also those that were broken off.

        To be called before the run: steps that it comes to again are not counted again.
        """
        for record in await self._earlier(self._work.stream):
            call = call_of(record)
            if call is not None:
                self.spent.add(call)
                self._counted.add(record.n // 2)
        for record in await self._earlier(self._work.left_behind):
            for each in record.value["calls"]:
                self.spent.add(Call.model_validate(each))

    async def leave_behind(self) -> None:
        """Note the calls that a stop has broken off, durably: whoever goes on with the task pays for them."""
        if not self.spent.broken_off:
            return
        stream = self._work.left_behind
        calls = [call.model_dump(mode="json") for call in self.spent.broken_off]
        n = len(await self._earlier(stream)) + 1
        await self._services.host.append(Record(self._ref, stream, n, {"calls": calls}))

    async def _earlier(self, stream: str) -> list[Record]:
        """What earlier claims of the attempt have left in a stream."""
        return await self._services.host.records(self._ref, stream) if self._work.journaled else []


def _dump(messages: Sequence[ChatMessage]) -> str:
    return json.dumps([message.model_dump(mode="json") for message in messages], ensure_ascii=False)


def tell_misfit(shape: type[BaseModel] | None, reply: ModelReply) -> list[Told]:
    """What is wrong with a reply that is to be an answer in a shape, and its text; nothing where it fits."""
    if shape is None or reply.tool_calls:
        return []
    try:
        read_answer(shape, reply)
    except StructureInvalid as error:
        raw = cut(error.raw, MAX_RAW_CHARS)
        return [("structure.invalid", {"shape": shape.__name__, "error": error.message, "raw": raw})]
    return []


def is_cut_off(reply: ModelReply, shape: type[BaseModel] | None) -> bool:
    """Whether a reply is no answer, and no call to run, since it ended at `max_tokens`."""
    return reply.finish_reason == "length" and (shape is None or bool(reply.tool_calls))


def cut_off(reply: ModelReply, setting: Setting) -> ReplyCutOff:
    """The error for a reply that is cut off."""
    what = "in a tool call, which was not run" if reply.tool_calls else "before its answer was whole"
    return ReplyCutOff(
        f"{reply.model or setting.model} reached max_tokens ({setting.max_tokens}) {what}",
        remedy="Raise max_tokens in the prompt file; what it wrote is in the task's reply.cut_off event",
    )


def tell_cut_off(shape: type[BaseModel] | None, reply: ModelReply) -> list[Told]:
    """What there is of a reply that is cut off, so that nothing that was paid for is lost."""
    if not is_cut_off(reply, shape):
        return []
    calls = [
        {"tool": call.name, "arguments": cut(call.arguments, MAX_CUT_CHARS)} for call in reply.tool_calls
    ]
    return [("reply.cut_off", {"text": cut(reply.content, MAX_CUT_CHARS), "tool_calls": calls})]
