"""Memories: short texts that outlive a task, found again by what they say.

A memory belongs to a tenant and to a scope within it: one task, one agent, one project, or everybody. It is
written once under its id, never changed, and gone when forgotten.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol

from meshwright.context.text import count_tokens, function_words
from meshwright.core.clock import Clock
from meshwright.core.errors import HostError, InvalidInput, MemoryUnavailable, TooLarge
from meshwright.core.messages import Identifier, MemoryScope, Plain
from meshwright.sql.database import Database, Session
from meshwright.sql.together import Together

_GLOBAL = "global"
_MAX_MEMORY_CHARS = 4000
_MAX_QUERY_WORDS = 24  # the first distinct ones: more would search for ever longer and find no better
_CANDIDATES = 2  # rows read for each memory wanted, since some will be near-duplicates
_NEAR_DUPLICATE = 0.8  # of two memories' words in common, from which on the less relevant one is dropped
_WORD = re.compile(r"[^\W_]+")

_INSERT = """
INSERT INTO memories (tenant_id, memory_id, scope, scope_id, owner, text, created_at, task_id, agent_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_DELETE = "DELETE FROM memories WHERE tenant_id = ? AND memory_id = ?"
_FIELDS = ("memory_id", "scope", "scope_id", "text", "task_id", "agent_id", "score")
_SEARCH = {
    "sqlite": """
SELECT created_at, memory_id, scope, scope_id, memories.text, task_id, agent_id,
    -bm25(memory_text, 1.0, 0.0) AS score
FROM memory_text JOIN memories ON memories.n = memory_text.rowid
WHERE memory_text MATCH :words AND tenant_id = :tenant_id
ORDER BY score DESC, created_at DESC, n DESC LIMIT :limit
""",
    "postgres": """
SELECT created_at, memory_id, scope, scope_id, memories.text, task_id, agent_id,
    ts_rank(search, to_tsquery('english', :words)) AS score
FROM memories
WHERE search @@ to_tsquery('english', :words) AND tenant_id = :tenant_id AND owner = ANY(:owners)
ORDER BY score DESC, created_at DESC, n DESC LIMIT :limit
""",
}


class MemoryItem(Plain):
    """One memory. `score` is its relevance to the query it was found by: more is better.

    `scope_id` names the task, agent or project; for `global` it means nothing. `created_at` is set when the
    memory is written, where it is not given.
    """

    memory_id: Identifier
    tenant_id: Identifier = "default"
    scope: MemoryScope
    scope_id: str = ""
    text: str
    created_at: datetime | None = None
    task_id: str | None = None
    agent_id: str | None = None
    score: float = 0.0

    @property
    def tokens(self) -> int:
        """About how many tokens the text takes."""
        return count_tokens(self.text)


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
    ) -> list[MemoryItem]:
        """The tenant's memories of these scopes that suit a query, most relevant first.

        Together they have at most `max_tokens`.
        """
        ...

    async def forget(self, memory_id: str, tenant_id: str) -> bool:
        """Delete a tenant's memory, for good when this returns. False if it has none of that id."""
        ...

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> int:
        """Delete all that a tenant's tasks remembered, for good; returns how many memories."""
        ...


class Memory:
    """The memories of a mesh in its database. Every method raises MemoryUnavailable if that fails."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._owners: set[str] | None = None
        self._read_owners: Together[None, set[str]] = Together(lambda asked: database.read(_owners))

    async def remember(self, item: MemoryItem) -> bool:
        """Write a memory, durable when this returns. False if the tenant has one of its id: that one stands.

        Raises InvalidInput for a text that is empty, and TooLarge for one over 4,000 characters.
        """
        _check(item)
        with _unavailable_if_failing("written"):
            now = self._clock.now()
            written = await self._database.write(_insert, item, now)
            (await self._known_owners()).add(_owner_of(item.tenant_id, item.scope, item.scope_id))
        return written

    async def recall(
        self,
        query: str,
        *,
        tenant_id: str,
        scopes: Sequence[tuple[str, str]],
        max_tokens: int,
        limit: int = 20,
    ) -> list[MemoryItem]:
        """The tenant's memories of these scopes that share words with the query, most relevant first.

        Of equally relevant ones the newest comes first, and what says nearly the same as one before it is
        left out. Together they have at most `max_tokens`: the least relevant are dropped. A query's marks
        and operators mean nothing; one without a word of meaning finds nothing.
        """
        if self._owners is not None and not self._owners and self._database.exclusive:
            return []  # there is no memory, and no other process can write one
        with _unavailable_if_failing("read"):
            known = await self._known_owners()
            owners = [owner for scope in scopes if (owner := _owner_of(tenant_id, *scope)) in known]
            words = query_words(query) if owners else []
            if not words:
                return []
            found = await self._database.read(_search, tenant_id, words, owners, limit * _CANDIDATES)
        return list(islice(within_budget(_distinct(found), max_tokens), limit))

    async def forget(self, memory_id: str, tenant_id: str) -> bool:
        """Delete a tenant's memory, for good when this returns. False if it has none of that id."""
        with _unavailable_if_failing("forgotten"):
            return await self._database.write(_changed, _DELETE, (tenant_id, memory_id))

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> int:
        """Delete all that a tenant's tasks remembered, for good; returns how many memories."""
        with _unavailable_if_failing("erased"):
            return await self._database.write(_erase, tenant_id, task_ids)

    async def _known_owners(self) -> set[str]:
        """The owners of memories, read once: most tasks recall nothing, and need no query."""
        if self._owners is None or not self._database.exclusive:
            owners = await self._read_owners.ask(None)
            # Another call may have read them meanwhile, and added to them.
            self._owners = owners | (self._owners or set())
        return self._owners


