"""Virtual keys: callers from outside use the mesh's models by them, each as one agent of one tenant.

An actor keeps each key, and another one says whether callers need a key: so what one worker creates or
revokes counts in all of them with the next request, also where the database is the front's alone (Dapr). The
table `virtual_keys` lists the keys; it is made from the actors' events. No message and no event holds a key.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from meshwright.core import topics
from meshwright.core.encoding import decode, encode
from meshwright.core.errors import InvalidInput, MeshError, NotFound, sentence
from meshwright.core.messages import Event, Identifier, new_id
from meshwright.core.money import Budget, fit
from meshwright.events.log import EventLog
from meshwright.kernel.actor import Actor, Turn, turn
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime
from meshwright.ledger.allowances import amount_of
from meshwright.ledger.costs import fields_of
from meshwright.sql.database import Database, Session

LLM_SERVICE = "llm-service"
"""Who offers models to callers from outside, and whose calls those are that show no key."""
PREFIX = "sk-mesh-"
_WRITTEN = re.compile(rf"{PREFIX}([0-9A-HJKMNP-TV-Z]{{26}})-[A-Za-z0-9_-]{{43}}")
_SECRET_BYTES = 32
_NO_HASH = "0" * 64
KEY, KEYS = "virtual-key", "virtual-keys"
"""The types of the actors that are keys, by their ids, and of the one that says whether one is needed."""
REQUIREMENT = ActorRef(KEYS, "mesh")
_CREATED, _REVOKED, _OPENED = "key.created", "key.revoked", "keys.opened"
_ON_CONFLICT = {
    _CREATED: "ON CONFLICT DO NOTHING",
    _REVOKED: "ON CONFLICT (key_id) DO UPDATE SET document = excluded.document",
}
_LIST = "SELECT document FROM virtual_keys ORDER BY seq, key_id"


def _fitted(budget: Any) -> Any:
    """Cut the limit that an earlier version stored to the bounds of today."""
    return {**budget, "limit_usd": fit(Decimal(budget["limit_usd"]))} if isinstance(budget, dict) else budget


class Key(BaseModel):
    """All that is known of a key, but the key itself. Its holder is `agent_id` of `tenant_id`."""

    model_config = ConfigDict(frozen=True)

    key_id: str
    agent_id: Identifier
    tenant_id: Identifier = "default"
    budget: Annotated[Budget, BeforeValidator(_fitted)] | None = None
    created_at: datetime
    revoked_at: datetime | None = None


class KeyState(BaseModel):
    """What a key's actor keeps: nothing, until the key is made.

    `hash` is the SHA-256 of the whole key in hexadecimal: nobody can read it again. `opening` counts how
    often the mesh had been opened before.
    """

    key: Key | None = None
    hash: str = ""
    opening: int = 0


class KeyRequirement(BaseModel):
    """Whether callers need a key: from the first that is made until an operator opens the mesh.

    All keys made before one of the times in `opened_at` are revoked. An earlier version kept the `ids` of all
    keys here, and `opened`.
    """

    required: bool = False
    opened_at: list[datetime] = []
    ids: list[str] = []
    opened: bool = False

    @property
    def is_required(self) -> bool:
        """Whether callers need a key."""
        return self.required or (bool(self.ids) and not self.opened)

    def applied_to(self, key: Key, opening: int) -> Key:
        """The key, revoked if the mesh was opened since it was made."""
        if key.revoked_at is not None or opening >= len(self.opened_at):
            return key
        return key.model_copy(update={"revoked_at": self.opened_at[opening]})


class VirtualKey(Actor[KeyState]):
    """One key: made once, and ended for good."""

    @turn
    def make(self, turn: Turn, made: KeyState) -> None:
        """Begin to be that key. One that is made stays as it is."""
        if self.state.key is None:
            self.state = made
            turn.publish(topics.MESH, _CREATED, _document(made))

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
            turn.publish(topics.MESH, _REVOKED, _document(self.state))
        return key


class VirtualKeys(Actor[KeyRequirement]):
    """Whether callers need a key."""

    @turn
    def require(self, turn: Turn) -> int:
        """Require a key from now on; returns how often the mesh was opened before."""
        self.state.required = True
        return len(self.state.opened_at)

    @turn
    def open(self, turn: Turn, count: int) -> None:
        """Revoke every key that was made or is being made, and require none until another one is."""
        if self.state.is_required:
            self.state = KeyRequirement(opened_at=[*self.state.opened_at, turn.now])
            turn.publish(topics.MESH, _OPENED, {"keys": count})

    @turn
    def forget_ids(self, turn: Turn) -> None:
        """Drop the ids that an earlier version kept, once they are in the table."""
        self.state = KeyRequirement(required=self.state.is_required, opened_at=self.state.opened_at)


class KeyProjection:
    """The table `virtual_keys`."""

    name = "keys"
    version = 1
    event_types: Collection[str] = (_CREATED, _REVOKED)

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """List keys, and their ends. Events of an earlier version lack the times."""
        for event in events:
            times = {"created_at": event.time, "revoked_at": event.time}
            default = times if event.event_type == _REVOKED else {"created_at": event.time}
            document = {**default, **fields_of(event.payload)}
            _write(session, event.event_type, document, event.seq or 0)

    def clear(self, session: Session, oldest: int) -> None:
        """Delete nothing: to list a key again changes nothing."""


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

    Every method raises HostError where the store cannot be asked. `list` and `open` need the event log: in a
    process that has none (`has_log`) they raise NotFound.
    """

    def __init__(self, host: Runtime, log: EventLog, database: Database, *, has_log: bool = True) -> None:
        self._host = host
        self._log = log
        self._database = database
        self._has_log = has_log

    async def start(self) -> None:
        """List the keys of an earlier version, whose events may have been pruned."""
        if ids := (await self._requirement()).ids:
            for state in await asyncio.gather(*map(self._kept, ids)):
                if state.key is not None:
                    await self._database.write(_write, _CREATED, _document(state))
            await self._host.call(REQUIREMENT, "forget_ids")

    async def create(self, agent_id: str, *, tenant_id: str = "default", budget: str | None = None) -> NewKey:
        """Make a key, durable when this returns. `budget` is like `5.00/day`. Raises InvalidInput."""
        key_id = new_id()
        text = f"{PREFIX}{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}"
        try:
            key = Key(
                key_id=key_id, agent_id=agent_id, tenant_id=tenant_id, created_at=self._host.clock.now()
            )
        except ValidationError as error:
            [problem, *_] = error.errors()
            field = str(problem["loc"][0])
            raise InvalidInput(f"{field} {sentence(problem)}", field=field) from None
        if budget is not None:
            key = key.model_copy(update={"budget": budget_of(budget, key_id, agent_id)})
        opening = await self._host.call(REQUIREMENT, "require")
        made = KeyState(key=key, hash=digest(text), opening=opening)
        await self._host.call(ActorRef(KEY, key_id), "make", made)
        return NewKey(**dict(key), key=text)

    async def list(self) -> list[Key]:
        """Every key that was made, the oldest first."""
        if not self._has_log:
            raise NotFound(
                "This worker has no list of the keys", remedy="Ask the mesh's front, where its event log is"
            )
        found = await self._log.view(_read_all)
        requirement = await self._requirement()
        return [requirement.applied_to(key, opening) for key, opening in found]

    async def revoke(self, key_id: str) -> Key:
        """End a key everywhere, for good when this returns; one that has ended stays as it was.

        Raises NotFound.
        """
        key = (await self._kept(key_id)).key
        if key is not None and key.revoked_at is not None:
            return key
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
        return (await self._requirement()).is_required

    async def open(self) -> int:
        """Revoke every key, and require none until another is made; returns how many it has revoked.

        Durable when this returns.
        """
        keys = await self.list()
        valid = [key.key_id for key in keys if key.revoked_at is None]
        await asyncio.gather(*map(self.revoke, valid))
        await self._host.call(REQUIREMENT, "open", len(keys))
        return len(valid)

    async def _kept(self, key_id: str) -> KeyState:
        state, requirement = await asyncio.gather(self._host.read(ActorRef(KEY, key_id)), self._requirement())
        if not isinstance(state, KeyState) or state.key is None:
            return KeyState()
        return state.model_copy(update={"key": requirement.applied_to(state.key, state.opening)})

    async def _requirement(self) -> KeyRequirement:
        state = await self._host.read(REQUIREMENT)
        return state if isinstance(state, KeyRequirement) else KeyRequirement()


