"""A client of the Agent Client Protocol: JSON-RPC, a message a line, over the stdio of a coding agent.

The agent is not trusted: its lines, its messages and what it leaves open are bounded, and each request has a
time. It gets neither files nor terminals of the client: it has those of its box.
"""

from __future__ import annotations

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from meshwright.core import __version__
from meshwright.core.streams import PEER_GONE
from meshwright.parts.coding.errors import CodingAgentFailed, CodingAgentGone

VERSION = 1
"""The version of the protocol that is spoken here."""
MAX_LINE_BYTES = 8_000_000
_MAX_BYTES, _MAX_LINES = 100_000_000, 200_000  # of a session
_FLOOD = "the coding agent floods its connection"
_MAX_STRAY_LINES = 200  # that are no messages, as some agents log
_MAX_OPEN_REQUESTS = 32
_START_SECONDS, _CANCEL_SECONDS = 120.0, 10.0
_MAX_OPTIONS, _MAX_NAME_CHARS = 8, 200  # of a permission
_NO_METHOD, _TOO_MANY = -32601, -32000
_STOP_REASONS = frozenset({"end_turn", "max_tokens", "max_turn_requests", "refusal", "cancelled"})


async def read_lines(reader: StreamReader) -> AsyncGenerator[bytes]:
    """Yields what a program writes, line by line, until it ends. Raises CodingAgentFailed for a flood."""
    size = count = 0
    while True:
        try:
            line = await reader.readline()
        except ValueError as error:
            raise CodingAgentFailed(f"a message is over {MAX_LINE_BYTES:,} bytes") from error
        except ConnectionError:
            return
        if not line:
            return
        size, count = size + len(line), count + 1
        if size > _MAX_BYTES or count > _MAX_LINES:
            raise CodingAgentFailed(_FLOOD)
        yield line
        if not count % 100:
            await asyncio.sleep(0)  # a flood leaves time for others


class AgentFeatures(NamedTuple):
    """The name and version of an agent, and how it takes up a session."""

    name: str
    version: str
    resumes: bool
    loads: bool
    has_http_tools: bool


class Permission(NamedTuple):
    """A request for a permission: the call of a tool, and the options by kind, with their names."""

    call: Mapping[str, Any]
    options: Mapping[str, str]
    names: tuple[str, ...] = ()

    def option(self, *, allow: bool) -> str | None:
        """The option for a yes or a no, rather for this once; None where the agent offers none."""
        kinds = ("allow_once", "allow_always") if allow else ("reject_once", "reject_always")
        return next((self.options[kind] for kind in kinds if kind in self.options), None)


class PromptEnd(NamedTuple):
    """Why a turn of the agent ended, by the protocol's own word, and what it said last."""

    reason: str
    text: str
    is_late: bool = False
    """Whether it had to end because its time was up."""


