"""Stored keys: an actor for each, one that says whether callers need a key, and the table that lists them.

The table `virtual_keys` is made from the actors' events. No message and no event holds a key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from meshwright.core import topics
from meshwright.core.access import KEY_ROLES, Role
from meshwright.core.encoding import decode, encode
from meshwright.core.errors import Conflict, NotFound
from meshwright.core.messages import ID_PATTERN, Event, Identifier
from meshwright.core.money import Budget
from meshwright.kernel.actor import Actor, Turn, turn
from meshwright.kernel.envelope import ActorRef
from meshwright.ledger.costs import fields_of
from meshwright.sql.database import Session
from meshwright.work.protocol import DEFAULT_TENANT

KEY, KEYS = "virtual-key", "virtual-keys"
"""The types of the actors that are keys, by their ids, and of the one that says whether one is needed."""
REQUIREMENT = ActorRef(KEYS, "mesh")
EVERY_TENANT = "*"
"""The tenant of a key that is of all of them."""
CREATED, _ROTATED, _REVOKED, _OPENED = "key.created", "key.rotated", "key.revoked", "keys.opened"
USED, REFUSED = "key.used", "key.refused"
_REPLACE = "ON CONFLICT (key_id) DO UPDATE SET document = excluded.document"
_LIST = "SELECT document FROM virtual_keys ORDER BY seq, key_id"
_FIND = "SELECT document FROM virtual_keys WHERE key_id = ?"


def _is_tenant(text: str) -> str:
    if text != EVERY_TENANT and not re.fullmatch(ID_PATTERN, text):
        raise ValueError("may use letters, digits, - and _, at most 64; * is all tenants")
    return text


KeyTenant = Annotated[str, AfterValidator(_is_tenant)]


class Key(BaseModel):
    """A key without its secret. Its holder is `agent_id` of `tenant_id`.

    `tenant_id` is `*` for a key of all tenants. `replaced_by` is the key that it was rotated to. `used_at` is
    when it was last used, to ten minutes; only a list has it.
    """

    model_config = ConfigDict(frozen=True)

    key_id: str
    agent_id: Identifier
    tenant_id: KeyTenant = "default"
    roles: Annotated[tuple[Role, ...], Field(min_length=1)] = KEY_ROLES
    budget: Budget | None = None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    replaced_by: str | None = None
    used_at: datetime | None = None

    @property
    def events_tenant(self) -> str:
        """The tenant that its events are of."""
        return DEFAULT_TENANT if self.tenant_id == EVERY_TENANT else self.tenant_id


class KeyState(BaseModel):
    """The state of a key's actor; empty until the key is made.

    `hash` is the SHA-256 of the whole key in hexadecimal: it cannot be read again. `opening` counts how
    often the mesh had been opened before.
    """

    key: Key | None = None
    hash: str = ""
    opening: int = 0


class KeyRequirement(BaseModel):
    """Whether callers need a key: from the first that is made until an operator opens the mesh.

    All keys made before one of the times in `opened_at` are revoked.
    """

    required: bool = False
    opened_at: list[datetime] = []

    def applied_to(self, key: Key, opening: int) -> Key:
        """The key, revoked if the mesh was opened since it was made."""
        if key.revoked_at is not None or opening >= len(self.opened_at):
            return key
        return key.model_copy(update={"revoked_at": self.opened_at[opening]})


class Replacement(BaseModel):
    """The key that takes another's place, and the time until which the other is valid too."""

    key_id: str
    until: datetime


class VirtualKey(Actor[KeyState]):
    """One key: made once, and ended for good."""

    @turn
    def make(self, turn: Turn, made: KeyState) -> None:
        """Begin to be that key. One that is made stays as it is."""
        if self.state.key is None:
            self.state = made
            self._publish(turn, CREATED)

    @turn
    def revoke(self, turn: Turn) -> Key:
        """End, and stay known; one that has ended stays as it was. Raises NotFound if it was not made."""
        key = self._made()
        if key.revoked_at is None:
            key = self.state.key = key.model_copy(update={"revoked_at": turn.now})
            self._publish(turn, _REVOKED)
        return key

    @turn
    def replace(self, turn: Turn, replacement: Replacement) -> Key:
        """Name the key that takes its place, and expire soon. Raises NotFound, Conflict if it has ended."""
        key = self._made()
        check_current(key)
        until = min(filter(None, (key.expires_at, replacement.until)))
        changed = {"replaced_by": replacement.key_id, "expires_at": until}
        key = self.state.key = key.model_copy(update=changed)
        self._publish(turn, _ROTATED)
        return key

    def _made(self) -> Key:
        if self.state.key is None:
            raise unknown_key(self.ref.id)
        return self.state.key

    def _publish(self, turn: Turn, event_type: str) -> None:
        key = self._made()
        document = {**key.model_dump(mode="json", exclude_none=True), "opening": self.state.opening}
        turn.publish(topics.MESH, event_type, document, tenant_id=key.events_tenant)


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
        if self.state.required:
            self.state = KeyRequirement(opened_at=[*self.state.opened_at, turn.now])
            turn.publish(topics.MESH, _OPENED, {"keys": count})


class KeyProjection:
    """The table `virtual_keys`."""

    name = "keys"
    version = 1
    event_types: Collection[str] = (CREATED, _ROTATED, _REVOKED, USED)

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """List keys, their last uses and their ends."""
        for event in events:
            document = fields_of(event.payload)
            if event.event_type == USED:
                document = {"key_id": document.get("key_id"), "used_at": event.time.isoformat()}
            _write_key(session, event.event_type, document, event.seq or 0)

    def clear(self, session: Session, oldest: int) -> None:
        """Delete nothing: to list a key again changes nothing."""


def unknown_key(key_id: str) -> NotFound:
    """The error for a key that the mesh does not have."""
    return NotFound(
        f"There is no key {key_id!r}", remedy="mesh keys list shows them by their ids", field="key_id"
    )


def check_current(key: Key) -> None:
    """Raises Conflict for a key that has ended, or has been replaced."""
    if key.revoked_at is not None or key.replaced_by is not None:
        ended = f"was rotated to {key.replaced_by}" if key.replaced_by else "was revoked"
        raise Conflict(f"Key {key.key_id} {ended}", remedy="mesh keys create makes another", field="key_id")


def _write_key(session: Session, event_type: str, document: dict[str, Any], seq: int) -> None:
    """List a key as an event has it; its last use stays known."""
    rows = session.execute(_FIND, (str(document.get("key_id")),)).fetchall()
    listed = decode(rows[0][0]) if rows else {}
    if event_type == USED:
        document = {**listed, **document}
    elif "used_at" in listed:
        document = {**document, "used_at": listed["used_at"]}
    try:
        key = Key.model_validate(document)
    except (ValueError, ArithmeticError):  # an event that another program has published
        return
    row = key.key_id, seq, encode(document).decode()
    then = "ON CONFLICT DO NOTHING" if event_type == CREATED else _REPLACE
    session.insert("virtual_keys (key_id, seq, document)", [row], then=then)


def read_keys(session: Session) -> list[tuple[Key, int]]:
    """Returns the listed keys, oldest first, each with how often the mesh had been opened before."""
    documents = [decode(document) for (document,) in session.execute(_LIST).fetchall()]
    return [(Key.model_validate(document), document.get("opening", 0)) for document in documents]
