"""Requests and results of the tasks extension, which the library does not have. Imports the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mcp import types
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from pydantic import Field

TASKS = "io.modelcontextprotocol/tasks"
IDEMPOTENCY_KEY = "meshwright/idempotencyKey"
"""The key of `_meta` by which a mesh makes one task of a call that is sent twice."""


class CreatedTask(types.Result):
    """The result of a call that goes on as a task."""

    result_type: Literal["task"]
    task_id: str = Field(min_length=1, max_length=1_000)
    poll_interval_ms: float | None = Field(default=None, ge=0, le=3_600_000)


class RemoteTask(types.Result):
    """A task as its server has it now; all empty in the answer to other requests."""

    status: Literal["", "working", "input_required", "completed", "failed", "cancelled"] = ""
    status_message: str | None = None
    input_requests: types.InputRequests | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class RemoteTaskParams(types.RequestParams):
    """The parameters of a request about a task."""

    task_id: str
    input_responses: dict[str, Any] | None = None


class RemoteTaskRequest(types.Request[RemoteTaskParams, str]):
    """A request about a task, whose header Mcp-Name repeats its id."""

    name_param = "taskId"


class TasksExtension(ClientExtension):
    """Says to servers of 2026-07-28 that calls may be answered by tasks."""

    identifier = TASKS

    def claims(self) -> Sequence[ResultClaim[Any]]:
        """The result of such a call, which the connection reads itself."""
        return [ResultClaim(result_type="task", model=CreatedTask, resolve=_resolve)]


async def _resolve(created: CreatedTask, context: ClaimContext) -> types.CallToolResult:
    raise NotImplementedError("Calls are sent by ServerConnection.call, which takes tasks itself")