class AcpClient:
    """One connection to an agent. Run `listen` beside the calls; it ends them once the agent is gone.

    `decide` answers a permission: an option's id, or None for *cancelled*. `on_update` gets each update of
    the session, but for those with which a session is loaded. All methods raise CodingAgentFailed.
    """

    def __init__(
        self,
        reader: StreamReader,
        writer: StreamWriter,
        decide: Callable[[Permission], Awaitable[str | None]],
        on_update: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._reader, self._writer = reader, writer
        self._decide, self._on_update = decide, on_update
        self._calls: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._requests: dict[str, asyncio.Task[None]] = {}
        self._last_id = 0
        self._session_id = ""
        self._is_loading = False
        self._text: list[str] = []

    async def listen(self) -> None:
        """Take messages until the agent ends its output, then fail all that is open."""
        error: CodingAgentFailed = CodingAgentGone("the coding agent ended its connection")
        try:
            await self._take_all()
        except CodingAgentFailed as failed:
            error = failed
            raise
        finally:
            for call in self._calls.values():
                if not call.done():
                    call.set_exception(error)
            for request in self._requests.values():
                request.cancel()

    async def initialize(self) -> AgentFeatures:
        """Begin, and learn what the agent can."""
        capabilities = {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False}
        result = await self._call(
            "initialize",
            {
                "protocolVersion": VERSION,
                "clientCapabilities": capabilities,
                "clientInfo": {"name": "meshwright", "version": __version__},
            },
        )
        if (version := result.get("protocolVersion")) != VERSION:
            raise CodingAgentFailed(
                f"the coding agent speaks version {version!r} of the Agent Client Protocol, not {VERSION}",
                remedy="Install another version of its adapter; mesh doctor names it",
            )
        info, able = _table(result.get("agentInfo")), _table(result.get("agentCapabilities"))
        return AgentFeatures(
            name=str(info.get("name", ""))[:100],
            version=str(info.get("version", ""))[:100],
            resumes=_table(able.get("sessionCapabilities")).get("resume") is not None,
            loads=able.get("loadSession") is True,
            has_http_tools=_table(able.get("mcpCapabilities")).get("http") is True,
        )

    async def new_session(self, folder: str, servers: Sequence[Mapping[str, Any]]) -> str:
        """Begin a session in a folder, with MCP servers; returns its id."""
        result = await self._call("session/new", {"cwd": folder, "mcpServers": [*servers]})
        session_id = result.get("sessionId")
        if not isinstance(session_id, str) or not 0 < len(session_id) <= 200:
            raise CodingAgentFailed("the coding agent began a session without an id")
        self._session_id = session_id
        return session_id

    async def take_up(
        self, session_id: str, folder: str, servers: Sequence[Mapping[str, Any]], features: AgentFeatures
    ) -> bool:
        """Go on with a session of an earlier connection; false where the agent cannot, or has lost it.

        Some agents name a way that they then refuse, so each is tried.
        """
        params = {"sessionId": session_id, "cwd": folder, "mcpServers": [*servers]}
        self._session_id, self._is_loading = session_id, True
        try:
            ways = (("session/resume", features.resumes), ("session/load", features.loads))
            for method in (method for method, is_offered in ways if is_offered):
                with suppress(AgentRefused):
                    await self._call(method, params)
                    return True
        finally:
            self._is_loading = False
        return False

    async def set_mode(self, mode_id: str) -> None:
        """Change the mode of the session, where the agent has it."""
        with suppress(AgentRefused):
            await self._call("session/set_mode", {"sessionId": self._session_id, "modeId": mode_id})

    async def prompt(self, text: str, seconds: float) -> PromptEnd:
        """Have the agent work on a request, for so many seconds; then it is cancelled."""
        self._text.clear()
        content = [{"type": "text", "text": text}]
        params = {"sessionId": self._session_id, "prompt": content}
        asking = asyncio.ensure_future(self._call("session/prompt", params, seconds + _CANCEL_SECONDS))
        try:
            results, _ = await asyncio.wait([asking], timeout=seconds)
            if not results:
                self._send({"method": "session/cancel", "params": {"sessionId": self._session_id}})
            result = await asking
        finally:
            asking.cancel()
        reason = result.get("stopReason")
        if reason not in _STOP_REASONS:
            raise CodingAgentFailed(f"the coding agent ended its turn with {reason!r}, which is no reason")
        return PromptEnd(str(reason), "".join(self._text), is_late=not results)

    async def _call(
        self, method: str, params: Mapping[str, Any], seconds: float = _START_SECONDS
    ) -> Mapping[str, Any]:
        self._last_id = number = self._last_id + 1
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"id": number, "method": method, "params": params})
            async with asyncio.timeout(seconds):
                await self._writer.drain()
                message = await answer
        except TimeoutError:
            problem = f"the coding agent did not answer {method} within {seconds:g} seconds"
            raise CodingAgentFailed(problem) from None
        except PEER_GONE as error:
            raise CodingAgentGone("the coding agent ended its connection") from error
        finally:
            self._calls.pop(number, None)
        if "error" in message:
            error_fields = _table(message["error"])
            text = str(error_fields.get("message", "no reason"))[:500]
            detail = json.dumps(error_fields.get("data"))[:500] if error_fields.get("data") else ""
            raise AgentRefused(f"the coding agent refused {method}: {text} {detail}".rstrip())
        return _table(message.get("result"))

    async def _take_all(self) -> None:
        stray = 0
        async for line in read_lines(self._reader):
            message = _message(line)
            stray += message is None
            if stray > _MAX_STRAY_LINES:
                raise CodingAgentFailed(_FLOOD)
            if message is not None:
                self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        method, number = message.get("method"), message.get("id")
        if not isinstance(method, str):
            call = self._calls.get(number) if isinstance(number, int) else None
            if call is not None and not call.done():
                call.set_result(message)
        elif number is None:
            if method == "session/update":
                self._update(_table(message.get("params")))
        elif method == "session/request_permission":
            self._ask(number, _table(message.get("params")))
        else:
            error = {"code": _NO_METHOD, "message": f"{method} is not offered: use the files of your folder"}
            self._send({"id": number, "error": error})

    def _update(self, params: Mapping[str, Any]) -> None:
        if self._is_loading or params.get("sessionId") != self._session_id:
            return
        update = _table(params.get("update"))
        if update.get("sessionUpdate") == "agent_message_chunk":
            self._text.append(str(_table(update.get("content")).get("text", "")))
        elif update.get("sessionUpdate") == "tool_call":
            self._text.clear()  # what is said after the last call is the answer
        self._on_update(update)

    def _ask(self, number: Any, params: Mapping[str, Any]) -> None:
        key = json.dumps(number)
        if key in self._requests:
            return  # the same request again: it has one answer
        if len(self._requests) >= _MAX_OPEN_REQUESTS:
            error = {"code": _TOO_MANY, "message": "too many permissions are open"}
            return self._send({"id": number, "error": error})
        request = asyncio.create_task(self._answer(number, _permission(params)))
        self._requests[key] = request
        request.add_done_callback(lambda _: self._requests.pop(key, None))

    async def _answer(self, number: Any, permission: Permission) -> None:
        option = await self._decide(permission)
        chosen = {"outcome": "cancelled"} if option is None else {"outcome": "selected", "optionId": option}
        self._send({"id": number, "result": {"outcome": chosen}})

    def _send(self, message: Mapping[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


class AgentRefused(CodingAgentFailed):
    """A coding agent answered a request with an error."""


def _message(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _permission(params: Mapping[str, Any]) -> Permission:
    listed = params.get("options")
    options = [_table(option) for option in listed] if isinstance(listed, list) else []
    by_kind = {
        str(option.get("kind")): str(option.get("optionId")) for option in options if "optionId" in option
    }
    names = tuple(str(option.get("name", ""))[:_MAX_NAME_CHARS] for option in options[:_MAX_OPTIONS])
    return Permission(_table(params.get("toolCall")), by_kind, names)
