"""The transcript of a task: its steps, with the model's messages and replies."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from meshwright.core.messages import ID_PATTERN
from meshwright.edges.http.routing import JsonLine, make_router, may, problems
from meshwright.identity.operations import Operations
from meshwright.run.transcript import attempt_of
from meshwright.work.steps import StepContentsPage, StepPage, StepView

router = make_router("tasks")
_TaskId = Annotated[str, Path(pattern=ID_PATTERN)]
_StepPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9.]{1,64}$", description="As `path` of a step has it.")]
_ReaderDep = Annotated[Operations, may("transcripts")]
_MAX_CHARS = 100_000
_MOST_CHARS = 4_194_304


class _Contents(BaseModel):
    model_config = ConfigDict(extra="forbid")

    attempt: int | None = Field(default=None, ge=1)
    max_chars: int = Field(default=_MAX_CHARS, ge=100, le=_MOST_CHARS)


class StepQuery(_Contents):
    """Which steps to list, by default those of all attempts.

    With `contents` each has what was said, each text up to `max_chars` characters. `cursor` is that of the
    page before.
    """

    contents: bool = False
    limit: int = Field(default=100, ge=1, le=500)
    cursor: str | None = Field(default=None, pattern=r"^[0-9]{1,9}$")


class StepContentsQuery(_Contents):
    """The attempt of the step, by default the last; each text has up to `max_chars` characters."""


@router.get(
    "/tasks/{task_id}/steps",
    summary="List the steps of a task",
    response_model=StepPage | StepContentsPage,
    responses=problems({404: "There is no such task, or it has no attempt yet."}),
)
async def list_steps(
    operations: _ReaderDep, task_id: _TaskId, query: Annotated[StepQuery, Query()]
) -> Response:
    """List what an agent did for a task, step by step, with tokens, cost and duration.

    With `contents` the messages of a step are those that no step before it had: `request.since` names the
    step that it continues, and `request.same` how many of the messages are the same.
    """
    found = await operations.transcripts(task_id, contents=query.contents)
    if query.attempt is not None:
        found = [attempt_of(found, query.attempt)]
    steps = [(transcript, path) for transcript in found for path in transcript.paths]
    first = int(query.cursor or 0)
    last = first + query.limit
    cursor = str(last) if last < len(steps) else None

    def page() -> Response:
        if not query.contents:
            items = tuple(transcript.summary(path) for transcript, path in steps[first:last])
            return JsonLine(StepPage(items=items, cursor=cursor))
        views = tuple(
            transcript.view(path, max_chars=query.max_chars, whole=False)
            for transcript, path in steps[first:last]
        )
        return JsonLine(StepContentsPage(items=views, cursor=cursor))

    return await asyncio.to_thread(page)  # to find secrets in megabytes takes a while


@router.get(
    "/tasks/{task_id}/steps/{path}",
    summary="Look at a step",
    responses=problems({404: "There is no such task, or no such step."}),
)
async def show_step(
    operations: _ReaderDep,
    task_id: _TaskId,
    path: _StepPath,
    query: Annotated[StepContentsQuery, Query()],
) -> StepView:
    """Show a step in full: the model's messages and reply, or a tool's arguments and result.

    Secrets are redacted, and a text over `max_chars` is cut and says so.
    """
    transcript = attempt_of(await operations.transcripts(task_id), query.attempt)
    return await asyncio.to_thread(transcript.view, path, max_chars=query.max_chars)
