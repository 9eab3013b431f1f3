"""Virtual keys: callers from outside use the mesh's models by them, each as one agent of one tenant.

An actor keeps each key, and another one lists them, the same for all workers. A key is listed before it is
made, so that none exists that is not listed. Messages to actors are stored: none of them holds a key itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from meshwright import topics
from meshwright.actor import Actor, Turn, turn
from meshwright.envelope import ActorRef
from meshwright.errors import InvalidInput, MeshError, NotFound
from meshwright.kernel.runtime import Runtime
from meshwright.messages import Identifier, Plain, new_id
from meshwright.money import MAX_DOLLARS, Budget, fit, is_amount

LLM_SERVICE = "llm-service"
"""Who offers models to callers from outside, and whose calls those are that show no key."""
PREFIX = "sk-mesh-"
SECRET_BYTES = 32
_WRITTEN = re.compile(rf"{PREFIX}([0-9A-HJKMNP-TV-Z]{{26}})-[A-Za-z0-9_-]{{43}}")
_WINDOWS = ("hour", "day", "month", "total")
_NO_HASH = "0" * 64
KEY, KEYS = "virtual-key", "virtual-keys"
"""The types of the actors that are keys, by their ids, and of the one that lists them."""
CREATED, REVOKED, OPENED = "key.created", "key.revoked", "keys.opened"
LIST = ActorRef(KEYS, "mesh")
MAX_KEYS = 1_000  # revoked ones too, since they stay known as such: so the list is at most 32 KiB


def _fitted(budget: Any) -> Any:
    """Cut the limit that an earlier version stored to the bounds of today."""
    return {**budget, "limit_usd": fit(Decimal(budget["limit_usd"]))} if isinstance(budget, dict) else budget


_StoredBudget = Annotated[Budget, BeforeValidator(_fitted)]


class Key(BaseModel):
    """All that is known of a key, but the key itself. Its holder is `agent_id` of `tenant_id`."""

    model_config = ConfigDict(frozen=True)

    key_id: str
    agent_id: Identifier
    tenant_id: Identifier = "default"
    budget: _StoredBudget | None = None
    created_at: datetime
    revoked_at: datetime | None = None


class NewKeyState(Plain):
    """A key to be made. `hash` is the SHA-256 of the whole key in hexadecimal: nobody can read it again."""

    key: Key
    hash: str


class KeyState(BaseModel):
    """What a key's actor keeps: nothing, until the key is made."""

    key: Key | None = None
    hash: str = ""


class KeyIndex(BaseModel):
    """The ids of all keys, the oldest first. One that was never made may be among them.

    `opened` says that after the last of them an operator opened the mesh to callers without a key.
    """

    ids: list[str] = []
    opened: bool = False

    @property
    def required(self) -> bool:
        """Whether callers need a key."""
        return bool(self.ids) and not self.opened


class VirtualKey(Actor[KeyState]):
    """One key: made once, and ended for good."""

    @turn
    def make(self, turn: Turn, made: NewKeyState) -> None:
        """Begin to be that key. One that is made stays as it is."""
        if self.state.key is None:
            self.state.key, self.state.hash = made.key, made.hash
            turn.publish(topics.MESH, CREATED, _described(made.key))

    @turn
    def revoke(self, turn: Turn) -> Key:
        """End, and stay known; one that has ended stays as it was. Raises NotFound where it was not made."""
        key = self.state.key
        if key is None:
            raise NotFound(
                f"There is no key {self.ref.id!r}",
                remedy="mesh keys list shows them by their ids",
                field="key_id",
            )
        if key.revoked_at is None:
            key = self.state.key = key.model_copy(update={"revoked_at": turn.now})
            turn.publish(topics.MESH, REVOKED, _described(key))
        return key


class VirtualKeys(Actor[KeyIndex]):
    """The list of all keys."""

    @turn
    def add(self, turn: Turn, key_id: str) -> None:
        """Take up the id of a key. A repeat changes nothing. Raises InvalidInput where the list is full."""
        if key_id in self.state.ids:
            return
        if len(self.state.ids) >= MAX_KEYS:
            raise InvalidInput(f"The mesh has {MAX_KEYS:,} keys, revoked ones included, and may have no more")
        self.state.ids.append(key_id)
        self.state.opened = False

    @turn
    def open(self, turn: Turn, count: int) -> bool:
        """Require no key until another is added. False, without effect, where there are more than `count`."""
        if len(self.state.ids) > count:
            return False
        if self.state.required:
            self.state.opened = True
            turn.publish(topics.MESH, OPENED, {"keys": count})
        return True


def _described(key: Key) -> dict[str, Any]:
    """A key as the event log has it."""
    return key.model_dump(mode="json", include={"key_id", "agent_id", "tenant_id", "budget"})


