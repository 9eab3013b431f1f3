"""The gateway of one run: calls of models and of tools by HTTP, for the coding agent in the box of that run.

It is all of the box's network, listens there alone, and lives as long as the attempt. Each call of a model is
a step of the run. `/mcp` offers the tools of the run.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from contextvars import copy_context
from typing import Any

from msgspec.structs import replace
from pydantic import ValidationError
from pydantic_core import from_json

from meshwright import MeshError, Run
from meshwright.component import ModelRequest
from meshwright.core.errors import Unauthenticated
from meshwright.core.http_limits import LimitedServer
from meshwright.kit import InvalidInput, NotFound, TooLarge
from meshwright.models.port import ANTHROPIC_PARAMS
from meshwright.models.wire.dialects import DIALECTS
from meshwright.models.wire.messages import CountRequest, count_tokens
from meshwright.models.wire.port import plain_names
from meshwright.money.keys import RUN_PREFIX
from meshwright.parts.coding.known_calls import KnownCalls
from meshwright.parts.coding.mcp import McpAnswers

_logger = logging.getLogger("meshwright.coding")
_MAX_BODY_BYTES = 64_000_000
_MAX_REFUSED = 20
_STOP_SECONDS = 1
_MCP = "/mcp"
_COUNT_TOKENS = "/v1/messages/count_tokens"
_PASSED = ("content-type", "anthropic-version", "anthropic-beta")
_PARAMS = frozenset(
    {"top_p", "top_k", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty", "logit_bias"}
    | {"repetition_penalty", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention"}
    | {"safety_identifier", "reasoning_effort", "reasoning", "include_reasoning", "verbosity", "thinking"}
    | {"enable_thinking", "thinking_budget", "chat_template_kwargs", "dimensions"}
)
"""The parameters that say how a model answers. Others may say which one does, where, or at which price."""
_ANTHROPIC_PARAMS = frozenset(
    {"thinking", "context_management", "top_k", "cache_control", "output_config", "betas"}
)
_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
_ENDED = {"error": {"message": "The run has ended", "type": "server_error"}}
_Receive = Callable[[], Awaitable[Mapping[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]


class Gateway:
    """Answers the programs of a box with `token`, and no others; `refused` lists what they tried beside.

    It belongs to the asyncio context in which it is made: that of the run's own code. `interrupted` has the
    exception that ends the run in the middle of a call, which its own code has to raise; `refusal` has the
    error of the last call of a model.
    """

    def __init__(self, run: Run, model: str = "", known: KnownCalls | None = None) -> None:
        self.token = f"{RUN_PREFIX}{secrets.token_urlsafe(32)}"
        self.refused: list[str] = []
        self.refusal: MeshError | None = None
        self.address = ""
        self._run = run
        self._model = model or "default"
        self._known = known
        self._tools = McpAnswers(run, known)
        self._context = copy_context()
        self.interrupted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server: LimitedServer | None = None
        self._is_open = True
        run.begin_life()

    async def serve(self, listener: socket.socket) -> None:
        """Accept connections at a listening socket, until it is closed."""
        listener.setblocking(False)
        host, port = listener.getsockname()[:2]
        self.address = f"http://{host}:{port}"
        self._server = LimitedServer(self.answer, interface="asgi3", timeout_graceful_shutdown=_STOP_SECONDS)
        await self._server.start(listener)

    def go_on(self) -> None:
        """Note that the session goes on where it was: each call of a tool is new, none one made before."""
        self._tools.goes_on = True
        if self._known is not None:
            self._known.go_on()

    async def close(self) -> None:
        """Refuse every call from now on, and end all connections."""
        self._is_open = False
        if self._server is not None:
            self._server.force_exit = True
            await self._server.close()
            self._server = None

    async def answer(self, scope: Mapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Answer one request, as an ASGI application: each in a task of its own, as a branch of the run."""
        if scope["type"] != "http":
            return
        response = _Response(send)
        answering = self._answer_program(scope, receive, response.send)
        task = asyncio.create_task(answering, context=self._context.copy())
        try:
            await task
        except asyncio.CancelledError:
            if (caller := asyncio.current_task()) is None or caller.cancelling():
                raise
            await response.cut_off()  # the run waits, and will begin its program again
        except Exception:
            raise
        except BaseException as error:  # noqa: BLE001 - it unwinds the run, whose code waits elsewhere
            if not self.interrupted.done():
                self.interrupted.set_exception(error)
            await response.cut_off()

    async def _answer_program(self, scope: Mapping[str, Any], receive: _Receive, send: _Send) -> None:
        with self._run.program_block():
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Mapping[str, Any], receive: _Receive, send: _Send) -> None:
        path, method = scope["path"], scope["method"]
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        try:
            self._check(scope, headers)
            body = await _body(receive)
            if path == _MCP:
                status, document = await self._tools.answer(method, body)
                await _reply(send, status, document)
            elif method == "POST" and path == _COUNT_TOKENS:
                await _reply(send, 200, {"input_tokens": _token_count(body)})
            elif method == "POST" and path in DIALECTS:
                await self._ask(path, headers, body, send)
            elif method == "HEAD":  # some clients look whether anybody answers
                await _reply(send, 200, None)
            else:
                raise NotFound(
                    f"The gateway of a run has no {method} {path}",
                    remedy=f"It answers POST to {', '.join(DIALECTS)} and {_MCP}, and has no API of Gemini: "
                    "configure the program for one of OpenAI or Anthropic",
                )
        except MeshError as error:
            dialect = DIALECTS.get(path) or DIALECTS["/v1/chat/completions"]
            status, more, document = dialect.error(error)
            await _reply(send, status, document, more)

    def _check(self, scope: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Raise Unauthenticated for a caller that is not this run's, or comes after its end."""
        host = headers.get("host", "")
        if f"http://{host}" != self.address and len(self.refused) < _MAX_REFUSED:
            self.refused.append(f"{host[:200]}: a run may call its gateway alone")
        _, _, bearer = headers.get("authorization", "").partition(" ")
        key = headers.get("x-api-key") or headers.get("x-goog-api-key") or bearer
        if not (self._is_open and hmac.compare_digest(key.encode(), self.token.encode())):
            raise Unauthenticated(
                "This key is not that of a run that is under way",
                remedy="A coding agent is given the key of its own run, for as long as that lasts",
            )
        if f"http://{host}" != self.address:
            raise NotFound("The gateway of a run is no proxy: a box has no other network")

    async def _ask(self, path: str, headers: Mapping[str, str], body: bytes, send: _Send) -> None:
        document = _document(body)
        if self._model and "model" in document:
            document["model"] = self._model
        for chooser in (document, document.get("metadata")):  # the table alone chooses the deployment
            if isinstance(chooser, dict):
                chooser.pop("tags", None)
        passed_headers = {name: headers[name] for name in _PASSED if name in headers}
        sent = json.dumps(document).encode()
        on_reply = None if self._known is None else self._known.note_reply
        answer = await self._run.wire.answer("POST", path, passed_headers, sent, self._restricted, on_reply)
        self.refusal = answer.error
        await _begin(send, answer.status, [*answer.headers.items()])
        if isinstance(answer.body, bytes):
            return await send({"type": "http.response.body", "body": answer.body})
        async with aclosing(answer.body) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _restricted(self, request: ModelRequest) -> ModelRequest:
        if self._known is not None:
            self._known.note_request(request)
        _require_contents(request)
        return _without_choices(request)


def _require_contents(request: ModelRequest) -> None:
    """Raise InvalidInput for a picture or a file that the provider would fetch."""
    for part in (part for message in request.messages for part in message.parts):
        for name in (name for name in part if name != "text"):
            inner = part[name].values() if isinstance(part[name], Mapping) else (part[name],)
            if any(isinstance(value, str) and _ADDRESS.match(value) for value in inner):
                raise InvalidInput(
                    f"The {part.get('type')} is an address, and the box has no network but its models",
                    remedy="Send its contents",
                    field=f"messages.content.{name}"[:200],
                )


def _without_choices(request: ModelRequest) -> ModelRequest:
    """A program's call without the parameters that are the table's; the event of the call names them."""
    params = {name: value for name, value in request.params.items() if name in _PARAMS}
    native = request.params.get(ANTHROPIC_PARAMS)
    if isinstance(native, Mapping):
        params[ANTHROPIC_PARAMS] = {name: native[name] for name in native if name in _ANTHROPIC_PARAMS}
    names = [*request.params, *(native if isinstance(native, Mapping) else ())]
    left_out = [name for name in names if name not in _PARAMS | _ANTHROPIC_PARAMS | {ANTHROPIC_PARAMS}]
    passed_over = (*request.context.passed_over, *plain_names(left_out))
    return replace(request, params=params, context=replace(request.context, passed_over=passed_over))


class _Response:
    """The response to one request, which may be cut off before or after its beginning."""

    def __init__(self, send: _Send) -> None:
        self._send = send
        self._has_begun = False

    async def send(self, message: dict[str, Any]) -> None:
        self._has_begun = True
        await self._send(message)

    async def cut_off(self) -> None:
        if self._has_begun:
            await self._send({"type": "http.response.body", "body": b""})
        else:
            await _reply(self._send, 503, _ENDED)


async def _body(receive: _Receive) -> bytes:
    parts, size, more = list[bytes](), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > _MAX_BODY_BYTES:
            raise TooLarge(f"The request has more than {_MAX_BODY_BYTES:,} bytes")
        more = message.get("more_body", False)
    return b"".join(parts)


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise InvalidInput("The request is no object of JSON")
    return document


def _token_count(body: bytes) -> int:
    """About how many tokens a prompt of Anthropic's API has."""
    try:
        return count_tokens(CountRequest.model_validate(_document(body)))
    except ValidationError as error:
        raise InvalidInput(f"The prompt cannot be read: {error.errors()[0]['msg']}") from error


async def _begin(send: _Send, status: int, headers: list[tuple[str, str]]) -> None:
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": pairs})


async def _reply(send: _Send, status: int, document: Any, headers: Mapping[str, str] | None = None) -> None:
    body = b"" if document is None else json.dumps(document).encode()
    own = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    await _begin(send, status, [*own.items()])
    await send({"type": "http.response.body", "body": body})
