"""Calls that a server answers by a task, as the extension `io.modelcontextprotocol/tasks` has it.

The id of the task is in the journal as soon as the server has said it: a run that is resumed asks for that
task, and starts no other. A task that no run waits for any more is cancelled at its server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from meshwright import ToolContext, ToolFailed
from meshwright.component import Mesh
from meshwright.core.redaction import foreign_words
from meshwright.mesh.orchestration.elsewhere import CancelsElsewhere, TaskElsewhere
from meshwright.parts.mcp.connection import ServerConnection, TaskRefused
from meshwright.parts.mcp.settings import McpServerSettings, find_server
from meshwright.parts.mcp.sign_in import SignIns

if TYPE_CHECKING:
    from mcp.types import CallToolResult

GET, UPDATE, CANCEL = "tasks/get", "tasks/update", "tasks/cancel"
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS, _PAUSE_FACTOR = 1.0, 300.0, 1.3
_ENDED = frozenset({"completed", "failed", "cancelled"})
_AWAY = "away"
_logger = logging.getLogger("meshwright.mcp")


class _FollowedTool(Protocol):
    server: str
    name: str

    def connection(self) -> ServerConnection: ...


async def follow(
    tool: _FollowedTool,
    created: Mapping[str, Any],
    answer: Callable[[Mapping[str, Any]], Awaitable[Any]],
    context: ToolContext,
) -> CallToolResult:
    """The result of a call's task, through restarts of the server and of the mesh. Raises ToolFailed.

    `answer` has a person answer what the server asks. Between two looks the run holds no slot.
    """
    task_id = str(created["taskId"])
    pause = max(_MIN_PAUSE_SECONDS, (created.get("pollIntervalMs") or 0) / 1000)
    answered: set[str] = set()
    shown = ""
    while True:
        ended: list[Any] = []

        async def look(shown: str = shown, ended: list[Any] = ended) -> dict[str, Any]:
            state = await _look(tool, task_id, ended)
            text = state.get("message", "")
            if text and text != shown:
                context.progress_reporter()(f"{tool.name}: {text}")
            return state

        state = await context.step(f"{tool.name} task", look)
        shown = state.get("message", shown)
        if state["status"] in _ENDED:
            while not ended:  # the journal has the end, not the result, which the server keeps
                await _look(tool, task_id, ended)
                await asyncio.sleep(0 if ended else _MIN_PAUSE_SECONDS)
            return _result(tool, ended[0])
        requests = {key: one for key, one in state.get("inputRequests", {}).items() if key not in answered}
        if requests:
            responses = {key: await answer(request) for key, request in requests.items()}
            answered |= requests.keys()

            async def send(responses: dict[str, Any] = responses) -> bool:
                return await _send_answers(tool, task_id, responses)

            while not await context.step(f"{tool.name} answer", send):
                await context.sleep(_MIN_PAUSE_SECONDS)
            pause = _MIN_PAUSE_SECONDS
        await context.sleep(pause)
        pause = min(pause * _PAUSE_FACTOR, _MAX_PAUSE_SECONDS)


async def _look(tool: _FollowedTool, task_id: str, ended: list[Any]) -> dict[str, Any]:
    """The state of a task for the journal; one that has ended is appended to `ended`."""
    try:
        task = await tool.connection().task(GET, task_id)
    except TaskRefused as error:
        raise ToolFailed(f"{tool.name} is lost at its server: {error}") from error
    except ToolFailed as error:  # the server may be restarted just now: its tasks outlive that
        return {"status": _AWAY, "taskId": task_id, "message": str(error)}
    if task.status in _ENDED:
        ended.append(task)
    document: dict[str, Any] = {"status": task.status, "taskId": task_id}
    if task.status_message:
        document["message"] = foreign_words(task.status_message)
    if task.input_requests:
        dumped = task.model_dump(mode="json", by_alias=True, exclude_none=True, include={"input_requests"})
        document |= dumped
    return document


async def _send_answers(tool: _FollowedTool, task_id: str, responses: Mapping[str, Any]) -> bool:
    plain = {
        key: one.model_dump(mode="json", by_alias=True, exclude_none=True) for key, one in responses.items()
    }
    try:
        await tool.connection().task(UPDATE, task_id, input_responses=plain)
    except TaskRefused as error:
        raise ToolFailed(f"{tool.name} is lost at its server: {error}") from error
    except ToolFailed:
        return False
    return True


def _result(tool: _FollowedTool, task: Any) -> CallToolResult:
    from mcp.types import CallToolResult

    if task.status == "cancelled":
        raise ToolFailed(f"{tool.name} was cancelled at its server")
    if task.status == "failed":
        error = task.error or {}
        words = foreign_words(str(error.get("message") or task.status_message or "it does not say why"))
        raise ToolFailed(f"{tool.name} failed at its server: {words}")
    try:
        return CallToolResult.model_validate(task.result, by_name=False)
    except ValidationError as error:
        raise ToolFailed(f"{tool.name} has ended with a result that cannot be read") from error


class RemoteTasks:
    """Cancels tasks at servers whose callers have ended without them, by connections of its own."""

    def __init__(self, mesh: Mesh, servers: Mapping[str, McpServerSettings], sign_ins: SignIns) -> None:
        self._mesh = mesh
        self._servers = servers
        self._sign_ins = sign_ins
        self._cancels = CancelsElsewhere(mesh, self._read, self._cancel) if servers else None

    async def stop(self) -> None:
        """Cancel no more. Idempotent."""
        if self._cancels is not None:
            await self._cancels.stop()

    def _read(self, agent_id: str, result: Mapping[str, Any]) -> TaskElsewhere | None:
        if not isinstance(remote := result.get("taskId"), str):
            return None
        if result.get("resultType") == "task" and result.get("server") in self._servers:
            return TaskElsewhere(result["server"], remote, has_ended=False)
        return TaskElsewhere("", remote, result.get("status") in _ENDED)

    async def _cancel(self, name: str, remote: str) -> None:
        try:
            await self._send_cancel(name, remote)
        except TaskRefused as error:
            _logger.info("Task %s of mcp.%s was not cancelled: %s", remote, name, error)

    async def _send_cancel(self, name: str, remote: str) -> None:
        project = self._mesh.project
        server = find_server(name, self._servers[name], project)
        auth = await self._sign_ins.provider(name, server.url) if server.url else None
        connection = ServerConnection(server, project, _do_nothing, _do_nothing, auth)
        try:
            await connection.open()
            await connection.task(CANCEL, remote)
        finally:
            await connection.close()


def _do_nothing(reason: str = "") -> None:
    """Takes what a connection says that is used once."""
