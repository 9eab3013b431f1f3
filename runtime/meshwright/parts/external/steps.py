"""The steps that a program asks for, by kind, and the work that the mesh does for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_jsonable_python

from meshwright import Outcome, Run
from meshwright.core.encoding import View
from meshwright.core.errors import InvalidInput, sentence
from meshwright.core.payloads import Fact
from meshwright.core.schema_checks import safe_schema
from meshwright.models.structure import answer_shape

StepKind = Literal["step", "ask", "sleep", "event", "model", "call", "delegate"]


class ExternalState(View):
    """The state of a step, or of the run.

    `done` has the `value`, `failed` the `error`; `yours` is the program's to do, with `step_id` as its
    idempotency key; `working` goes on. The run has ended under the program where it is `waiting` (for an
    answer: claim again), `cancelled`, `late` (its deadline is over), `complete` or `moved` (the mesh stops).
    """

    state: Fact[str]
    value: Any = None
    error: dict[str, str] | None = None
    step_id: str = ""
    lease_seconds: float | None = None


class _StepRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class _AskStep(_StepRequest):
    question: str = Field(min_length=1, max_length=10_000)
    answer_schema: dict[str, Any] | None = None
    about: dict[str, Any] = {}
    may_answer: tuple[str, ...] = ()
    expires_seconds: float | None = Field(default=None, gt=0)

    async def do(self, run: Run) -> Any:
        options: dict[str, Any] = {"about": self.about, "may_answer": self.may_answer}
        if self.expires_seconds is not None:
            options["expires"] = timedelta(seconds=self.expires_seconds)
        if self.answer_schema is None:
            return await run.ask_person(self.question, **options)
        shape = answer_shape(safe_schema(self.answer_schema))
        answer = await run.ask_person(self.question, shape=shape, **options)
        return answer.model_dump(mode="json")


class _SleepStep(_StepRequest):
    seconds: float = Field(gt=0, le=366 * 86_400)

    async def do(self, run: Run) -> Any:
        await run.sleep(self.seconds)


class _EventStep(_StepRequest):
    topic: str = Field(min_length=1, max_length=256)
    match: dict[str, Any] = {}
    expires_seconds: float | None = Field(default=None, gt=0)

    async def do(self, run: Run) -> Any:
        expires = None if self.expires_seconds is None else timedelta(seconds=self.expires_seconds)
        return await run.wait_event(self.topic, self.match, expires=expires)


class _ModelStep(_StepRequest):
    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] = []
    answer_schema: dict[str, Any] | None = None
    model: str = ""
    tags: tuple[str, ...] = ()
    tool_choice: Literal["auto", "required", "none"] = "auto"
    temperature: float | None = None
    max_tokens: int | None = None

    async def do(self, run: Run) -> Any:
        reply = await run.complete(
            self.messages,
            tools=self.tools,
            shape=self.answer_schema,
            model=self.model,
            tags=self.tags,
            tool_choice=self.tool_choice,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
        )
        calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in reply.tool_calls]
        return {
            "content": reply.content,
            "tool_calls": calls,
            "model": reply.model,
            "finish_reason": reply.finish_reason,
        }


class _CallStep(_StepRequest):
    tool: str = Field(min_length=1, max_length=128)
    arguments: dict[str, Any] = {}

    async def do(self, run: Run) -> Any:
        return await run.call(self.tool, **self.arguments)


class _DelegateStep(_StepRequest):
    agent_id: str = ""
    capability: str = ""
    text: str = ""
    payload: dict[str, Any] = {}

    async def do(self, run: Run) -> Any:
        options: dict[str, Any] = {"capability": self.capability} if self.capability else {}
        outcome = await run.delegate(
            self.agent_id, self.text, payload=self.payload or None, shape=Outcome, **options
        )
        return to_jsonable_python(outcome.result)


_KINDS: Mapping[str, type[Any]] = {
    "ask": _AskStep,
    "sleep": _SleepStep,
    "event": _EventStep,
    "model": _ModelStep,
    "call": _CallStep,
    "delegate": _DelegateStep,
}


def read_work(kind: StepKind, request: Mapping[str, Any]) -> Callable[[Run], Awaitable[Any]]:
    """The work of a step that the mesh does. Raises InvalidInput with the field that is wrong."""
    try:
        return _KINDS[kind].model_validate(dict(request)).do
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, ("request", *fault["loc"])))
        raise InvalidInput(f"{field}: {sentence(fault)}", field=field) from None
