"""Memories: short texts that outlive a task, found again by what they say.

A memory belongs to a tenant and to a scope within it: one task, one agent, one project, or everybody. It says
of which kind it is and what it is about, who wrote it at which step, and how far it can be trusted. Text
that comes from strangers is quarantined: agents do not recall it until a person promotes it. `Memory` is the
store of a mesh in its database, which finds memories by words, and by meaning where a model embeds them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from msgspec import Meta
from pydantic import Field

from meshwright.agents.context import memory_table
from meshwright.agents.context.text import (
    count_tokens,
    coverage,
    distinct,
    is_spaceless,
    query_words,
    within_budget,
)
from meshwright.agents.context.vectors import Vectors
from meshwright.core.clock import Clock
from meshwright.core.display import duration
from meshwright.core.encoding import View
from meshwright.core.errors import HostError, InvalidInput, MemoryUnavailable, TooLarge
from meshwright.core.ids import Identifier
from meshwright.core.messages import MemoryKind, MemoryScope
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.writer import Together

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


class MemoryItem(View, kw_only=True):
    """One memory.

    Of two memories of one `subject` the newer one supersedes the other if it has more trust, or as much and
    came a week later.
    """

    memory_id: Identifier
    """`m-` and 12 characters, unique within the tenant."""
    tenant_id: Identifier = "default"
    """The tenant that it belongs to. No other recalls it."""
    scope: MemoryScope
    """The circle that recalls it: `task`, `agent`, `project` or `global`."""
    scope_id: str = ""
    """The task, agent or project of the scope. Means nothing for `global`."""
    text: str
    """The memory, at most 4,000 characters."""
    created_at: datetime | None = None
    """When it was written. The store sets it if it is None."""
    task_id: str | None = None
    """The task that it comes from. None if a person wrote it."""
    agent_id: str | None = None
    """The agent that wrote it. None if a person did."""
    kind: MemoryKind = "fact"
    """`fact`, `preference`, `decision`, `procedure` or `failure`."""
    subject: str | None = None
    """The thing that it is about, at most 100 characters, by which newer memories supersede it. None without
    one."""
    status: MemoryStatus = "active"
    """Only an `active` memory is recalled."""
    trust: Annotated[int, Field(ge=BY_STRANGERS, le=BY_PERSON), Meta(ge=BY_STRANGERS, le=BY_PERSON)] = (
        BY_MODEL
    )
    """The least trust of all that it was made of: 3 a person, 2 code, 1 a model, 0 strangers."""
    step: str | None = None
    """The step of the task that it comes from. None without one."""
    expires_at: datetime | None = None
    """The time from which it is not recalled any more. None: it stays."""
    superseded_by: str | None = None
    """The id of the memory in whose favour it is `superseded`. None without one."""
    approved_by: str | None = None
    """The person who promoted it. None if nobody did."""
    changed_by: str | None = None
    """The person who changed it last. None if nobody did."""
    changed_at: datetime | None = None
    """When it was changed last. None if it never was."""
    used: int = 0
    """How often it was recalled."""
    helped: int = 0
    """The number of tasks whose answers cite it."""
    score: float = 0.0
    """Its relevance to the query of `recall`: higher is better. 0 where it was not searched for."""
    contradicts: tuple[str, ...] = ()
    """The ids of memories on the same subject that count as much."""

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


def normalize_subject(text: str | None) -> str | None:
    """A subject as it is stored and compared: in lower case, with single spaces; None for no words."""
    subject = " ".join((text or "").lower().split())
    if len(subject) > _MAX_SUBJECT_CHARS:
        problem = f"a subject has {len(subject):,} characters, and may have {_MAX_SUBJECT_CHARS}"
        raise TooLarge(problem, remedy='name it in a few words, like "port of staging"', field="subject")
    return subject or None


_GLOBAL = "global"
_CANDIDATES = 4  # rows read for each memory wanted, since some will be near-duplicates or below the floor


class Memory:
    """The memories of a mesh in its database, found by words, and with `vectors` by their meaning too.

    Every method raises MemoryUnavailable if the database fails.
    """

    def __init__(self, database: Database, clock: Clock, vectors: Vectors | None = None) -> None:
        self._database = database
        self._clock = clock
        self._vectors = vectors
        self._owners: set[str] | None = None
        self._read_owners: Together[tuple[str, ...], set[str]] = Together(
            lambda groups: database.read(memory_table.owners_among, groups)
        )

    async def remember(self, item: MemoryItem) -> bool:
        """Write a memory, durable when this returns. False if the tenant has one of its id, or an equal one.

        Raises InvalidInput for a text that is empty, and TooLarge for one over 4,000 characters.
        """
        check_text(item.text)
        with _unavailable_if_failing("written"):
            owner = _owner_key(item.tenant_id, item.scope, item.scope_id)
            is_new = await self._database.write(memory_table.insert, owner, self._fields(item))
            if self._database.exclusive:
                (await self._existing_owners([owner])).add(owner)
        self._want_vectors()
        return is_new

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
        """The tenant's active memories of these scopes that suit the query, most relevant first.

        They share words with it or, where a floor is given and texts are embedded, mean much the same.

        Of equally relevant memories the newest comes first, and near repeats are left out. Contradictions
        stand behind the memory that they contradict. Together they have at most `max_tokens`: the least
        relevant are dropped. A query's marks and operators mean nothing. A query finds nothing without a word
        of meaning, or if no memory has the share `floor` of its words, by weight.
        """
        if self._owners is not None and not self._owners and self._database.exclusive:
            return []  # there is no memory, and no other process can write one
        with _unavailable_if_failing("read"):
            candidates = [_owner_key(tenant_id, *scope) for scope in scopes]
            existing = await self._existing_owners(candidates)
            owners = [owner for owner in candidates if owner in existing]
            words = query_words(query) if owners else []
            if not words:
                return []
            values = {"tenant_id": tenant_id, "owners": owners, "now": self._now(), "kind": kind or ""}
            values["limit"] = limit * _CANDIDATES
            rows = await self._database.read(memory_table.search, words, values)
            if parts := [word for word in words if is_spaceless(word)]:
                rows = await self._database.read(memory_table.search_parts, parts, values) + rows
            if floor > 0 and self._vectors is not None:
                rows = await self._vectors.ranked(query, rows, values, dict(scopes), floor)
            elif floor > 0:
                rows = [row for row in rows if coverage(query, memory_table.wording(row)) >= floor]
            memories = list(islice(distinct(map(_item, rows)), limit))
            memories = await self._with_contradictions(memories)
        return list(within_budget(memories, max_tokens))

    async def _with_contradictions(self, memories: Sequence[MemoryItem]) -> list[MemoryItem]:
        """The memories, each before others that contradict it on the same subject."""
        ids = [item.memory_id for item in memories if item.subject]
        if not ids:
            return list(memories)
        rows = await self._database.read(memory_table.beside, memories[0].tenant_id, ids, self._now())
        by_id: dict[str, MemoryItem] = {}
        for item in memories:
            others = [_item(row) for row in rows.get(item.memory_id, ())]
            for one in (item, *others):
                against = [other.memory_id for other in (item, *others) if other is not one]
                by_id.setdefault(one.memory_id, one.model_copy(update={"contradicts": tuple(against)}))
        return list(by_id.values())

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
        values: dict[str, str | None] = {**(filters or {}), "tenant_id": tenant_id}
        if "subject" in values:
            values["subject"] = normalize_subject(values["subject"])
        with _unavailable_if_failing("read"):
            rows = await self._database.read(memory_table.page, values, statuses, after, limit + 1)
        last = rows[limit - 1]["n"] if len(rows) > limit else None
        return MemoryPage([_item(row) for row in rows[:limit]], last)

    async def find(self, memory_id: str, tenant_id: str) -> MemoryItem | None:
        """A tenant's memory, or None."""
        with _unavailable_if_failing("read"):
            row = await self._database.read(memory_table.find, tenant_id, memory_id)
        return None if row is None else _item(row)

    async def change(
        self, memory_id: str, tenant_id: str, changes: Mapping[str, Any], by: str
    ) -> MemoryItem | None:
        """Set fields of a memory, which `undo` takes back; None if the tenant has none of that id.

        Raises InvalidInput, TooLarge for a text or a subject that it does not take.
        """
        if "text" in changes:
            check_text(changes["text"])
        values: dict[str, Any] = {**changes, "changed_by": by, "changed_at": self._clock.now()}
        if "subject" in values:
            values["subject"] = normalize_subject(values["subject"])
        with _unavailable_if_failing("changed"):
            row = await self._database.write(memory_table.change, tenant_id, memory_id, _plain(values))
        self._want_vectors()
        return None if row is None else _item(row)

    async def undo(self, memory_id: str, tenant_id: str, by: str) -> MemoryItem | None:
        """Take the last change of a memory back; None if the tenant has none of that id, or it has none."""
        changed = {"changed_by": by, "changed_at": self._now()}
        with _unavailable_if_failing("changed"):
            row = await self._database.write(memory_table.undo, tenant_id, memory_id, changed)
        self._want_vectors()
        return None if row is None else _item(row)

    async def forget(self, memory_id: str, tenant_id: str) -> bool:
        """Delete a tenant's memory, for good when this returns. False if it has none of that id."""
        return await self._delete(tenant_id=tenant_id, memory_id=memory_id) > 0

    async def forget_subject(self, subject: str, tenant_id: str) -> int:
        """Delete all of a subject for good; returns how many memories."""
        return await self._delete(tenant_id=tenant_id, subject=normalize_subject(subject))

    async def _delete(self, **filters: Any) -> int:
        with _unavailable_if_failing("forgotten"):
            return await self._database.write(memory_table.delete, filters)

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> int:
        """Delete all that a tenant's tasks remembered, for good; returns how many memories."""
        with _unavailable_if_failing("erased"):
            return await self._database.write(memory_table.erase, tenant_id, task_ids)

    async def count(
        self, memory_ids: Sequence[str], tenant_id: str, column: Literal["used", "helped"]
    ) -> None:
        """Count that memories were recalled, or that an answer cites them."""
        with _unavailable_if_failing("written"):
            await self._database.write(memory_table.count, tenant_id, memory_ids, column)

    async def purge(self, before: datetime) -> int:
        """Delete for good what was forgotten, or expired, before a time; returns how many memories."""
        with _unavailable_if_failing("deleted"):
            return await self._database.write(memory_table.purge, before.timestamp())

    async def _existing_owners(self, candidates: Sequence[str]) -> set[str]:
        """Owners of memories: all, read once, or those among `candidates` where others write them too.

        Most tasks recall nothing, and need no search.
        """
        if not self._database.exclusive:
            return await self._read_owners.ask(tuple(candidates))
        if self._owners is None:
            owners = await self._database.read(memory_table.owners)
            # Another call may have read them meanwhile, and added to them.
            self._owners = owners | (self._owners or set())
        return self._owners

    def _want_vectors(self) -> None:
        if self._vectors is not None:
            self._vectors.want()

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _fields(self, item: MemoryItem) -> dict[str, Any]:
        fields = {name: getattr(item, name) for name in memory_table.FIELDS}
        fields["scope_id"] = "" if item.scope == _GLOBAL else item.scope_id
        fields["created_at"] = item.created_at or self._clock.now()
        fields["subject"] = normalize_subject(item.subject)
        return _plain(fields)


@contextmanager
def _unavailable_if_failing(what: str) -> Iterator[None]:
    try:
        yield
    except HostError as error:
        raise MemoryUnavailable(
            f"memories cannot be {what}: {error}", remedy="see whether the data folder is whole and writable"
        ) from error


@lru_cache(maxsize=1024)
def _owner_key(tenant_id: str, scope: str, scope_id: str) -> str:
    """One word that stands for a scope of a tenant, for the index."""
    name = "\x00".join((tenant_id, scope, "" if scope == _GLOBAL else scope_id))
    return "o" + hashlib.sha256(name.encode()).hexdigest()[:24]


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as the table has them."""
    return {
        name: value.timestamp() if isinstance(value, datetime) else value for name, value in fields.items()
    }


def _item(row: Mapping[str, Any]) -> MemoryItem:
    fields = {name: row[name] for name in (*memory_table.FIELDS, "score") if name in row}
    for name in memory_table.TIMES:
        if fields[name] is not None:
            fields[name] = datetime.fromtimestamp(fields[name], UTC)
    return MemoryItem(**fields)
