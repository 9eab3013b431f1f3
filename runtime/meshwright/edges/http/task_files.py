"""The files of a task's outcome."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import Path, Request, Response

from meshwright.core.messages import ID_PATTERN
from meshwright.edges.http.routing import JsonLine, make_router, may, problems
from meshwright.identity.operations import Operations

router = make_router("tasks")
_TaskId = Annotated[str, Path(pattern=ID_PATTERN)]
_Number = Annotated[int, Path(ge=1, le=999_999, description="As the `url` of a file has it.")]


@router.get(
    "/tasks/{task_id}/files/{number}",
    summary="Read a file of a task's outcome",
    response_description="The file as it is.",
    response_class=Response,
    responses={
        **problems({404: "There is no such task or file, or its contents were deleted."}),
        200: {"content": {"*/*": {}, "application/json": {}}},
    },
)
async def read_file(
    request: Request, operations: Annotated[Operations, may("file")], task_id: _TaskId, number: _Number
) -> Response:
    """Read a file that an outcome lists, as it is; with `Accept: application/json` as JSON, `data` in base64.

    One that is elsewhere has a `url` in place of `data`, and is always JSON.
    """
    file = await operations.file(task_id, number)
    if file.url or request.headers.get("accept") == "application/json":
        return JsonLine(file)
    name = f"attachment; filename*=UTF-8''{quote(file.name, safe='')}"
    return Response(file.data, media_type=file.media_type, headers={"Content-Disposition": name})
