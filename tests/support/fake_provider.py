"""A fake model provider: it speaks OpenAI's and Anthropic's API on a real socket, and says that it is a fake.

    async with FakeProvider() as fake:
        fake.faults.append(Fault(status=429, headers={"retry-after": "2"}))   # for the next call
        fake.faults_of["gpt-5.4"].append(Fault(kind="hang"))                  # for the next call of a model
        ...
        assert fake.calls[0].body["user"] == "researcher-agent"

Faults wait in queues, one for each call; without one it answers. It stands for as many deployments as one
likes: `fake.at("east")` is the base URL of one, whose calls and faults go by that name; at the plain URL the
name is the model's. To run it for another process, and to command its faults over HTTP (`POST /faults` with
the fields of `Fault`, and `of` for whose call):

    python -m tests.support.fake_provider [PORT]
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

from tests.support import anthropic_wire, openai_wire

SERVER = "fake-openai"
TOKENS = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
Kind = Literal[
    "status", "hang", "slow", "drip", "drop", "stall", "garbage", "error", "raw", "wrong-type", "oversized",
    "body",
]  # fmt: skip


@dataclass
class Fault:
    kind: Kind = "status"
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    size: int = 0
    seconds: float = 0.0
    pieces: list[bytes] = field(default_factory=list)


@dataclass
class Call:
    """A call as it arrived, `at` when; `of` is the deployment's name, or the model's."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    peer: Any = None
    of: str = ""
    at: float = field(default_factory=time.monotonic)