def query_words(text: str) -> list[str]:
    """The words of a text that a search can go by, in order, each once."""
    words = dict.fromkeys(word.lower() for word in _WORD.findall(text[: _MAX_MEMORY_CHARS * 4]))
    ignored = function_words()
    telling = [word for word in words if word not in ignored and (len(word) > 1 or not word.isascii())]
    return telling[:_MAX_QUERY_WORDS]


def _distinct(items: Iterable[MemoryItem]) -> Iterator[MemoryItem]:
    """The items without those that say nearly the same as one before them."""
    seen: list[set[str]] = []
    for item in items:
        words = set(_WORD.findall(item.text.lower()))
        if all(len(words & other) < _NEAR_DUPLICATE * len(words | other) for other in seen):
            seen.append(words)
            yield item


def within_budget(items: Iterable[MemoryItem], max_tokens: int) -> Iterator[MemoryItem]:
    """The first items that have so many tokens together; one that has more all by itself is passed over."""
    left = max_tokens
    for item in items:
        tokens = item.tokens
        if tokens > max_tokens:
            continue
        left -= tokens
        if left < 0:
            return
        yield item


@contextmanager
def _unavailable_if_failing(what: str) -> Iterator[None]:
    try:
        yield
    except HostError as error:
        raise MemoryUnavailable(
            f"memories cannot be {what}: {error}", remedy="see whether the data folder is whole and writable"
        ) from error


def _check(item: MemoryItem) -> None:
    if not item.text.strip():
        raise InvalidInput("a memory needs a text", remedy="say what is to be remembered", field="text")
    if len(item.text) > _MAX_MEMORY_CHARS:
        problem = f"a memory has {len(item.text):,} characters, and may have {_MAX_MEMORY_CHARS:,}"
        raise TooLarge(problem, remedy="remember what matters of it, in a few sentences", field="text")
    try:
        item.text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            "a memory's text holds half a character (a lone surrogate)", remedy="leave it out", field="text"
        ) from error


@lru_cache(maxsize=1024)
def _owner_of(tenant_id: str, scope: str, scope_id: str) -> str:
    """One word that stands for a scope of a tenant, for the index."""
    name = "\x00".join((tenant_id, scope, "" if scope == _GLOBAL else scope_id))
    return "o" + hashlib.sha256(name.encode()).hexdigest()[:24]


def _owners(session: Session) -> set[str]:
    return {owner for (owner,) in session.execute("SELECT DISTINCT owner FROM memories").fetchall()}


def _insert(session: Session, item: MemoryItem, now: datetime) -> bool:
    scope_id = "" if item.scope == _GLOBAL else item.scope_id
    created_at = (item.created_at or now).timestamp()
    owner = _owner_of(item.tenant_id, item.scope, scope_id)
    names = (item.tenant_id, item.memory_id, item.scope, scope_id, owner)
    return _changed(session, _INSERT, (*names, item.text, created_at, item.task_id, item.agent_id))


def _erase(session: Session, tenant_id: str, task_ids: Sequence[str]) -> int:
    found = session.select_in("SELECT n, tenant_id, task_id FROM memories WHERE task_id", task_ids)
    numbers = [n for n, owner, _ in found if owner == tenant_id]
    session.delete_in("memories", "n", numbers)
    if numbers and session.dialect == "sqlite":  # its index has the words of deleted rows until it is merged
        session.execute("INSERT INTO memory_text (memory_text) VALUES ('rebuild')")
    return len(numbers)


def _changed(session: Session, statement: str, values: Sequence[Any]) -> bool:
    return session.execute(statement, [session.bindable(value) for value in values]).rowcount > 0


def _search(
    session: Session, tenant_id: str, words: Sequence[str], owners: Sequence[str], limit: int
) -> list[MemoryItem]:
    # Quoted, a word is a word to the index, whatever it means elsewhere.
    values: dict[str, Any] = {"tenant_id": tenant_id, "limit": limit, "owners": list(owners)}
    if session.dialect == "sqlite":  # owners match, but do not score
        quoted = " OR ".join(f'"{word}"' for word in words)
        values["words"] = f"owner:({' OR '.join(values.pop('owners'))}) AND text:({quoted})"
    else:
        values["words"] = " | ".join(f"'{word}'" for word in words)
    rows = session.execute(_SEARCH[session.dialect], values).fetchall()
    return [
        MemoryItem(
            **dict(zip(_FIELDS, row, strict=True)),
            tenant_id=tenant_id,
            created_at=datetime.fromtimestamp(created_at, UTC),
        )
        for created_at, *row in rows
    ]
