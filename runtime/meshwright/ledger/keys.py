"""Virtual keys: by them callers from outside use the mesh's models, each as one agent of one tenant."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
from datetime import datetime
from decimal import Decimal, InvalidOperation

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from meshwright.clock import Clock
from meshwright.errors import InvalidInput, MeshError, NotFound
from meshwright.messages import Identifier, new_id
from meshwright.money import Budget
from meshwright.storage.database import Database

LLM_SERVICE = "llm-service"
"""Who offers models to callers from outside, and whose calls those are that show no key."""
PREFIX = "sk-mesh-"
SECRET_BYTES = 32
WRITTEN = re.compile(rf"{PREFIX}([0-9A-HJKMNP-TV-Z]{{26}})-[A-Za-z0-9_-]{{43}}")
WINDOWS = ("hour", "day", "month", "total")
MAX_KEYS = 10_000
INSERT = "INSERT INTO keys (key_id, hash, agent_id, tenant_id, budget, created_at) VALUES (?, ?, ?, ?, ?, ?)"
SELECT = "SELECT key_id, hash, agent_id, tenant_id, budget, created_at, revoked_at FROM keys ORDER BY key_id"
REVOKE = "UPDATE keys SET revoked_at = ? WHERE key_id = ?"


class Unauthenticated(MeshError):
    """A caller without a key where one is needed, or with one that does not count."""

    status = 401


class Forbidden(MeshError):
    """A caller who may not do what was asked, whoever it is."""

    status = 403


class Key(BaseModel):
    """All that is known of a key, but the key itself. Its holder is `agent_id` of `tenant_id`."""

    model_config = ConfigDict(frozen=True)

    key_id: str
    agent_id: Identifier
    tenant_id: Identifier = "default"
    budget: Budget | None = None
    created_at: datetime
    revoked_at: datetime | None = None


class NewKey(Key):
    """A key as it is made: `key` is shown this once."""

    key: str


class Keys:
    """The keys in the mesh's database, which no other process writes: read once, then kept in memory."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[str, tuple[bytes, Key]] | None = None

    async def create(self, agent_id: str, *, tenant_id: str = "default", budget: str | None = None) -> NewKey:
        """Make a key, durable when this returns. `budget` is like `5.00/day`. Raises InvalidInput."""
        known = await self._all()
        if len(known) >= MAX_KEYS:
            raise InvalidInput(f"the mesh has {MAX_KEYS} keys, and may have no more")
        key_id = new_id()
        text = f"{PREFIX}{key_id}-{secrets.token_urlsafe(SECRET_BYTES)}"
        key = Key(
            key_id=key_id,
            agent_id=identifier(agent_id, "agent_id"),
            tenant_id=identifier(tenant_id, "tenant_id"),
            budget=None if budget is None else budget_of(budget, key_id, agent_id),
            created_at=self._clock.now(),
        )
        await self._write(INSERT, _row(key, digest(text)))
        known[key_id] = (digest(text), key)
        return NewKey(**dict(key), key=text)

    async def list(self) -> list[Key]:
        """Every key that was made, the oldest first."""
        return [key for _, key in (await self._all()).values()]

    async def revoke(self, key_id: str) -> Key:
        """End a key, for good when this returns; one that has ended stays as it was. Raises NotFound."""
        known = await self._all()
        if key_id not in known:
            raise NotFound(
                f"there is no key {key_id!r}", remedy="mesh keys list shows them by their ids", field="key_id"
            )
        hashed, key = known[key_id]
        if key.revoked_at is not None:
            return key
        now = self._clock.now()
        revoked = key.model_copy(update={"revoked_at": now})
        known[key_id] = (hashed, revoked)  # before it is on disk: who revokes wants it to end now
        await self._write(REVOKE, (now.isoformat(), key_id))
        return revoked

    async def check(self, text: str) -> Key:
        """The key that a caller shows. Raises Unauthenticated, without a word of what was shown."""
        match = WRITTEN.fullmatch(text)
        # A key that nobody has is compared too: how long it takes tells nothing.
        hashed, key = (await self._all()).get(match[1] if match else "", (b"\x00" * 32, None))
        if not hmac.compare_digest(digest(text), hashed) or key is None:
            raise Unauthenticated("the key is not one of this mesh's", remedy="mesh keys create makes one")
        if key.revoked_at is not None:
            raise Unauthenticated(f"key {key.key_id} was revoked", remedy="mesh keys create makes another")
        return key

    async def exist(self) -> bool:
        """Whether a key was ever made, revoked ones included."""
        return bool(await self._all())

    async def _write(self, statement: str, values: tuple[object, ...]) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute(statement, values)

        await self._database.write(write)

    async def _all(self) -> dict[str, tuple[bytes, Key]]:
        if self._known is None:
            found = await self._database.read(_read)
            # Another call may have read them meanwhile, and added to them.
            self._known = found if self._known is None else self._known
        return self._known


def digest(text: str) -> bytes:
    """What is kept of a key. It is random and long, so that no salt and no slow hash would add to it."""
    return hashlib.sha256(text.encode(errors="replace")).digest()


def identifier(text: str, field: str) -> str:
    """An id that may become a part of a topic. Raises InvalidInput, which names the field."""
    try:
        return TypeAdapter(Identifier).validate_python(text)
    except ValidationError:
        raise InvalidInput(
            f"{field}: expected 1 to 64 letters, digits, _ and -, not {text[:80]!r}", field=field
        ) from None


def budget_of(text: str, key_id: str, agent_id: str) -> Budget:
    """The hard budget of one key, from a text like `5.00/day`. Raises InvalidInput."""
    amount, _, window = text.partition("/")
    try:
        limit = Decimal(amount.strip().removeprefix("$"))
    except InvalidOperation:
        limit = Decimal(-1)
    window = window.strip() or "total"
    if window not in WINDOWS or not limit.is_finite() or limit < 0:
        raise InvalidInput(
            f"budget: expected dollars and one of {', '.join(WINDOWS)}, not {text[:80]!r}",
            remedy="write it like 5.00/day",
            field="budget",
        )
    name = f"key-{key_id.lower()}"
    return Budget.model_validate(
        {"name": name, "scope": "agent", "of": agent_id, "limit_usd": limit, "window": window}
    )


def _row(key: Key, hashed: bytes) -> tuple[object, ...]:
    budget = key.budget.model_dump_json() if key.budget else None
    return (key.key_id, hashed, key.agent_id, key.tenant_id, budget, key.created_at.isoformat())


def _read(connection: sqlite3.Connection) -> dict[str, tuple[bytes, Key]]:
    names = ("key_id", "hash", "agent_id", "tenant_id", "budget", "created_at", "revoked_at")
    rows = [dict(zip(names, row, strict=True)) for row in connection.execute(SELECT)]
    return {row["key_id"]: (row.pop("hash"), _key(row)) for row in rows}


def _key(row: dict[str, str | None]) -> Key:
    written = row.pop("budget")
    budget = Budget.model_validate_json(written) if written else None
    return Key.model_validate({**row, "budget": budget})