class Unauthenticated(MeshError):
    """A caller without a key where one is needed, or with one that does not count."""

    status = 401


class Forbidden(MeshError):
    """A caller who may not do what was asked, whoever it is."""

    status = 403


class NewKey(Key):
    """A key as it is made: `key` is shown this once."""

    key: str


class Keys:
    """The keys of a mesh, the same in each of its processes.

    Every method raises HostError where the store cannot be asked.
    """

    def __init__(self, host: Runtime) -> None:
        self._host = host

    async def create(self, agent_id: str, *, tenant_id: str = "default", budget: str | None = None) -> NewKey:
        """Make a key, durable when this returns. `budget` is like `5.00/day`.

        Raises InvalidInput, also where there are `MAX_KEYS`.
        """
        key_id = new_id()
        text = f"{PREFIX}{key_id}-{secrets.token_urlsafe(SECRET_BYTES)}"
        key = Key(
            key_id=key_id,
            agent_id=identifier(agent_id, "agent_id"),
            tenant_id=identifier(tenant_id, "tenant_id"),
            budget=None if budget is None else budget_of(budget, key_id, agent_id),
            created_at=self._host.clock.now(),
        )
        await self._host.call(LIST, "add", key_id)
        await self._host.call(ActorRef(KEY, key_id), "make", NewKeyState(key=key, hash=digest(text)))
        return NewKey(**dict(key), key=text)

    async def list(self) -> list[Key]:
        """Every key that was made, the oldest first."""
        found = await asyncio.gather(*map(self._kept, (await self._listed()).ids))
        return [each.key for each in found if each.key is not None]

    async def revoke(self, key_id: str) -> Key:
        """End a key everywhere, for good when this returns; one that has ended stays as it was.

        Raises NotFound.
        """
        return await self._host.call(ActorRef(KEY, key_id), "revoke")

    async def check(self, text: str) -> Key:
        """The key that a caller shows. Raises Unauthenticated, without a word of what was shown."""
        match = _WRITTEN.fullmatch(text)
        kept = await self._kept(match[1]) if match else KeyState()
        # A key that nobody has is compared too: how long it takes tells nothing.
        key = kept.key
        if not hmac.compare_digest(digest(text), kept.hash or _NO_HASH) or key is None:
            raise Unauthenticated("The key is not one of this mesh's", remedy="mesh keys create makes one")
        if key.revoked_at is not None:
            raise Unauthenticated(f"Key {key.key_id} was revoked", remedy="mesh keys create makes another")
        return key

    async def required(self) -> bool:
        """Whether callers need a key: from the first that is made until `open`, also when all are revoked."""
        return (await self._listed()).required

    async def open(self) -> int:
        """Revoke every key, and require none until another is made; returns how many it has revoked.

        Durable when this returns.
        """
        revoked = 0
        while True:
            ids = (await self._listed()).ids
            keys = [key for key in await self.list() if key.revoked_at is None]
            await asyncio.gather(*(self.revoke(key.key_id) for key in keys))
            revoked += len(keys)
            if await self._host.call(LIST, "open", len(ids)):
                return revoked

    async def _kept(self, key_id: str) -> KeyState:
        state = await self._host.read(ActorRef(KEY, key_id))
        return state if isinstance(state, KeyState) else KeyState()

    async def _listed(self) -> KeyIndex:
        state = await self._host.read(LIST)
        return state if isinstance(state, KeyIndex) else KeyIndex()


def digest(text: str) -> str:
    """The hash that is stored of a key. A key is random and long: no salt or slow hash would add to it."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def identifier(text: str, field: str) -> str:
    """An id that may become a part of a topic. Raises InvalidInput, which names the field."""
    try:
        return TypeAdapter(Identifier).validate_python(text)
    except ValidationError:
        raise InvalidInput(
            f"{field} may use letters, digits, - and _, at most 64; not {text[:80]!r}", field=field
        ) from None


def budget_of(text: str, key_id: str, agent_id: str) -> Budget:
    """The hard budget of one key, from a text like `5.00/day`. Raises InvalidInput."""
    amount, _, window = text.partition("/")
    try:
        limit = Decimal(amount.strip().removeprefix("$"))
    except InvalidOperation:
        limit = Decimal(-1)
    window = window.strip() or "total"
    if window not in _WINDOWS or not is_amount(limit):
        raise InvalidInput(
            f"budget: expected dollars from 0 to {MAX_DOLLARS:,} and one of {', '.join(_WINDOWS)}, "
            f"not {text[:80]!r}",
            remedy="write it like 5.00/day",
            field="budget",
        )
    name = f"key-{key_id.lower()}"
    return Budget.model_validate(
        {"name": name, "scope": "agent", "of": agent_id, "limit_usd": limit, "window": window}
    )
