"""The calls of models that a run makes: each a step of its journal, counted, and streamed as it comes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

from pydantic import BaseModel, RootModel

from meshwright import genai
from meshwright.envelope import ActorRef
from meshwright.errors import ModelError
from meshwright.messages import Outcome, Plain, Usage
from meshwright.models.port import (
    MODEL_CALLED,
    Call,
    ChatMessage,
    ModelReply,
    ModelRequest,
    ReplyCutOff,
    StructureInvalid,
    ToolSpec,
)
from meshwright.models.structure import read_answer, response_schema
from meshwright.run.services import Services
from meshwright.run.setting import Setting, call_context
from meshwright.run.streaming import Deltas, delta_of
from meshwright.tools.tool import cut
from meshwright.tracing import Span
from meshwright.work import Journal, Work
from meshwright.work.journal import ProgressEvent

_MAX_RAW_CHARS = 4_000  # of an answer that does not fit, in its event
_MAX_CUT_CHARS = 100_000  # of an answer that is cut off, in its event
_COUNTED = {"model", "usage", "cost_usd", "finish_reason"}


@dataclass(slots=True)
class RunUsage:
    """What calls of models have cost so far, with those that failed, and delegated tasks.

    The cost is None once nobody knows; `known_usd` is what is known of it.
    """

    usage: Usage = field(default_factory=Usage)
    cost_usd: Decimal | None = Decimal(0)
    model: str | None = None
    finish_reason: str | None = None
    known_usd: Decimal = Decimal(0)
    has_unknown_child: bool = False

    def left_of(self, budget_usd: Decimal | None) -> Decimal | None:
        """What is left of a budget; nothing once a delegated task may have spent all that it was given."""
        if budget_usd is None:
            return None
        return Decimal(0) if self.has_unknown_child else max(Decimal(0), budget_usd - self.known_usd)

    def add(self, call: Call | Outcome) -> None:
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

    def add_record(self, value: Any) -> None:
        """Count what a record of the journal says of calls, or of a delegated task."""
        match value:
            case {"calls": calls}:
                pass
            case {"kind": "delegate", "result": {"task_id": _, "status": _, "completed_at": _} as outcome}:
                return self.add(Outcome.model_validate(outcome))
            # Journals from before steps had `calls`:
            case {"kind": "model", "result": {"usage": _} as call}:
                calls = [call]
            case {"kind": "model", "result": {"call": dict(call)}}:
                calls = [call]
            case {"kind": "context", "result": {"compression": dict(call)}}:
                calls = [call]
            case _:
                return
        for call in calls:
            self.add(Call.model_validate({name: call[name] for name in _COUNTED & call.keys()}))


class RecordedError(Plain):
    """A ModelError as a journal keeps it: its class by name, its message, and other plain fields."""

    failed: str
    message: str
    known: dict[str, Any]

    @classmethod
    def of(cls, error: ModelError) -> RecordedError:
        """Record an error."""
        known = {name: value for name, value in vars(error).items() if name != "message"}
        plain = {name: value for name, value in known.items() if isinstance(value, str | int | float | None)}
        return cls(failed=error.code, message=error.message, known=plain)

    @property
    def error(self) -> ModelError:
        """The error again, for whoever catches it by its class; a plain ModelError where that is gone."""
        kind = next((kind for kind in _kinds_of(ModelError) if kind.__name__ == self.failed), ModelError)
        error = kind.__new__(kind, self.message)
        vars(error).update(self.known, message=self.message)
        return error


class StepResult(RootModel[RecordedError | ModelReply]):
    """How a call of a model ended: the result of its step, so that a resumed run gets the same again."""


class ModelCalls:
    """The calls of one run; `usage` is what they have cost, those of earlier claims included."""

    def __init__(
        self, services: Services, agent_id: str, ref: ActorRef, work: Work, journal: Journal, span: Span
    ) -> None:
        self.usage = RunUsage()
        self._services = services
        self._agent_id = agent_id
        self._ref = ref
        self._work = work
        self._journal = journal
        self._span = span
        for value in journal.earlier:
            self.usage.add_record(value)

    def record(self, call: Call) -> None:
        """Count a call that has ended, and journal it with the step that made it."""
        self.usage.add(call)
        event = ProgressEvent(MODEL_CALLED, call.payload(), call.call_id)
        self._journal.add_call(call.model_dump(mode="json", include=_COUNTED), event)

    async def ask(
        self,
        setting: Setting,
        messages: Sequence[ChatMessage],
        specs: tuple[ToolSpec, ...],
        shape: type[BaseModel] | None,
    ) -> ModelReply:
        """Call the model, in a step of the journal. For a `shape` the reply's content is JSON, unchecked.

        Raises ModelError, and the same again when the run is resumed, so that an agent which went on without
        an answer does so again.
        """
        request = self._request(setting, messages, specs, shape)
        async with self._journal.open_step("model", request) as step:
            if step.is_replayed:
                result = StepResult.model_validate(step.result)
            else:
                try:
                    with self._traced(request) as span, self._deltas(request) as on_delta:
                        reply = await self._services.model.complete(request, on_delta)
                        self._describe(span, request, reply)
                    result = StepResult(reply)
                except ModelError as error:
                    result = StepResult(RecordedError.of(error))
                step.finish(result, _events_of(result, shape))
        if isinstance(result.root, RecordedError):
            raise result.root.error
        return result.root

    def _request(
        self,
        setting: Setting,
        messages: Sequence[ChatMessage],
        specs: tuple[ToolSpec, ...],
        shape: type[BaseModel] | None,
    ) -> ModelRequest:
        step = self._journal.step_number + 1
        return ModelRequest(
            model=setting.model,
            messages=tuple(messages),
            tags=setting.tags,
            user=self._agent_id,
            context=call_context(self._work, self._agent_id, step, self.record),
            tools=specs,
            response_schema=None if shape is None else response_schema(shape),
            output_mode=setting.structure,
            temperature=setting.temperature,
            max_tokens=setting.max_tokens,
            timeout_seconds=self._work.task.timeout,
            cache=setting.cache,
        )

    @contextmanager
    def _traced(self, request: ModelRequest) -> Iterator[Span]:
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
            yield span

    def _describe(self, span: Span, request: ModelRequest, reply: ModelReply) -> None:
        span.set(
            {
                genai.RESPONSE_MODEL: reply.model,
                genai.USAGE_INPUT_TOKENS: reply.usage.prompt_tokens,
                genai.USAGE_OUTPUT_TOKENS: reply.usage.completion_tokens,
                genai.RESPONSE_FINISH_REASONS: (reply.finish_reason,),
            }
        )
        if self._services.trace_content:
            messages = [message.model_dump(mode="json") for message in request.messages]
            text = json.dumps(messages, ensure_ascii=False)
            span.set({genai.INPUT_MESSAGES: text, genai.OUTPUT_MESSAGES: reply.content})

    def _deltas(self, request: ModelRequest) -> AbstractContextManager[Deltas | None]:
        """What shows a reply while it is written, unless it is JSON."""
        if request.response_schema is not None or not self._services.stream:
            return nullcontext()
        return Deltas(partial(self._show, request.context.step or 0))

    def _show(self, step: int, payload: dict[str, Any]) -> None:
        self._services.host.broadcast(delta_of(self._work, self._ref, step, self._services.clock, payload))


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


def _events_of(result: StepResult, shape: type[BaseModel] | None) -> list[ProgressEvent]:
    reply = result.root
    if isinstance(reply, RecordedError):
        return []
    return [*_misfit(shape, reply), *_cut_off_event(shape, reply)]


def _misfit(shape: type[BaseModel] | None, reply: ModelReply) -> list[ProgressEvent]:
    """What is wrong with a reply that is to be an answer in a shape, and its text; nothing where it fits."""
    if shape is None or reply.tool_calls:
        return []
    try:
        read_answer(shape, reply)
    except StructureInvalid as error:
        payload = {"shape": shape.__name__, "error": error.message, "raw": cut(error.raw, _MAX_RAW_CHARS)}
        return [ProgressEvent("structure.invalid", payload)]
    return []


def _cut_off_event(shape: type[BaseModel] | None, reply: ModelReply) -> list[ProgressEvent]:
    """What there is of a reply that is cut off, so that nothing that was paid for is lost."""
    if not is_cut_off(reply, shape):
        return []
    calls = [
        {"tool": call.name, "arguments": cut(call.arguments, _MAX_CUT_CHARS)} for call in reply.tool_calls
    ]
    payload: Mapping[str, Any] = {"text": cut(reply.content, _MAX_CUT_CHARS), "tool_calls": calls}
    return [ProgressEvent("reply.cut_off", dict(payload))]


def _kinds_of(kind: type[ModelError]) -> Iterator[type[ModelError]]:
    """A class of errors and all below it."""
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds_of(below)
