"""A fake model provider: it speaks OpenAI's chat completions on a real socket, and says that it is a fake.

    async with FakeOpenAI() as fake:
        fake.faults.append(Fault(status=429, headers={"retry-after": "2"}))   # for the next call
        ...
        assert fake.calls[0].body["user"] == "researcher-agent"

Faults wait in a queue, one for each call; without one it answers. To run it for another process, and to
command its faults over HTTP (`POST /faults` with the fields of `Fault`):

    python -m tests.providers.fake_openai [PORT]
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

SERVER = "fake-openai"
Kind = Literal["status", "hang", "drop", "garbage", "wrong-type", "oversized", "body"]


@dataclass
class Fault:
    """What goes wrong with one call.

    `status`: an error reply. `hang`: no reply until the client gives up. `drop`: half a reply, then the
    connection is cut. `garbage`: no JSON. `wrong-type`: a web page. `oversized`: `size` bytes of JSON.
    `body`: `body` as it stands, with status 200.
    """

    kind: Kind = "status"
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    size: int = 0


@dataclass
class Call:
    """A call as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    peer: Any = None


@dataclass
class FakeOpenAI:
    """The fake server; `url` is its base URL once it is entered.

    `replies` are messages (`{"content": ...}` or `{"tool_calls": [...]}`) to give before it makes up its
    own; `seconds` is how long it thinks; `headers` go with every good reply. With a `gate` no call is
    answered before as many have arrived as the gate is for.
    """

    port: int = 0
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    replies: deque[dict[str, Any]] = field(default_factory=deque)
    faults: deque[Fault] = field(default_factory=deque)
    calls: list[Call] = field(default_factory=list)
    gate: asyncio.Barrier | None = None
    url: str = ""

    async def __aenter__(self) -> Self:
        self.arrived = asyncio.Event()
        self.abandoned = asyncio.Event()
        application = web.Application(client_max_size=64 * 1024 * 1024)
        for prefix in ("", "/v1"):
            application.router.add_post(f"{prefix}/chat/completions", self.complete)
            application.router.add_get(f"{prefix}/models", self.models)
        application.router.add_post("/faults", self.command)
        self.runner = web.AppRunner(
            application, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self.runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self.runner.cleanup()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        peer = request.transport.get_extra_info("peername") if request.transport else None
        self.calls.append(Call(request.path, dict(request.headers), body, peer))
        self.arrived.set()
        try:
            await asyncio.sleep(self.seconds)
            if self.gate is not None:
                await self.gate.wait()
            return await self.misbehave(request, self.faults.popleft()) if self.faults else self.answer(body)
        except (asyncio.CancelledError, ConnectionError):
            self.abandoned.set()
            raise

    def answer(self, body: dict[str, Any]) -> web.Response:
        message = self.replies.popleft() if self.replies else made_up(body)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": None, **message},
            "finish_reason": "tool_calls" if message.get("tool_calls") else "stop",
        }
        completion = {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        }
        return web.json_response(completion, headers={"server": SERVER, **self.headers})

    async def misbehave(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        match fault.kind:
            case "hang":
                await asyncio.Event().wait()
            case "drop":
                return await self.drop(request)
            case "garbage":
                return web.Response(text='{"choices": [', content_type="application/json")
            case "wrong-type":
                return web.Response(text="<h1>fake-openai</h1>", content_type="text/html")
            case "oversized":
                return web.Response(text=json.dumps("x" * fault.size), content_type="application/json")
            case "body":
                return web.json_response(fault.body)
        error = {"message": f"a fault on command, quoting {await request.text()}", "type": SERVER}
        return web.json_response(
            fault.body or {"error": error}, status=fault.status, headers={"server": SERVER, **fault.headers}
        )

    async def drop(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json", "content-length": "1000"})
        await response.prepare(request)
        await response.write(b'{"choices": [{"message"')
        assert request.transport is not None
        request.transport.abort()
        return response

    async def command(self, request: web.Request) -> web.Response:
        self.faults.append(Fault(**await request.json()))
        return web.json_response({"waiting": len(self.faults)})

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": SERVER, "object": "model"}]})


def made_up(body: dict[str, Any]) -> dict[str, Any]:
    """An answer of its own: it says what it is, and repeats the last message."""
    last = body["messages"][-1].get("content") or ""
    text = f"{SERVER} answers, and is no model: {last}"
    return {"content": json.dumps({"answer": text}) if "response_format" in body else text}


def tool_call(name: str, arguments: str, call_id: str = "call_1") -> dict[str, Any]:
    """A reply that calls one tool, for `replies`."""
    return {
        "tool_calls": [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        ]
    }


async def serve(port: int) -> None:
    async with FakeOpenAI(port=port) as fake:
        print(f"{SERVER} (no model is behind it) at {fake.url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
