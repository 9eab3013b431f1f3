"""The filters of lists: one set of fields for tasks, dead letters, events and costs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field

from meshwright.core.errors import InvalidInput
from meshwright.core.ids import Identifier
from meshwright.core.messages import TaskStatus
from meshwright.edges.bodies import Strict
from meshwright.ledger.costs import since_of

Text = Annotated[str, Field(min_length=1, max_length=128)]
Cursor = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
InboxCursor = Annotated[str, Field(pattern=r"^([a-z]{1,20}:)?[0-9]{1,18}$")]


def _read_time(value: Any) -> Any:
    try:
        return since_of(value, datetime.now(UTC)) if isinstance(value, str) else value
    except InvalidInput as error:
        raise ValueError(f"{error.message}; {error.remedy}") from None


Time = Annotated[AwareDatetime, BeforeValidator(_read_time)]
"""A time: `24h` ago (s, m, h, d or w), or RFC 3339."""


class OfTask(BaseModel):
    """Fields of a task: an event or a cost agrees with them where its task does."""

    status: TaskStatus | None = None
    capability: Identifier | None = None
    thread_id: Identifier | None = None
    parent_task_id: Identifier | None = None
    requested_by: Text | None = None
    model: Text | None = None
    prompt: Text | None = Field(
        default=None,
        description="That of a call of a model: `NAME`, or `NAME@DIGEST` for a version, of which the first "
        "characters are enough.",
    )
    tag: Text | None = Field(default=None, description="One of a call of a model.")
    error: Text | None = Field(default=None, description="The type of the error by which it failed.")
    text: Text | None = Field(
        default=None, description="Stands in the first 1,000 characters of the request, whatever its case."
    )


class TaskQuery(Strict, OfTask):
    """Tasks that agree with every field given. A value that there never was is a 404, with those there are.

    `task_id` is the beginning or the end of their ids; `since` and `until` bound the time of their last
    change.
    """

    agent_id: Identifier | None = None
    task_id: Text | None = None
    since: Time | None = None
    until: Time | None = None
    limit: int = Field(default=50, ge=1, le=500)


class TaskPageQuery(TaskQuery):
    """A page of such tasks; `cursor` is the `cursor` of the page before."""

    cursor: Cursor | None = None
