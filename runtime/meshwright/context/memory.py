"""Memories: short texts that outlive a task, found again by what they say.

A memory belongs to a tenant and to a scope within it: one task, one agent, one project, or everybody. It says
of which kind it is and what it is about, who wrote it at which step, and how far it can be trusted. Text
that comes from strangers is quarantined: agents do not recall it until a person promotes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from pydantic import Field

from meshwright.context.text import count_tokens
from meshwright.core.display import duration
from meshwright.core.errors import InvalidInput, TooLarge
from meshwright.core.ids import Identifier
from meshwright.core.messages import MemoryKind, MemoryScope, Plain

MemoryStatus = Literal["active", "quarantined", "superseded", "forgotten"]
"""Whether a memory is recalled: only an active one is."""
STATUSES: tuple[MemoryStatus, ...] = get_args(MemoryStatus)
FLOOR = 0.34
"""The share of a question's words, by weight, that a memory has at least where a run recalls it."""
BY_PERSON, BY_CODE, BY_MODEL, BY_STRANGERS = 3, 2, 1, 0
"""The trust in a memory: the least of all that it was made of."""
CITED = re.compile(r"\bm-[0-9a-z]{12}\b")
"""An id of a memory in an answer."""
_MAX_MEMORY_CHARS = 4000
_MAX_SUBJECT_CHARS = 100


class MemoryItem(Plain):
    """One memory. `score` is its relevance to the query it was found by: more is better.

    `scope_id` names the task, agent or project; for `global` it means nothing. `created_at` is set when the
    memory is written, where it is not given. Of two memories of one `subject` the newer one supersedes the
    other if it has more trust, or as much and came a week later; `contradicts` has the ids of others that
    count as much. `task_id` and `step` are its source; `changed_by` and `approved_by` are people who changed
    it and who promoted it. `used` counts how often it was recalled, `helped` the tasks whose answers cite it.
    """

    memory_id: Identifier
    tenant_id: Identifier = "default"
    scope: MemoryScope
    scope_id: str = ""
    text: str
    created_at: datetime | None = None
    task_id: str | None = None
    agent_id: str | None = None
    kind: MemoryKind = "fact"
    subject: str | None = None
    status: MemoryStatus = "active"
    trust: int = Field(default=BY_MODEL, ge=BY_STRANGERS, le=BY_PERSON)
    step: str | None = None
    expires_at: datetime | None = None
    superseded_by: str | None = None
    approved_by: str | None = None
    changed_by: str | None = None
    changed_at: datetime | None = None
    used: int = 0
    helped: int = 0
    score: float = 0.0
    contradicts: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """About how many tokens the text takes."""
        return count_tokens(self.text)

    def line(self, now: datetime) -> str:
        """The memory with its id, kind, age and source, as a model reads it."""
        age = "" if self.created_at is None else f", {duration(now - self.created_at)} old"
        source = f", by {self.changed_by or self.agent_id}" if self.changed_by or self.agent_id else ""
        against = f", contradicts {', '.join(self.contradicts)}" if self.contradicts else ""
        return f"[{self.memory_id}] ({self.kind}{age}{source}{against}) {self.text}"


class MemoryStore(Protocol):
    """Keeps the memories of a mesh. Its methods raise MemoryUnavailable where the store fails."""

    async def remember(self, item: MemoryItem) -> bool:
        """Write a memory, durable when this returns. False if the tenant has one of its id: that one stands.

        Raises InvalidInput, TooLarge for a text that it does not take.
        """
        ...

    async def recall(
        self,
        query: str,
        *,
        tenant_id: str,
        scopes: Sequence[tuple[str, str]],
        max_tokens: int,
        limit: int = 20,
        kind: MemoryKind | None = None,
        floor: float = 0.0,
    ) -> list[MemoryItem]:
        """The tenant's active memories of these scopes that suit a query, most relevant first.

        Together they have at most `max_tokens`. One that suits less than `floor` (0 to 1) is left out.
        """
        ...

    async def forget(self, memory_id: str, tenant_id: str) -> bool:
        """Delete a tenant's memory, for good when this returns. False if it has none of that id."""
        ...

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> int:
        """Delete all that a tenant's tasks remembered, for good; returns how many memories."""
        ...


class MemoryPage(NamedTuple):
    """Some memories, the newest first; `cursor` asks for the next page, and is None at the end."""

    items: list[MemoryItem]
    cursor: int | None


@runtime_checkable
class MemoryCatalog(Protocol):
    """A store whose memories people list and change."""

    async def page(
        self,
        tenant_id: str,
        statuses: Sequence[MemoryStatus] = STATUSES,
        filters: Mapping[str, str] | None = None,
        *,
        after: int = 0,
        limit: int = 100,
    ) -> MemoryPage:
        """A tenant's memories whose fields have the wanted values; `contains` is a part of their text."""
        ...

    async def find(self, memory_id: str, tenant_id: str) -> MemoryItem | None:
        """A tenant's memory, or None."""
        ...

    async def change(
        self, memory_id: str, tenant_id: str, changes: Mapping[str, Any], by: str
    ) -> MemoryItem | None:
        """Set fields of a memory, which `undo` takes back; None if the tenant has none of that id."""
        ...

    async def undo(self, memory_id: str, tenant_id: str, by: str) -> MemoryItem | None:
        """Take the last change of a memory back; None if the tenant has none of that id, or it has none."""
        ...

    async def forget_subject(self, subject: str, tenant_id: str) -> int:
        """Delete all of a subject for good; returns how many memories."""
        ...

    async def count(
        self, memory_ids: Sequence[str], tenant_id: str, column: Literal["used", "helped"]
    ) -> None:
        """Count that memories were recalled, or that an answer cites them."""
        ...

    async def purge(self, before: datetime) -> int:
        """Delete for good what was forgotten, or expired, before a time; returns how many memories."""
        ...


def check_text(text: str) -> None:
    """Raise InvalidInput for a text that is empty, and TooLarge for a text too long for a memory."""
    if not text.strip():
        raise InvalidInput("a memory needs a text", remedy="say what is to be remembered", field="text")
    if len(text) > _MAX_MEMORY_CHARS:
        problem = f"a memory has {len(text):,} characters, and may have {_MAX_MEMORY_CHARS:,}"
        raise TooLarge(problem, remedy="remember what matters of it, in a few sentences", field="text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            "a memory's text holds half a character (a lone surrogate)", remedy="leave it out", field="text"
        ) from error


def subject_of(text: str | None) -> str | None:
    """A subject as it is stored and compared: in lower case, with single spaces; None for no words."""
    subject = " ".join((text or "").lower().split())
    if len(subject) > _MAX_SUBJECT_CHARS:
        problem = f"a subject has {len(subject):,} characters, and may have {_MAX_SUBJECT_CHARS}"
        raise TooLarge(problem, remedy='name it in a few words, like "port of staging"', field="subject")
    return subject or None
