"""The world outside of the agents: a model provider and a shop, which know all that has arrived.

Both are in a process that is never killed. They hold a request at a place until its sender is killed.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Self

from aiohttp import web

from tests.support.fake_provider import FakeProvider, tool_call

ARGUMENTS = {"payment": "payment-1", "cents": 500}
SCRIPT = (("look_up", {"order": "4471"}), ("refund", ARGUMENTS), ("notify", {"customer": "ada"}))
"""The calls of the model, by the number of results that it was sent. A refund that failed is made again."""
CALLS = len(SCRIPT) + 1  # with the answer
USAGE = {"prompt_tokens": 100, "completion_tokens": 500, "total_tokens": 600}


class Places:
    """The places at which requests are held: `model:2`, `refund:before` (its effect) or `refund:after`."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self._place = ""
        self._end = asyncio.Event()  # which is never set

    def hold(self, place: str) -> None:
        """Hold the next request at this place."""
        self._place = place
        self.held.clear()

    async def reach(self, place: str) -> None:
        """Return at once, or never where requests are held here."""
        if place == self._place:
            self._place = ""
            self.held.set()
            await self._end.wait()


class CrashProvider(FakeProvider):
    """Replies as the script says, and refuses messages that the real API refuses."""

    def __init__(self, places: Places) -> None:
        super().__init__(usage=dict(USAGE))
        self.requests = 0
        self._places, self._one_by_one = places, asyncio.Lock()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Answer by the results of tools that the messages have."""
        messages = _plain((await request.json())["messages"])
        if problem := _unanswered(messages):
            error = {"error": {"message": problem, "type": "invalid_request_error"}}
            return web.json_response(error, status=400)
        results = [str(message["content"]) for message in messages if message["role"] == "tool"]
        place = sum("failed" not in result.casefold() for result in results)
        self.requests += 1
        await self._places.reach(f"model:{place}")
        async with self._one_by_one:
            self.replies = deque([_reply(place, len(results))])
            return await super().complete(request)


def _reply(place: int, results: int) -> dict[str, Any]:
    if place >= len(SCRIPT):
        return {"content": "The customer has the refund."}
    name, arguments = SCRIPT[place]
    return tool_call(name, json.dumps(arguments), f"call_{results}")


def _plain(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages in OpenAI's form; those of Anthropic have calls and results of tools as blocks."""
    plain: list[dict[str, Any]] = []
    for message in messages:
        content = message.get("content")
        blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
        calls = [{"id": block["id"]} for block in blocks if block["type"] == "tool_use"]
        plain.append(message | {"tool_calls": calls} if calls else message)
        plain += [
            {"role": "tool", "tool_call_id": block["tool_use_id"], "content": block["content"]}
            for block in blocks
            if block["type"] == "tool_result"
        ]
    return [message for message in plain if message["role"] != "user"]


def _unanswered(messages: Sequence[dict[str, Any]]) -> str:
    """A complaint where a call of a tool has no result."""
    for number, message in enumerate(messages):
        ids = {call["id"] for call in message.get("tool_calls") or ()}
        for answer in messages[number + 1 :]:
            if answer["role"] != "tool":
                break
            ids.discard(answer["tool_call_id"])
        if ids:
            return f"tool_calls must be followed by tool messages; these are missing: {', '.join(ids)}"
    return ""


class Shop:
    """Looks up orders, refunds and notifies; `effects` counts what was done, `keys` with which key."""

    def __init__(self, places: Places) -> None:
        self.effects: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.loses_reply = False
        self.url = ""
        self._places = places

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/{name}", self._do)
        application.router.add_get("/keys/{key}", self._find)
        self._runner = web.AppRunner(
            application, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._runner.cleanup()

    async def _do(self, request: web.Request) -> web.Response:
        name, key = request.match_info["name"], request.query.get("key", "")
        await self._places.reach(f"{name}:before")
        self.effects[name] += 1
        self.keys.add(key)
        await self._places.reach(f"{name}:after")
        if name == "refund" and self.loses_reply:
            self.loses_reply = False
            assert request.transport is not None
            request.transport.close()
        return web.Response(text=f"{name} is done")

    async def _find(self, request: web.Request) -> web.Response:
        return web.Response(text=str(request.match_info["key"] in self.keys))
