"""The server: OpenAI's and Anthropic's API over a real socket, with weather, windows, prices and a ledger."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from types import ModuleType
from typing import Any, Self

import msgspec
from aiohttp import web

from tests.support import anthropic_wire, openai_wire
from tests.support.simulator import errors
from tests.support.simulator.conversation import Conversation, Unasked, read_conversation
from tests.support.simulator.errors import Refusal, WireName
from tests.support.simulator.ledger import Charge, Ledger
from tests.support.simulator.personas import Reply, arguments_of, decide, item_of
from tests.support.simulator.scenario import Scenario, Weather

SERVER = "meshwright-provider-simulator"
_WIRES: dict[WireName, ModuleType] = {"openai": openai_wire, "anthropic": anthropic_wire}
_MAX_OUTPUT = 4096
_MIN_CACHED = 1024  # tokens; shorter prefixes are not cached
_REFUSING = ("outage", "rate-limit", "overload")
_MILLION = Decimal(1_000_000)


class Simulator:
    """A provider for one scenario; `url` is its base URL once it is entered. `GET /report` is its ledger.

    The scenario's time starts with the first call and runs `speed` times as fast as `clock`.
    """

    def __init__(
        self,
        scenario: Scenario,
        port: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        speed: float = 1.0,
    ) -> None:
        self.scenario = scenario
        self.ledger = Ledger()
        self.url = ""
        self.called = asyncio.Event()
        self._port = port
        self._clock = clock
        self._speed = speed
        self._began: float | None = None
        self._hits: Counter[tuple[int, str]] = Counter()
        self._prefixes: set[str] = set()
        self._tries: Counter[str] = Counter()

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
        wire: WireName = "anthropic" if request.path.endswith(f"/{anthropic_wire.PATH}") else "openai"
        body = msgspec.json.decode(await request.read())
        self.ledger.calls += 1
        self.called.set()
        try:
            told = read_conversation(body)
        except Unasked as error:
            return self._refuse(errors.unasked(wire, str(error)))
        if refusal := self._broken_rule(wire, body, told):
            return self._refuse(refusal)
        hit = self._weather(told)
        if hit is not None and hit.kind == "refused-key":
            return self._refuse(errors.refused(wire, hit.kind, hit.status))
        if hit is not None and hit.kind in _REFUSING:
            wait = None if hit.retry_after is None else hit.retry_after / self._speed
            return self._refuse(errors.trouble(wire, hit.kind, hit.status, wait), wait)
        if hit is not None and hit.kind == "disconnect":
            self.ledger.refused[hit.kind] += 1
            _abort(request)
            return web.Response()
        await self._pause(self.scenario.seconds)
        if hit is not None and hit.kind == "slow":
            await self._pause(hit.seconds)
        return await self._answer(request, wire, body, told, hit)

    async def _pause(self, seconds: float) -> None:
        if seconds:
            await asyncio.sleep(seconds / self._speed)

    def _broken_rule(self, wire: WireName, body: dict[str, Any], told: Conversation) -> Refusal | None:
        """The rule of the API that a request breaks, if any."""
        if told.unanswered:
            return errors.unanswered(wire, told.unanswered[0])
        if wire == "anthropic" and self.scenario.thinking and told.last:
            if not told.thinking:
                return errors.lost_thinking("tool_use")
            if any(part.get("signature") != _signature(part["thinking"]) for part in told.thinking):
                return errors.lost_thinking(None)
        may_write = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        if told.tokens + may_write > self.scenario.window:
            return errors.too_long(wire, told.tokens, may_write, self.scenario.window)
        return None

    def _weather(self, told: Conversation) -> Weather | None:
        now = self._clock() * self._speed
        if self._began is None:
            self._began = now
        for number, weather in enumerate(self.scenario.weather):
            age = now - self._began - weather.start
            length = weather.end - weather.start
            share = weather.share * (1 - age / length) if weather.kind == "overload" else weather.share
            is_on = 0 <= age < length and self._hits[number, told.digest] < weather.tries
            is_on = is_on and weather.item in ("", item_of(told))
            if is_on and self._draw(number, told) < share:
                self._hits[number, told.digest] += 1
                return weather
        return None

    def _draw(self, number: int, told: Conversation) -> float:
        """A number below 1 for one try at a step of an item: the same for whoever works on it."""
        step = f"{self.scenario.seed} {number} {item_of(told)} {len(told.results)} {bool(told.partial)}"
        self._tries[step] += 1
        return random.Random(f"{step} {self._tries[step]}").random()

    def _refuse(self, refusal: Refusal, retry_after: float | None = None) -> web.Response:
        self.ledger.refused[refusal.kind] += 1
        headers = {"server": SERVER}
        if retry_after is not None:
            headers["retry-after"] = f"{retry_after:g}"
        return web.json_response(refusal.body, status=refusal.status, headers=headers)

    def _reply(self, wire: WireName, told: Conversation, hit: Weather | None) -> dict[str, Any]:
        """The persona's reply as a message, spoilt as the weather says."""
        reply = decide(self.scenario.persona, told)
        kind = hit.kind if hit else ""
        if kind == "empty":
            return {"content": ""}
        if kind == "refusal":
            return {"content": "I can't help with that.", "finish_reason": "content_filter"}
        if not reply.asks:
            images = [_image(picture) for picture in reply.pictures if wire == "openai"]  # Claude gives none
            return _text(told, reply, cut=kind == "cut-off") | ({"images": images} if images else {})
        calls = []
        for number, ask in enumerate(reply.asks):
            name = "no_such_tool" if kind == "unknown-tool" else ask.name
            arguments = arguments_of(ask)
            if kind in ("broken-arguments", "cut-off"):  # Anthropic's are JSON, but may lack fields
                arguments = "{}" if wire == "anthropic" else arguments[: len(arguments) // 2]
            function = {"name": name, "arguments": arguments}
            calls.append({"id": f"call_{told.digest}_{number}", "type": "function", "function": function})
        message = {"content": reply.text or None, "tool_calls": calls}
        return message | ({"finish_reason": "length"} if kind == "cut-off" else {})

    async def _answer(
        self,
        request: web.Request,
        wire: WireName,
        body: dict[str, Any],
        told: Conversation,
        hit: Weather | None,
    ) -> web.StreamResponse:
        module, kind = _WIRES[wire], hit.kind if hit else ""
        message = self._reply(wire, told, hit)
        if self.scenario.thinking:
            thought = f"I think about {told.digest}."
            message |= {"reasoning_content": thought, "signature": _signature(thought)}
        charge = self._charge(wire, body, told, message)
        usage = {} if kind == "no-usage" and wire == "openai" else _usage(charge)
        if kind == "absurd-usage":
            usage |= {"prompt_tokens": -90_000_000, "completion_tokens": 10**12}
        streamed = bool(body.get("stream"))
        dies = kind == "dying-streams" or (streamed and kind == "stream-error")
        whole = module.stream(body, message, usage) if streamed else None
        place = len(self.ledger.charges)
        self.ledger.charges.append(_undelivered(charge))  # it is billed, whoever is still there to read it
        if hit is not None and kind == "late":
            await self._pause(hit.seconds)
        if dies and whole is None:
            _abort(request)
            return web.Response()
        if whole is None:
            done = web.json_response(module.completion(body, message, usage), headers={"server": SERVER})
            await done.prepare(request)
            await done.write_eof()
            self.ledger.charges[place] = charge
            return done
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "server": SERVER})
        await response.prepare(request)
        try:
            for piece in whole[: len(whole) // 2] if dies else whole:
                await response.write(piece)
        except ConnectionResetError:  # the client is gone; it was billed
            return response
        if kind == "stream-error":
            await response.write(module.stream_error(errors.trouble(wire, "overload", 529, None).body))
        elif dies:
            _abort(request)
            return response
        await response.write_eof()
        if not dies:
            self.ledger.charges[place] = charge
        return response

    def _charge(
        self, wire: WireName, body: dict[str, Any], told: Conversation, message: dict[str, Any]
    ) -> Charge:
        """Count and price an answer."""
        cached, written = self._cached(wire, told)
        spoken = str(message.get("content") or "") + str(message.get("tool_calls") or "")
        output = min(_MAX_OUTPUT, max(1, len(spoken + message.get("reasoning_content", "")) // 4))
        prices = self.scenario.prices
        return Charge(
            item=item_of(told),
            request=told.digest,
            user=str(body.get("user") or (body.get("metadata") or {}).get("user_id")),
            dollars=(
                (told.tokens - cached - written) * prices.input
                + cached * prices.cached
                + written * prices.cache_write
                + output * prices.output
            )
            / _MILLION,
            input_tokens=told.tokens,
            cached_tokens=cached,
            written_tokens=written,
            output_tokens=output,
        )

    def _cached(self, wire: WireName, told: Conversation) -> tuple[int, int]:
        """How many tokens were read before, and how many are now kept at a price.

        OpenAI caches by itself and for nothing, Anthropic where it is marked.
        """
        places = set(told.marked if wire == "anthropic" else range(1, len(told.pieces) + 1))
        read, kept, characters, hashes, prefix = 0, 0, 0, [], hashlib.sha256()
        for end, piece in enumerate(told.pieces, 1):
            prefix.update(piece.encode())
            prefix.update(b"\0")
            characters += len(piece)
            if end not in places or characters // 4 < _MIN_CACHED:
                continue
            hashes.append(prefix.hexdigest())
            read = max(read, characters // 4 if hashes[-1] in self._prefixes else 0)
            kept = max(kept, characters // 4)
        self._prefixes.update(hashes)
        return read, max(0, kept - read) if wire == "anthropic" else 0


def _text(told: Conversation, reply: Reply, *, cut: bool) -> dict[str, Any]:
    """A text; what was said of it before it was cut off is not said again."""
    text = reply.text.removeprefix(told.partial) or reply.text
    if cut:
        return {"content": text[: max(1, len(text) // 2)], "finish_reason": "length"}
    return {"content": text}


def _image(picture: str) -> dict[str, Any]:
    """A picture as OpenRouter, Gemini's API of OpenAI's kind and LiteLLM give it."""
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}, "index": 0}


def _usage(charge: Charge) -> dict[str, Any]:
    return {
        "prompt_tokens": charge.input_tokens,
        "completion_tokens": charge.output_tokens,
        "total_tokens": charge.input_tokens + charge.output_tokens,
        "prompt_tokens_details": {"cached_tokens": charge.cached_tokens},
        "cache_write_tokens": charge.written_tokens,
    }


def _undelivered(charge: Charge) -> Charge:
    return dataclasses.replace(charge, delivered=False)


def _abort(request: web.Request) -> None:
    """Close the connection in the middle."""
    if request.transport is not None:
        request.transport.abort()


def _signature(thought: str) -> str:
    return hashlib.sha256(f"signed {thought}".encode()).hexdigest()