def digest(text: str) -> str:
    """The hash that is stored of a key. A key is random and long: no salt or slow hash would add to it."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def budget_of(text: str, key_id: str, agent_id: str) -> Budget:
    """The hard budget of one key, from a text like `5.00/day`. Raises InvalidInput."""
    limit, window = amount_of(text)
    name = f"key-{key_id.lower()}"
    return Budget.model_validate(
        {"name": name, "scope": "agent", "of": agent_id, "limit_usd": limit, "window": window}
    )


def _document(state: KeyState) -> dict[str, Any]:
    """A key as its events and the table have it."""
    assert state.key is not None
    return {**state.key.model_dump(mode="json", exclude_none=True), "opening": state.opening}


def _write(session: Session, event_type: str, document: dict[str, Any], seq: int = 0) -> None:
    try:
        key = Key.model_validate(document)
    except (ValueError, ArithmeticError):  # an event that another program has published
        return
    row = key.key_id, seq, encode(document).decode()
    session.insert("virtual_keys", [row], then=_ON_CONFLICT[event_type])


def _read_all(session: Session) -> list[tuple[Key, int]]:
    documents = [decode(document) for (document,) in session.execute(_LIST).fetchall()]
    return [(Key.model_validate(document), document.get("opening", 0)) for document in documents]
