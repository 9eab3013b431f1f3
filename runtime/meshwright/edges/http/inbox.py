"""The inbox: what tasks wait for people to say. `POST /tasks/{task_id}/answer` answers it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response
from pydantic import BaseModel, ConfigDict, Field

from meshwright.edges.http.routing import JsonLine, make_router, may
from meshwright.events.inbox import InboxPage
from meshwright.identity.operations import Operations

router = make_router("tasks")


class InboxQuery(BaseModel):
    """Which questions to list. `id` is the beginning or the end of their ids, or of those of their tasks.

    `ended` adds those that were answered, have expired, or whose task no longer waits. `cursor` is the
    `cursor` of the page before.
    """

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(default=None, min_length=1, max_length=128)
    ended: bool = False
    limit: int = Field(default=50, ge=1, le=500)
    cursor: str | None = Field(default=None, pattern=r"^[0-9]{1,18}$")


@router.get("/inbox", summary="List what waits for people", response_model=InboxPage)
async def list_inbox(
    operations: Annotated[Operations, may("inbox")], query: Annotated[InboxQuery, Query()]
) -> Response:
    """List the questions that tasks have for people, the oldest first.

    To answer one, send its `wait_id` as the `key`, and a value that fits its `answer_schema`, to
    `POST /tasks/{task_id}/answer`.
    """
    return JsonLine(await operations.inbox(**dict(query)))
