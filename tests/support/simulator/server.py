"""The server: OpenAI's and Anthropic's API over a real socket, with weather, windows, prices and a ledger."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from tests.support import anthropic_wire, openai_wire
from tests.support.simulator.conversation import Conversation, read_conversation
from tests.support.simulator.personas import PERSONAS, Reply, arguments_of
from tests.support.simulator.scenario import Scenario, Weather

SERVER = "meshwright-provider-simulator"
_MAX_OUTPUT = 4096


@dataclass
class Ledger:
    """What the provider counted: its own bill, to which a mesh's ledger must agree to the cent."""

    calls: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    dollars: float = 0.0
    dollars_of: Counter[str] = field(default_factory=Counter)
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "refused": dict(self.refused),
            "dollars": round(self.dollars, 9),
            "dollars_of": {user: round(dollars, 9) for user, dollars in self.dollars_of.items()},
            "input_tokens": self.input_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
        }


class Simulator:
    """A provider for one scenario; `url` is its base URL once it is entered. `GET /report` is its ledger."""

    def __init__(self, scenario: Scenario, port: int = 0) -> None:
        self.scenario = scenario
        self.ledger = Ledger()
        self.url = ""
        self._port = port
        self._began: float | None = None
        self._hits: Counter[tuple[int, str]] = Counter()
        self._prefixes: set[str] = set()
        self._chance = random.Random(scenario.seed)

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        for prefix in ("", "/v1"):
            application.router.add_post(f"{prefix}/{openai_wire.PATH}", self._complete)
            application.router.add_post(f"{prefix}/{anthropic_wire.PATH}", self._complete)
        application.router.add_get("/report", self._report)
        self._runner = web.AppRunner(
            application, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1024).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._runner.cleanup()

    async def _report(self, request: web.Request) -> web.Response:
        return web.json_response(self.ledger.as_json())

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        wire = anthropic_wire if request.path.endswith(f"/{anthropic_wire.PATH}") else openai_wire
        body = await request.json()
        self.ledger.calls += 1
        try:
            told = read_conversation(body)
        except ValueError as error:
            return self._refuse(wire, 400, f"Invalid request: {error}", "invalid")
        if told.unanswered:
            return self._refuse(wire, 400, f"No result follows the call {told.unanswered[0]}", "invalid")
        if self._lost_thinking(wire, told):
            return self._refuse(
                wire, 400, "Expected `thinking` blocks with their signatures, as given", "invalid"
            )
        if told.tokens > self.scenario.window:
            return self._too_long(wire, told)
        hit = self._weather(told)
        if hit is not None:
            match hit.kind:
                case "outage" | "rate-limit" | "overload":
                    return self._refuse(
                        wire, hit.status, f"The provider fails: {hit.kind}", hit.kind, hit.retry_after
                    )
                case "slow":
                    await asyncio.sleep(hit.seconds)
        return await self._answer(request, wire, body, told, hit)

    def _weather(self, told: Conversation) -> Weather | None:
        """What hits this call, if anything."""
        now = time.monotonic()
        self._began = self._began or now
        for n, weather in enumerate(self.scenario.weather):
            age = now - self._began - weather.start
            length = weather.end - weather.start
            share = weather.share * (1 - age / length) if weather.kind == "overload" else weather.share
            if (
                0 <= age < length
                and self._hits[n, told.digest] < weather.tries
                and self._chance.random() < share
            ):
                self._hits[n, told.digest] += 1
                return weather
        return None

    def _lost_thinking(self, wire: Any, told: Conversation) -> bool:
        """Anthropic wants back the thinking that led to a call of tools, signature and all."""
        if wire is openai_wire or not self.scenario.thinking or not told.last:
            return False
        return not any(part.get("signature") == _signature(part["thinking"]) for part in told.thinking)

    def _too_long(self, wire: Any, told: Conversation) -> web.Response:
        if wire is anthropic_wire:
            text = f"prompt is too long: {told.tokens} tokens > {self.scenario.window} maximum"
            return self._refuse(wire, 400, text, "too-long")
        text = (
            f"This model's maximum context length is {self.scenario.window} tokens. "
            f"However, your messages resulted in {told.tokens} tokens."
        )
        error = {"message": text, "type": "invalid_request_error", "code": "context_length_exceeded"}
        self.ledger.refused["too-long"] += 1
        return web.json_response({"error": error}, status=400)

    def _refuse(
        self, wire: Any, status: int, text: str, kind: str, retry_after: float | None = None
    ) -> web.Response:
        self.ledger.refused[kind] += 1
        headers = {"server": SERVER} | (
            {"retry-after": f"{retry_after:g}"} if retry_after is not None else {}
        )
        return web.json_response(wire.error(status, text), status=status, headers=headers)

    def _reply(self, wire: Any, told: Conversation, hit: Weather | None) -> dict[str, Any]:
        """The persona's reply as a message, spoilt as the weather says."""
        reply = PERSONAS[self.scenario.persona](told)
        kind = hit.kind if hit else ""
        broken = "{}" if wire is anthropic_wire else '{"text": "'  # Anthropic's are JSON, but may lack fields
        if kind == "empty":
            return {"content": ""}
        if kind == "refusal":
            return {"content": "I can't help with that.", "finish_reason": "content_filter"}
        if not reply.asks:
            return self._text(told, reply, cut=kind == "cut-off")
        calls = []
        for n, ask in enumerate(reply.asks):
            name = "no_such_tool" if kind == "unknown-tool" else ask.name
            arguments = broken if kind == "broken-arguments" else arguments_of(ask)
            call_id = f"call_{told.digest}_{n}"
            calls.append(
                {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            )
        return {"content": reply.text or None, "tool_calls": calls}

    @staticmethod
    def _text(told: Conversation, reply: Reply, cut: bool) -> dict[str, Any]:
        """A text; what was said of it before it was cut off is not said again."""
        text = reply.text.removeprefix(told.partial) or reply.text
        if cut:
            return {"content": text[: max(1, len(text) // 2)], "finish_reason": "length"}
        return {"content": text}

    async def _answer(
        self, request: web.Request, wire: Any, body: dict[str, Any], told: Conversation, hit: Weather | None
    ) -> web.StreamResponse:
        message = self._reply(wire, told, hit)
        if self.scenario.thinking:
            thought = f"I think about {told.digest}."
            message |= {"reasoning_content": thought, "signature": _signature(thought)}
        usage = self._bill(wire, body, told, message)
        if not body.get("stream"):
            return web.json_response(wire.completion(body, message, usage), headers={"server": SERVER})
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "server": SERVER})
        await response.prepare(request)
        pieces = wire.stream(body, message, usage)
        dies = hit is not None and hit.kind == "dying-streams"
        for piece in pieces[: len(pieces) // 2] if dies else pieces:
            await response.write(piece)
        if dies:
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write_eof()
        return response

    def _bill(
        self, wire: Any, body: dict[str, Any], told: Conversation, message: dict[str, Any]
    ) -> dict[str, Any]:
        """Count and price a reply; a stream that dies is billed as well, as real providers do."""
        cached = self._cached(wire, told)
        spoken = str(message.get("content") or "") + str(message.get("tool_calls") or "")
        output = min(_MAX_OUTPUT, max(1, len(spoken + message.get("reasoning_content", "")) // 4))
        prices = self.scenario.prices
        dollars = (
            (told.tokens - cached) * prices.input + cached * prices.cached + output * prices.output
        ) / 1e6
        self.ledger.dollars += dollars
        self.ledger.dollars_of[str(body.get("user") or (body.get("metadata") or {}).get("user_id"))] += (
            dollars
        )
        self.ledger.input_tokens += told.tokens
        self.ledger.cached_tokens += cached
        self.ledger.output_tokens += output
        return {
            "prompt_tokens": told.tokens,
            "completion_tokens": output,
            "total_tokens": told.tokens + output,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def _cached(self, wire: Any, told: Conversation) -> int:
        """How many tokens were read before: OpenAI caches by itself, Anthropic where it is marked."""
        at = told.marked if wire is anthropic_wire else range(1, len(told.pieces) + 1)
        best, hashes = 0, []
        for end in at:
            prefix = hashlib.sha256("\x00".join(told.pieces[:end]).encode()).hexdigest()
            tokens = sum(map(len, told.pieces[:end])) // 4
            if tokens >= 1024:
                hashes.append(prefix)
                best = max(best, tokens if prefix in self._prefixes else 0)
        self._prefixes.update(hashes)
        return best


def _signature(thought: str) -> str:
    return hashlib.sha256(f"signed {thought}".encode()).hexdigest()
