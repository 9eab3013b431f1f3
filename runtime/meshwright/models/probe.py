"""The probe of a model: a few short calls as agents make them, and what follows from the replies."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from meshwright.core.errors import MeshError
from meshwright.core.messages import Usage
from meshwright.core.money import ZERO
from meshwright.models.errors import ModelRefused, Unsupported
from meshwright.models.port import ChatMessage, Model, ModelReply, ModelRequest, PriceList, ToolSpec

_Document = dict[str, Any]
_MAX_TOKENS = 200  # of a reply that must hold a call of a tool or JSON, with some reasoning before it
_CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_SCHEMA = {**_CITY, "additionalProperties": False}
_TOOL = ToolSpec(name="weather", description="Returns the weather of one city.", parameters=_SCHEMA)
_PROBE = ModelRequest(
    messages=(ChatMessage(role="user", content="Say ok"),),
    user="mesh-models-test",
    max_tokens=16,
    timeout_seconds=30.0,
    cache=False,
)
_ONE_CITY = "Call the tool weather for Bern."
_TWO_CITIES = "Call the tool weather for Bern and for Oslo, both at once."
_JSON = "Name the capital of Norway, as JSON."
_UNKNOWN_FIELD = "mesh_unknown_field"
_NO_STREAMS = "Set stream = false under [models]"


class ModelFinding(NamedTuple):
    """The result of one probe of a model."""

    name: str
    """The thing that was tried: `stream`, `tool`."""
    behaviour: str
    """The behaviour of the model or its server."""
    remedy: str = ""
    """The setting or the effect to expect. "" if nothing is amiss."""


async def probe_model(model: Model, group: str, prices: PriceList) -> _Document:
    """Call a model as agents do, at most eight times, for at most 900 tokens of output.

    Errors are not raised: `error` has ours of a plain call, a stream, a call of a tool or its result, with
    the kind of call that met it. `usage` and `cost_usd` are of all calls, `latency_ms` is the first one's,
    `tools` says whether the model takes any, and `findings` has a line for each thing that was tried.
    """
    probe = _Probe(model, group, prices)
    error: _Document | None = None
    try:
        await probe.run()
    except MeshError as failure:
        error = {"type": failure.code, "message": f"{probe.kind}{failure}"}
    findings = [finding._asdict() for finding in probe.findings]
    result: _Document = {"deployment": group, "ok": error is None, "latency_ms": probe.latency_ms}
    if error is not None:
        return {**result, "error": error, "findings": findings}
    return {
        **result,
        "model": probe.replies[0].model,
        "usage": sum((reply.usage for reply in probe.replies), Usage()).model_dump(mode="json"),
        "cost_usd": probe.cost(),
        "tools": probe.takes_tools,
        "findings": findings,
    }


class _Probe:
    def __init__(self, model: Model, group: str, prices: PriceList) -> None:
        self._model = model
        self._plain = _PROBE.model_copy(update={"model": group})
        self._prices = prices
        self._opened = _opened_connections(model)
        self.kind = ""
        self.latency_ms = 0.0
        self.takes_tools = True
        self._tool_choice = "required"
        self.replies: list[ModelReply] = []
        self.findings: list[ModelFinding] = []

    async def run(self) -> None:
        """Make the calls. Raises MeshError where agents could not work with the model."""
        started = time.perf_counter()
        try:
            plain = await self._call(self._plain)
        finally:
            self.latency_ms = round((time.perf_counter() - started) * 1000, 1)
        self._add("plain", "answers")
        self.kind = "streamed: "
        pieces: list[str] = []
        streamed = await self._call(self._plain, pieces)
        self._judge_stream(plain, streamed, [piece for piece in pieces if piece])
        self.kind = "with a tool: "
        await self._try_tool()
        if self.takes_tools:
            await self._try_calls_at_once()
        await self._try_schema()
        await self._try_unknown_field()
        self._judge_cost(plain, streamed)
        self._judge_connections()

    def cost(self) -> str | None:
        """The cost of all calls in dollars: as reported, else by our prices; None if one is unknown."""
        costs = [self._reply_cost(reply) for reply in self.replies]
        known_costs = [cost for cost in costs if cost is not None]
        return f"{sum(known_costs, ZERO):f}" if len(known_costs) == len(costs) else None

    def _reply_cost(self, reply: ModelReply) -> Any:
        if reply.cost_usd is None and reply.cost_source != "estimated":
            return self._prices.reply_cost(reply, self._plain)
        return reply.cost_usd

    async def _call(self, request: ModelRequest, pieces: list[str] | None = None) -> ModelReply:
        reply = await self._model.complete(request, None if pieces is None else pieces.append)
        self.replies.append(reply)
        return reply

    def _add(self, name: str, behaviour: str, remedy: str = "") -> None:
        self.findings.append(ModelFinding(name, behaviour, remedy))

    def _judge_stream(self, plain: ModelReply, streamed: ModelReply, pieces: Sequence[str]) -> None:
        if plain.content and not streamed.content:
            self._add("stream", "has no text, though a plain call has", _NO_STREAMS)
        elif len(pieces) > 1:
            self._add("stream", f"{len(pieces)} pieces")
        else:
            self._add("stream", "comes in one piece", "Callers see the words only at the end")
        is_counted = plain.cost_source != "estimated"
        if streamed.cost_source != "estimated":
            used = streamed.usage
            self._add(
                "usage", f"{used.prompt_tokens} + {used.completion_tokens} tokens counted in the stream"
            )
        else:
            counted = "in a plain call, not in a stream" if is_counted else "in no call"
            remedy = "The mesh estimates tokens and cost, also for budgets"
            self._add(
                "usage",
                f"tokens are counted {counted}",
                f"{remedy}; {_NO_STREAMS.lower()}" if is_counted else remedy,
            )

    async def _try_tool(self) -> None:
        request = self._request(_ONE_CITY, tools=(_TOOL,), tool_choice="required")
        try:
            request, reply = await self._call_with_tool(request)
        except Unsupported as refusal:
            self.takes_tools = False
            self._add("tool", refusal.message, "Nothing: agents describe their tools in the system message")
            return
        if not reply.tool_calls:
            await self._explain_missing_call(request, reply)
            return
        self._add("tool", "is called", _judge_arguments(reply))
        names = _wanted_back(reply)
        self.kind = "with a tool's result: "
        results = tuple(
            ChatMessage(role="tool", content="12 degrees, rain", tool_call_id=call.id)
            for call in reply.tool_calls
        )
        messages = (*request.messages, reply.message(), *results)
        await self._call(request.model_copy(update={"messages": messages, "tool_choice": "auto"}), [])
        self._add("result", "is taken")
        if names:
            self._add("wanted back", f"{', '.join(names)}: sent back, and taken")

    async def _call_with_tool(self, request: ModelRequest) -> tuple[ModelRequest, ModelReply]:
        """Call with a tool that must be called; with one that may be, where the server refuses the choice."""
        try:
            return request, await self._call(request, [])
        except Unsupported:
            raise
        except ModelRefused as refusal:
            self._tool_choice = "auto"
            request = request.model_copy(update={"tool_choice": "auto"})
            reply = await self._call(request, [])
            remedy = "structure: prompted, not tool, in the prompts of agents that answer in a shape"
            self._add("tool choice", f"`required` is refused: {refusal.message}", remedy)
            return request, reply

    async def _explain_missing_call(self, request: ModelRequest, reply: ModelReply) -> None:
        """Tell a stream that loses calls from a model that makes none."""
        if reply.finish_reason == "length":
            self._add(
                "tool", f"not seen: the reply was cut off at {_MAX_TOKENS} tokens, by reasoning perhaps"
            )
            return
        whole = await self._call(request)
        if whole.tool_calls:
            self._add("tool", "is called in a plain reply; a stream loses the call", _NO_STREAMS)
            return
        self.takes_tools = False
        remedy = "Agents would answer without their tools: use another model, or a chat template with tools"
        self._add("tool", "ignored: a reply that must call it is text", remedy)

    async def _try_calls_at_once(self) -> None:
        request = self._request(_TWO_CITIES, tools=(_TOOL,), tool_choice=self._tool_choice)
        try:
            reply = await self._call(request)
        except MeshError as error:
            self._add("parallel", f"failed: {error.message}")
            return
        several = len(reply.tool_calls) > 1
        self._add(
            "parallel", f"{len(reply.tool_calls)} calls in one reply" if several else "one call in a reply"
        )

    async def _try_schema(self) -> None:
        other_way = "tool" if self.takes_tools else "prompted"
        remedy = f"structure: {other_way} in the prompts of agents that answer in a shape"
        try:
            reply = await self._call(self._request(_JSON, response_schema=_SCHEMA))
        except ModelRefused as refusal:
            self._add(
                "schema",
                f"refused: {refusal.message}",
                f"Such agents ask again by a tool; {remedy} saves the call",
            )
            return
        except MeshError as error:
            self._add("schema", f"failed: {error.message}")
            return
        if reply.finish_reason == "length":
            self._add("schema", f"not seen: the reply was cut off at {_MAX_TOKENS} tokens")
        elif _is_of_schema(reply.content):
            self._add("schema", "the answer has it")
        else:
            self._add("schema", "ignored: the answer does not have it", f"Set {remedy}")

    async def _try_unknown_field(self) -> None:
        try:
            await self._call(self._plain.model_copy(update={"params": {_UNKNOWN_FIELD: 1}}))
        except ModelRefused:
            self._add("unknown field", "refused: a misspelt one of params fails the call")
        except MeshError as error:
            self._add("unknown field", f"failed: {error.message}")
        else:
            self._add("unknown field", "ignored: a misspelt one of params does nothing")

    def _judge_cost(self, plain: ModelReply, streamed: ModelReply) -> None:
        if plain.cost_usd is not None and plain.cost_source == "reported" and streamed.cost_usd is None:
            remedy = "Of LiteLLM's proxy: include_cost_in_streaming_usage: true under its litellm_settings"
            self._add("cost", "stated of plain calls, not of streams", remedy)
        elif self._reply_cost(plain) is None:
            remedy = (
                "Set default_price = { input = 3, output = 15 } under [ledger], dollars per million tokens: "
                "hard budgets refuse calls without a price"
            )
            self._add("cost", "unknown: neither server nor mesh has a price", remedy)
        else:
            self._add(
                "cost", "stated by the server" if plain.cost_source == "reported" else "by the mesh's prices"
            )

    def _judge_connections(self) -> None:
        opened = _opened_connections(self._model)
        if opened is None or self._opened is None:
            return
        # Calls of other groups of the server may run beside ours: each opens one.
        if opened - self._opened <= len(self.replies) // 2:
            self._add("connections", "are reused")
        else:
            remedy = "Each call pays for a new one: see whether a proxy between turns off keep-alive"
            self._add("connections", "are closed after a call", remedy)

    def _request(self, text: str, **fields: Any) -> ModelRequest:
        messages = (ChatMessage(role="user", content=text),)
        return self._plain.model_copy(update={"messages": messages, "max_tokens": _MAX_TOKENS, **fields})


def _opened_connections(model: Model) -> int | None:
    return getattr(model, "opened_connections", None)


def _judge_arguments(reply: ModelReply) -> str:
    for call in reply.tool_calls:
        if not _is_of_schema(call.arguments):
            return f"Its arguments do not fit its schema: {call.arguments[:60]!r}; agents ask again"
    return ""


def _wanted_back(reply: ModelReply) -> list[str]:
    """The fields of a reply that its provider gets back with the results of the calls."""
    names = [*reply.extra, *(name for call in reply.tool_calls for name in call.extra)]
    return sorted({*names, *(["signed thinking"] if reply.message().thinking else [])})


def _is_of_schema(text: str) -> bool:
    with suppress(ValueError):
        value = json.loads(text)
        return isinstance(value, dict) and isinstance(value.get("city"), str) and len(value) == 1
    return False
