"""Tools of MCP servers as tools of agents: their names, what they may do, their schemas and their results.

A server of the protocol 2026-07-28 may answer a call by `input_required`: questions, and a state to send back
with the answers. The call is then repeated with both, also by a process that was started since: each round is
kept, and people are waited for durably. One without questions asks to be called again later. A server that
answers by a task is asked for the outcome of that (`remote_tasks`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from mimetypes import guess_extension
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.errors import PydanticUserError

from meshwright import File, ToolContext, ToolFailed, Toolset, WaitExpired
from meshwright.agents.tools.limited_work import head_and_tail
from meshwright.agents.tools.tool import Effect
from meshwright.core.comments import mark_arguments
from meshwright.core.display import left_out_text
from meshwright.core.part import Caution
from meshwright.core.redaction import foreign_words
from meshwright.core.schema_checks import safe_schema
from meshwright.kit import InvalidInput, short
from meshwright.parts.mcp.connection import NOTHING_OF_OURS, ServerConnection, call_remedy
from meshwright.parts.mcp.consent import Consents, ToolDocument
from meshwright.parts.mcp.remote_tasks import follow
from meshwright.parts.mcp.schemas import repaired_schema
from meshwright.parts.mcp.settings import McpServer, McpServerSettings, find_server
from meshwright.parts.mcp.sign_in import SignIns
from meshwright.tools import Tool, ToolSettings

if TYPE_CHECKING:
    from mcp import types


_MAX_NAME_CHARS = 64  # that models take
_DIGEST_CHARS = 8  # behind a name that had to be changed
_MAX_DESCRIPTION_CHARS = 16_000
_MAX_TEXT_CHARS = 400_000
_MAX_FILE_BYTES = 2_000_000  # of all files of a result
_logger = logging.getLogger("meshwright.mcp")


class McpTool(Tool):
    """A tool of a server, under the name `SERVER_TOOL`. Raises ValueError for one that is not safe to offer.

    A call of a program that runs here is a read where its table or the program says so, of a server elsewhere
    where its table says so. All others count as changes.
    """

    def __init__(
        self,
        connection: ServerConnection,
        name: str,
        settings: McpServerSettings,
        remote: types.Tool,
        server: McpServer,
        current: Callable[[], ServerConnection],
    ) -> None:
        hints = remote.annotations if server.command else None
        self.target, self._masked = server.where, server.masked
        self.server, self.remote = name, remote.name
        self.name = tool_name(name, remote.name)
        self.description = remote.description or remote.title or remote.name
        self.parameters = usable_schema(remote, has_tasks=connection.has_tasks)
        reads = is_named(remote.name, settings.reads) or bool(hints and hints.read_only_hint)
        self.effect: Effect = "read" if reads else "change"
        self.origin = settings.origin
        self.is_repeatable = (
            reads or is_named(remote.name, settings.idempotent) or bool(hints and hints.idempotent_hint)
        )
        # Within a call that may ask and wait, the step that must not be repeated is a smaller one.
        self.idempotent = self.is_repeatable or connection.is_modern
        self.needs_approval = settings.approve == "always" or (settings.approve == "changes" and not reads)
        self.timeout = math.inf if connection.is_modern else settings.timeout_seconds
        self._seconds = settings.timeout_seconds
        self._is_modern = self.connects_late = connection.is_modern
        self.connection = current

    async def call(self, arguments: str, context: ToolContext) -> Any:
        """Call it at the server, which may ask a person first. Raises ToolFailed with the server's words."""
        values = mark_arguments(self.remote, self.validated(arguments))
        if self._is_modern:
            result = await called_in_rounds(self, values, context)
        else:
            result = await self.send(values, context)
        return read_contents(self.remote, result, self._masked)

    async def send(
        self,
        values: Mapping[str, Any],
        context: ToolContext,
        answers: Mapping[str, Any] | None = None,
        state: str | None = None,
    ) -> Any:
        """Send one call, or repeat it with `answers` that the server has asked for. Raises ToolFailed."""
        report = context.progress_reporter()
        try:
            async with asyncio.timeout(self._seconds):
                return await self.connection().call(
                    self.remote, values, answers=answers, state=state, key=context.step_id, report=report
                )
        except TimeoutError:
            problem = f"{self.name} did not end within {self._seconds:g} seconds and was given up"
            remedy = "" if self.is_repeatable else "It may still take effect: look before you call it again"
            raise ToolFailed(problem, remedy=remedy) from None


