"""`/memories`: list and see what agents remember, edit, promote and forget it, and take that back."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query, Response
from pydantic import AwareDatetime, BaseModel, Field

from meshwright.context.memory import MemoryItem
from meshwright.core.ids import ID_PATTERN, Identifier
from meshwright.core.messages import Caller, MemoryKind, MemoryScope
from meshwright.edges.bodies import Strict
from meshwright.edges.http.routing import MeshDep, by_rule, make_router, problems
from meshwright.services.memories.operations import CHANGE, PROMOTE, SEE, Listed, Memories

router = make_router("memories")
_NONE = {404: "There is no such memory."}
_MAY_CHANGE = {403: "Only a caller with the role operator changes memories."}
_MAY_PROMOTE = {403: "Only a caller with the role approver promotes memories."}
_STATUS = {409: "The status of the memory does not allow it."}


class _MemoryQuery(Strict):
    """Which memories to list. `cursor` is the `cursor` of the page before."""

    status: Listed = "shown"
    kind: MemoryKind | None = None
    scope: MemoryScope | None = None
    scope_id: str | None = Field(default=None, max_length=64)
    subject: str | None = Field(default=None, max_length=100)
    agent_id: Identifier | None = None
    task_id: Identifier | None = None
    contains: str | None = Field(default=None, max_length=200)
    limit: int = Field(default=100, ge=1, le=500)
    cursor: int = Field(default=0, ge=0, le=2**53)


class _SubjectQuery(Strict):
    """The subject whose memories are deleted."""

    subject: str = Field(min_length=1, max_length=100)


class MemoryChange(Strict):
    """The fields of a memory that change. `subject` and `expires_at` may be null, for none."""

    text: str = Field(default="", min_length=1)
    kind: MemoryKind = "fact"
    subject: str | None = Field(default=None, max_length=100)
    expires_at: AwareDatetime | None = None


class MemoryList(BaseModel):
    """Some memories, the newest first; `cursor` asks for those that follow, and is None at the end."""

    items: list[MemoryItem]
    cursor: int | None


class Deleted(BaseModel):
    """How many memories were deleted."""

    memories: int


async def _memories_of(mesh: MeshDep) -> Memories:
    return mesh.get(Memories)


_Service = Annotated[Memories, Depends(_memories_of)]
_ContentsDep = Annotated[Caller, by_rule(SEE)]
_OperatorDep = Annotated[Caller, by_rule(CHANGE)]
_ApproverDep = Annotated[Caller, by_rule(PROMOTE)]
_Id = Annotated[str, Path(pattern=ID_PATTERN)]


@router.get("/memories", summary="List memories")
async def _list_memories(
    memories: _Service, caller: _ContentsDep, query: Annotated[_MemoryQuery, Query()]
) -> MemoryList:
    """List what agents of your tenant remember, the newest first.

    By default those that are recalled and those in quarantine; `status=all` lists the superseded and the
    forgotten too. `contains` is a part of their text.
    """
    filters = query.model_dump(exclude={"status", "limit", "cursor"}, exclude_none=True)
    page = await memories.page(caller, query.status, filters, after=query.cursor, limit=query.limit)
    return MemoryList(items=page.items, cursor=page.cursor)


@router.delete("/memories", summary="Delete all of a subject", responses=problems({**_NONE, **_MAY_CHANGE}))
async def _delete_subject(
    memories: _Service, caller: _OperatorDep, query: Annotated[_SubjectQuery, Query()]
) -> Deleted:
    """Delete all memories of a subject for good, also from the index. Transcripts of tasks stay."""
    return Deleted(memories=await memories.delete_subject(query.subject, caller))


@router.get("/memories/{memory_id}", summary="Show a memory", responses=problems(_NONE))
async def _show_memory(memories: _Service, caller: _ContentsDep, memory_id: _Id) -> MemoryItem:
    """Show a memory with its source, the trust in it, and who changed it."""
    return await memories.show(memory_id, caller)


@router.patch(
    "/memories/{memory_id}",
    summary="Edit a memory",
    response_description="Durable.",
    responses=problems({**_NONE, **_MAY_CHANGE, **_STATUS}),
)
async def _edit_memory(
    memories: _Service, caller: _OperatorDep, memory_id: _Id, change: MemoryChange
) -> MemoryItem:
    """Change some fields. A text that a person wrote supersedes what agents said of its subject."""
    return await memories.edit(memory_id, caller, change.model_dump(exclude_unset=True))


@router.delete(
    "/memories/{memory_id}",
    status_code=204,
    summary="Delete a memory",
    responses=problems({**_NONE, **_MAY_CHANGE}),
)
async def _delete_memory(memories: _Service, caller: _OperatorDep, memory_id: _Id) -> Response:
    """Delete it for good, also from the index."""
    await memories.delete(memory_id, caller)
    return Response(status_code=204)


@router.post(
    "/memories/{memory_id}/promote",
    summary="Promote a memory",
    response_description="It is recalled from now on; durable.",
    responses=problems({**_NONE, **_MAY_PROMOTE, **_STATUS}),
)
async def _promote_memory(memories: _Service, caller: _ApproverDep, memory_id: _Id) -> MemoryItem:
    """Vouch for a quarantined or superseded memory: it has the trust of a person."""
    return await memories.promote(memory_id, caller)


@router.post(
    "/memories/{memory_id}/forget",
    summary="Forget a memory",
    response_description="It is recalled no more; durable.",
    responses=problems({**_NONE, **_MAY_CHANGE, **_STATUS}),
)
async def _forget_memory(memories: _Service, caller: _OperatorDep, memory_id: _Id) -> MemoryItem:
    """Have it recalled no more. It is deleted `memories.forgotten_days` later; undo brings it back."""
    return await memories.forget(memory_id, caller)


@router.post(
    "/memories/{memory_id}/undo",
    summary="Undo the last change",
    response_description="Durable.",
    responses=problems({**_NONE, **_MAY_CHANGE, **_STATUS}),
)
async def _undo_change(memories: _Service, caller: _OperatorDep, memory_id: _Id) -> MemoryItem:
    """Take the last change back: an edit, a promotion, a forgetting, or that another superseded it."""
    return await memories.undo(memory_id, caller)
