"""The files of a task's outcome."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import Path, Request, Response

from meshwright.core.access import Role
from meshwright.core.messages import ID_PATTERN, Caller
from meshwright.edges.http.routing import JsonLine, MeshDep, make_router, needs, problems
from meshwright.identity.auth import has_role, require_for

router = make_router("tasks")
_TaskId = Annotated[str, Path(pattern=ID_PATTERN)]
_Number = Annotated[int, Path(ge=1, le=999_999, description="As the `url` of a file has it.")]
_ReaderDep = Annotated[Caller, needs(Role.CONTENTS, Role.SUBMITTER)]


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
    request: Request, mesh: MeshDep, caller: _ReaderDep, task_id: _TaskId, number: _Number
) -> Response:
    """Read a file that an outcome lists, as it is; with `Accept: application/json` as JSON, `data` in base64.

    One that is elsewhere has a `url` in place of `data`, and is always JSON.
    """
    if not has_role(caller, Role.CONTENTS):
        view = await mesh.task(task_id, caller.tenant_id)
        require_for(caller, view.requested_by, Role.CONTENTS, "reads the files of others' tasks")
    file = await mesh.file(task_id, number, caller.tenant_id)
    await mesh.audit.record_read(caller, f"tasks/{task_id}")
    if file.url or request.headers.get("accept") == "application/json":
        return JsonLine(file)
    name = f"attachment; filename*=UTF-8''{quote(file.name, safe='')}"
    return Response(file.data, media_type=file.media_type, headers={"Content-Disposition": name})