def usable_schema(remote: types.Tool, *, has_tasks: bool = False) -> dict[str, Any]:
    """The schema of a tool's arguments. Raises ValueError for a tool that is not safe to offer."""
    schema = safe_schema(repaired_schema(remote.input_schema))
    needs_task = remote.execution is not None and remote.execution.task_support == "required"
    if needs_task and not has_tasks:
        raise ValueError("it runs only as a task, and its server lacks the extension for them of 2026-07-28")
    if len(remote.description or remote.title or "") > _MAX_DESCRIPTION_CHARS:
        raise ValueError(f"its description has over {_MAX_DESCRIPTION_CHARS:,} characters")
    return schema


def is_named(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns fits a name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def tool_name(server: str, tool: str) -> str:
    """The name under which a model calls a tool; a digest keeps names apart that had to be changed."""
    full_name = f"{server}_{tool}"
    name = re.sub(r"[^A-Za-z0-9_-]", "_", full_name)
    if name == full_name and len(name) <= _MAX_NAME_CHARS:
        return name
    digest = hashlib.sha256(full_name.encode(errors="replace")).hexdigest()[:_DIGEST_CHARS]
    return f"{name[: _MAX_NAME_CHARS - _DIGEST_CHARS - 1]}_{digest}"


def consent_document(remote: types.Tool) -> str:
    """All that a person consents to in a tool, as JSON text."""
    document = {
        "name": remote.name,
        "description": remote.description or remote.title or "",
        "input_schema": remote.input_schema,
        "annotations": remote.annotations.model_dump(exclude_none=True) if remote.annotations else {},
    }
    return json.dumps(document, sort_keys=True, ensure_ascii=False)


def read_contents(tool: str, result: types.CallToolResult, masked: Callable[[str], str]) -> Any:
    """A result as text and files, or structured data where it has nothing else. Raises ToolFailed."""
    parts = [_content(tool, number, content) for number, content in enumerate(result.content, start=1)]
    size = 0
    for place, part in enumerate(parts):
        if isinstance(part, File):
            size += len(part.data)
            if size > _MAX_FILE_BYTES:
                parts[place] = f"[{part.name}: {len(part.data):,} bytes, which is too large to carry]"
    texts = [head_and_tail(masked(str(part)), _MAX_TEXT_CHARS) for part in parts]
    if result.is_error:
        problem = "\n".join(texts).strip() or f"{tool} failed, and its server does not say why"
        raise ToolFailed(problem, remedy=call_remedy(problem))
    if not parts:
        return json.loads(masked(json.dumps(result.structured_content)))
    if any(isinstance(part, File) for part in parts):
        return [part if isinstance(part, File) else text for part, text in zip(parts, texts, strict=True)]
    data = result.structured_content
    if data and not any(_says(text, data) for text in texts):
        texts.append(head_and_tail(masked(json.dumps(data, ensure_ascii=False)), _MAX_TEXT_CHARS))
    return "\n".join(texts)


def _says(text: str, data: Mapping[str, Any]) -> bool:
    """Whether a text is the structured data already, or the one value that a library wraps in it."""
    if len(data) == 1 and str(next(iter(data.values()))).strip() == text.strip():
        return True
    try:
        said = json.loads(text)
    except ValueError:
        return False
    return said == data or data == {"result": said}


def _content(tool: str, number: int, content: Any) -> str | File:
    match content.type:
        case "text":
            return content.text
        case "image" | "audio":
            suffix = guess_extension(content.mime_type) or ""
            return _file(f"{tool}-{number}{suffix}", content.mime_type, content.data)
        case "resource":
            resource = content.resource
            uri = str(resource.uri)
            if hasattr(resource, "text"):
                return f"{uri}:\n{resource.text}"
            name = uri.rstrip("/").rpartition("/")[2] or f"{tool}-{number}"
            return _file(name, resource.mime_type or "", resource.blob)
        case "resource_link":
            return f"[resource {content.name}: {content.uri}]"
        case _:
            return f"[{content.type}]"


def _file(name: str, media_type: str, data: str) -> str | File:
    try:
        return File(name=name, media_type=media_type, data=base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError, InvalidInput):
        return f"[{name}: no usable content]"


class McpToolset(Toolset):
    """The tools of one MCP server. Agents name it as `mcp.NAME`, or its table names them."""

    name = "mcp"
    kind = "mcp"
    config_type = McpServerSettings
    config: McpServerSettings

    def __init__(self, settings: ToolSettings) -> None:
        super().__init__(settings)
        self._server = find_server(self.table, self.config, settings.project)
        self._connection: ServerConnection | None = None
        self._unlisten: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Start the program, or connect to the address."""
        url = self._server.url
        auth = await self.settings.get(SignIns).provider(self.table, url) if url else None
        self._connection = ServerConnection(
            self._server, self.settings.project, self.lost, self.changed, auth
        )
        self._unlisten = self._consents().listen(self.table, self.changed)
        await self._connection.open()

    def connection(self) -> ServerConnection:
        """The present connection. Raises ToolFailed while there is none."""
        if self._connection is None or self._connection.ended_by:
            reason = self._connection.ended_by if self._connection else "it is not connected"
            problem = f"mcp.{self.table} is not available: {reason}"
            raise ToolFailed(problem, remedy="It is tried again: go on without it, or call it later")
        return self._connection

    async def tools(self) -> Sequence[Tool]:
        """The tools that are offered: named in the table, agreed to, and safe."""
        connection = self._connection
        if connection is None:  # before the start none is known
            return ()
        listed = {tool.name: tool for tool in await connection.tools()}
        allowed = [tool for name, tool in listed.items() if is_named(name, self.config.tools)]
        documents = [ToolDocument.describe(tool.name, consent_document(tool)) for tool in allowed]
        consent = await self._consents().offer(self.table, self.config.tools, documents)
        accepted = [tool for tool in allowed if tool.name not in consent.withheld]
        offered, left_out = self._usable(connection, accepted)
        for name, reason in left_out.items():
            if self.left_out.get(name) != reason:
                _logger.warning("The tool %s of mcp.%s is left out: %s", name, self.table, reason)
        self.left_out = left_out
        return offered

    def _usable(
        self, connection: ServerConnection, listed: Sequence[types.Tool]
    ) -> tuple[list[Tool], dict[str, str]]:
        """The tools that are safe to offer, and why the others, and those that could not be read, are not."""
        unreadable = connection.left_out.items()
        reasons = {name: reason for name, reason in unreadable if is_named(name, self.config.tools)}
        usable: list[Tool] = []
        for tool in listed:
            try:
                usable.append(
                    McpTool(connection, self.table, self.config, tool, self._server, self.connection)
                )
            except (ValueError, RecursionError) as error:
                reasons[foreign_words(tool.name)] = foreign_words(str(error))
        return usable, {name: self._server.masked(reason) for name, reason in reasons.items()}

    async def check(self) -> str:
        """How many tools it has, and which of them its table offers."""
        assert self._connection is not None
        listed = await self._connection.tools()
        named = [tool for tool in listed if is_named(tool.name, self.config.tools)]
        _, left_out = self._usable(self._connection, named)
        offered = ", ".join(tool.name for tool in named if foreign_words(tool.name) not in left_out)
        count = len(listed) + len(self._connection.left_out)
        what = offered or f"none (mesh mcp show {self.table})"
        sentence = f"{self._server.where} answers; of its {count} tools are offered: {what}"
        return Caution(f"{sentence}{left_out_text(left_out)}") if left_out else sentence

    async def close(self) -> None:
        """End the program, or the connection."""
        self._unlisten()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _consents(self) -> Consents:
        return self.settings.get(Consents)


# Rounds of a call

_MAX_ROUNDS = 100
_MAX_FIELDS = 20
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 60.0  # before a server without questions is called again
_DONE = {"done": True}
_TYPES: Mapping[str, Any] = {"string": str, "number": float, "integer": int, "boolean": bool}


class _ServerTool(Protocol):
    server: str
    name: str
    is_repeatable: bool

    def connection(self) -> ServerConnection: ...

    async def send(
        self,
        values: Mapping[str, Any],
        context: ToolContext,
        answers: Mapping[str, Any] | None = None,
        state: str | None = None,
    ) -> Any: ...


class LinkVisit(BaseModel):
    """A person's word that an address was opened, and what it asks for is done."""

    model_config = ConfigDict(title="Opened")

    is_done: bool = Field(alias="done")


async def called_in_rounds(tool: _ServerTool, values: Mapping[str, Any], context: ToolContext) -> Any:
    """The result of a call, after as many rounds as its server asks for. Raises ToolFailed."""
    answers: dict[str, Any] | None = None
    state: str | None = None
    pause = _MIN_PAUSE_SECONDS
    for _ in range(_MAX_ROUNDS):
        result, request = await _round(tool, values, answers, state, context)
        if request is None:
            return result
        if request["resultType"] == "task":
            return await follow(tool, request, lambda question: _answer(tool, question, context), context)
        state, questions = request.get("requestState"), request.get("inputRequests") or {}
        if questions:
            answers = {key: await _answer(tool, question, context) for key, question in questions.items()}
            pause = _MIN_PAUSE_SECONDS
        else:
            await context.sleep(pause)
            answers, pause = None, min(2 * pause, _MAX_PAUSE_SECONDS)
    raise ToolFailed(f"{tool.name} still asks for more after {_MAX_ROUNDS} rounds")


async def _round(
    tool: _ServerTool,
    values: Mapping[str, Any],
    answers: Mapping[str, Any] | None,
    state: str | None,
    context: ToolContext,
) -> tuple[Any, dict[str, Any] | None]:
    """One round: the result, or what the server asks for, which the journal keeps.

    The result itself is kept by the step of the whole call. If the process died just between the two, only a
    call that may be repeated is repeated.
    """
    results: list[Any] = []

    async def send() -> dict[str, Any]:
        result = await tool.send(values, context, answers, state)
        if result.result_type in ("input_required", "task"):
            document = result.model_dump(mode="json", by_alias=True, exclude_none=True)
            return document if result.result_type == "input_required" else {**document, "server": tool.server}
        results.append(result)
        return _DONE

    document = await context.step(tool.name, send, repeatable=tool.is_repeatable)
    if document != _DONE:
        if isinstance(document, dict) and "resultType" in document:
            return None, document
        raise ToolFailed(f"{tool.name} was interrupted and is not run again", remedy=str(document or ""))
    if not results and not tool.is_repeatable:
        raise ToolFailed(f"{tool.name} was run, and its result is lost", remedy="Look whether it took effect")
    return (results[0] if results else await tool.send(values, context, answers, state)), None


async def _answer(tool: _ServerTool, request: Mapping[str, Any], context: ToolContext) -> Any:
    """The answer of a person to one question. Raises ToolFailed for requests that are none."""
    from mcp import types

    if request.get("method") != "elicitation/create":
        subject = "a model" if request.get("method") == "sampling/createMessage" else "your folders"
        problem = f"{tool.name} was not run: its server asks for {subject}, which it does not get"
        raise ToolFailed(problem, remedy=NOTHING_OF_OURS)
    params = request["params"]
    question = f"The MCP server {tool.server} asks, for a call of {tool.name}: {short(params['message'])}"
    about = {"server": tool.server, "tool": tool.name}
    try:
        if params.get("mode") == "url":
            url = _safe_url(tool, params["url"])
            question = f"{question} Open {url} and say whether you have done what it asks."
            visit = await context.ask_person(question, shape=LinkVisit, about={**about, "url": url})
            return types.ElicitResult(action="accept" if visit.is_done else "decline")
        shape = answer_shape(tool.name, params["requestedSchema"])
        answer = await context.ask_person(question, shape=shape, about=about)
        content = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
        return types.ElicitResult(action="accept", content=content)
    except WaitExpired:
        return types.ElicitResult(action="cancel")


def _safe_url(tool: _ServerTool, url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.username or not parts.hostname:
        raise ToolFailed(f"{tool.name} was not run: its server asks a person to open {short(url)!r}")
    return url


def answer_shape(tool: str, schema: Mapping[str, Any]) -> type[BaseModel]:
    """The shape of an answer, of the few kinds of fields that servers may ask for. Raises ToolFailed."""
    properties, required = schema.get("properties") or {}, set(schema.get("required") or ())
    fields: dict[str, Any] = {}
    for number, (name, field) in enumerate(properties.items()):
        kind = _field_type(field)
        is_required = name in required
        described = Field(
            ... if is_required else None, alias=name, description=short(field.get("description") or name)
        )
        fields[f"field_{number}"] = (kind if is_required else kind | None, described)
    try:
        if not fields or len(fields) > _MAX_FIELDS:
            raise ValueError(f"{len(fields)} fields")
        return create_model("Answer", __config__=ConfigDict(extra="forbid"), **fields)
    except (ValueError, TypeError, PydanticUserError) as error:
        problem = f"{tool} was not run: its server asks in a form that is not known"
        raise ToolFailed(f"{problem}: {error}") from error


def _field_type(schema: Mapping[str, Any]) -> Any:
    one_of: Any = Literal
    choices = schema.get("enum") or [one["const"] for one in schema.get("oneOf") or schema.get("anyOf") or ()]
    if choices:
        return one_of[tuple(choices)]
    if schema.get("type") == "array":
        items: Any = _field_type(schema.get("items") or {})
        return list[items]
    return _TYPES.get(str(schema.get("type")), str)