@dataclass
class FakeProvider:
    """The fake server; `url` is its base URL once it is entered.

    `replies` are messages (`{"content": ...}` or `{"tool_calls": [...]}`, and `finish_reason`) to give before
    it makes up its own; `seconds` is how long it thinks; `headers` go with every good reply, and `usage` is
    what it says of tokens (nothing where it is empty). With `only` it has one model, and is as strict as
    OpenAI: it refuses a call of another model, and fields that it does not know. `props` are those of
    llama.cpp's server. With a `gate` no call is
    answered before as many have arrived as the gate is for. `vectors` are those of texts; where there are
    any, a text without one is refused.
    """

    port: int = 0
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=lambda: dict(TOKENS))
    replies: deque[dict[str, Any]] = field(default_factory=deque)
    faults: deque[Fault] = field(default_factory=deque)
    faults_of: defaultdict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    calls: list[Call] = field(default_factory=list)
    vectors: dict[str, list[float]] = field(default_factory=dict)
    gate: asyncio.Barrier | asyncio.Event | None = None
    only: str | None = None
    props: dict[str, Any] | None = None
    url: str = ""

    async def __aenter__(self) -> Self:
        self.arrived = asyncio.Event()
        self.abandoned = asyncio.Event()
        application = web.Application(client_max_size=64 * 1024 * 1024)
        for prefix in ("", "/v1", "/at/{name}", "/at/{name}/v1"):
            application.router.add_post(f"{prefix}/{openai_wire.PATH}", self.complete)
            application.router.add_post(f"{prefix}/{anthropic_wire.PATH}", self.complete)
            application.router.add_post(f"{prefix}/{openai_wire.EMBEDDINGS}", self.embed)
            application.router.add_get(f"{prefix}/models", self.models)
        application.router.add_post("/faults", self.command)
        application.router.add_get("/props", self.properties)
        self.runner = web.AppRunner(
            application, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await self.runner.setup()
        # A queue that is full makes a client wait a second before it tries again.
        site = web.TCPSite(self.runner, "127.0.0.1", self.port, backlog=1024)
        await site.start()
        self.port = self.runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self.runner.cleanup()

    def at(self, name: str) -> str:
        """The base URL of one deployment."""
        return f"{self.url}/at/{name}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self.runner.server.connections) if self.runner.server is not None else 0

    def calls_of(self, name: str) -> list[Call]:
        """The calls of one deployment, or of one model."""
        return [call for call in self.calls if call.of == name]

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        peer = request.transport.get_extra_info("peername") if request.transport else None
        of = request.match_info.get("name", body["model"])
        self.calls.append(Call(request.path, dict(request.headers), body, peer, of))
        self.arrived.set()
        try:
            await asyncio.sleep(self.seconds)
            if self.gate is not None:
                await self.gate.wait()
            if (refusal := self.refusal_of(body)) is not None:
                return refusal
            queue = self.faults_of[of] or self.faults
            fault = queue.popleft() if queue else None
            return await Answer(self, request, body).given(fault)
        except (asyncio.CancelledError, ConnectionError):
            self.abandoned.set()
            raise

    async def embed(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.calls.append(Call(request.path, dict(request.headers), body, None, body["model"]))
        if queue := self.faults_of[body["model"]]:
            status = queue.popleft().status
            return web.json_response(openai_wire.error(status, "a fault"), status=status)
        made = openai_wire.embeddings(body)
        if self.vectors:
            for row in made["data"]:
                row["embedding"] = self.vectors[body["input"][row["index"]]]
        return web.json_response(made)

    def refusal_of(self, body: dict[str, Any]) -> web.Response | None:
        strangers = sorted(body.keys() - openai_wire.FIELDS)
        if self.only is None or (self.only == body["model"] and not strangers):
            return None
        if strangers:
            return web.json_response(
                openai_wire.error(400, f"Unknown parameter: '{strangers[0]}'"), status=400
            )
        text = f"The model '{body['model']}' does not exist"
        return web.json_response(openai_wire.error(404, text), status=404)

    async def command(self, request: web.Request) -> web.Response:
        told = await request.json()
        queue = self.faults_of[told.pop("of")] if "of" in told else self.faults
        queue.append(Fault(**told))
        return web.json_response({"waiting": len(queue)})

    async def properties(self, request: web.Request) -> web.Response:
        """What llama.cpp's server says of its model."""
        return web.json_response(self.props, status=200 if self.props else 404)

    async def models(self, request: web.Request) -> web.Response:
        data = [{"id": self.only or SERVER, "object": "model"}]
        return web.json_response({"object": "list", "data": data})


class Answer:
    """The answer to one call, in the API and the manner (whole or streamed) that it came by."""

    def __init__(self, fake: FakeProvider, request: web.Request, body: dict[str, Any]) -> None:
        self.fake = fake
        self.request = request
        self.body = body
        self.streamed = bool(body.get("stream"))
        self.wire = anthropic_wire if request.path.endswith(f"/{anthropic_wire.PATH}") else openai_wire

    async def given(self, fault: Fault | None) -> web.StreamResponse:
        match fault.kind if fault else "":
            case "":
                return await self.sent(self.pieces())
            case "hang":
                await asyncio.Event().wait()
            case "slow":
                await asyncio.sleep(fault.seconds)
                return await self.sent(self.pieces())
            case "drip":
                return await self.sent(self.pieces(), fault.seconds)
            case "raw":
                return await self.sent(fault.pieces)
            case "drop" | "stall" | "garbage" | "error":
                return await self.cut_short(fault)
            case "wrong-type":
                page, status = b"".join(fault.pieces), fault.status if fault.pieces else 200
                return web.Response(body=page or b"<h1>fake</h1>", status=status, content_type="text/html")
            case "oversized":
                return web.Response(text=json.dumps("x" * fault.size), content_type="application/json")
            case "body":
                return web.json_response(fault.body)
        error = fault.body or self.wire.error(
            fault.status, f"a fault on command, quoting {await self.request.text()}"
        )
        headers = {"server": SERVER, **fault.headers}
        return web.json_response(error, status=fault.status, headers=headers)

    def pieces(self) -> list[bytes]:
        message = self.fake.replies.popleft() if self.fake.replies else made_up(self.body)
        if self.streamed:
            return self.wire.stream(self.body, message, self.fake.usage)
        whole = json.dumps(self.wire.completion(self.body, message, self.fake.usage)).encode()
        return [whole[at : at + 64] for at in range(0, len(whole), 64)]

    async def sent(self, pieces: list[bytes], seconds: float = 0.0) -> web.StreamResponse:
        if not self.streamed and not seconds:
            return web.Response(
                body=b"".join(pieces),
                content_type="application/json",
                headers={"server": SERVER, **self.fake.headers},
            )
        response = await self.begun()
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(seconds)
        await response.write_eof()
        return response

    async def begun(self) -> web.StreamResponse:
        kind = "text/event-stream" if self.streamed else "application/json"
        response = web.StreamResponse(headers={"content-type": kind, "server": SERVER, **self.fake.headers})
        await response.prepare(self.request)
        return response

    async def cut_short(self, fault: Fault) -> web.StreamResponse:
        """Half of an answer, and then what the fault says."""
        if fault.kind == "garbage" and not self.streamed:
            return web.Response(text='{"choices": [', content_type="application/json")
        pieces = self.pieces()
        response = await self.begun()
        for piece in pieces[: len(pieces) // 2]:
            await response.write(piece)
        if fault.kind == "stall":
            await asyncio.Event().wait()
        if fault.kind == "garbage":
            await response.write(b'data: {"choices": [\n\n')
        if fault.kind == "error":
            told = fault.body or self.wire.error(fault.status, "a fault on command within a stream")
            await response.write(self.wire.stream_error(told))
        if fault.kind == "drop":
            assert self.request.transport is not None
            self.request.transport.abort()
            return response
        await response.write_eof()
        return response


def made_up(body: dict[str, Any]) -> dict[str, Any]:
    """An answer of its own: it says what it is, and repeats the last message."""
    text = f"{SERVER} answers, and is no model: {text_of(body['messages'][-1].get('content'))}"
    answer = json.dumps({"answer": text})
    forced = body.get("tool_choice")
    if isinstance(forced, dict) and forced["type"] == "tool":  # so Anthropic is asked for a shape
        return tool_call(forced["name"], answer)
    return {"content": answer if "response_format" in body else text}


def text_of(content: Any) -> str:
    """The text of a message, which may come in parts."""
    if isinstance(content, list):
        return " ".join(text_of(part.get("text") or part.get("content")) for part in content)
    return content or ""


def tool_call(name: str, arguments: str, call_id: str = "call_1") -> dict[str, Any]:
    """A reply that calls one tool, for `replies`."""
    return tool_calls((name, arguments, call_id))


def tool_calls(*calls: tuple[str, str, str]) -> dict[str, Any]:
    """A reply that calls tools: each by its name, arguments and id."""
    return {
        "tool_calls": [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments, call_id in calls
        ]
    }


async def serve(port: int) -> None:
    async with FakeProvider(port=port) as fake:
        print(f"{SERVER} (no model is behind it) at {fake.url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
