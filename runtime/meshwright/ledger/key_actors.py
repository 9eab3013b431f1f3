"""What is kept of virtual keys: an actor for each, and one that lists them, the same for all workers.

A key is listed before it is made, so that none exists that is not listed. Messages to actors are kept too:
none of them may hold a key itself.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from meshwright import topics
from meshwright.actor import Actor, Turn, turn
from meshwright.envelope import ActorRef
from meshwright.errors import InvalidInput, NotFound
from meshwright.messages import Identifier, Plain
from meshwright.money import Budget, fit

KEY, KEYS = "virtual-key", "virtual-keys"
"""The types of the actors that are keys, by their ids, and of the one that lists them."""
CREATED, REVOKED, OPENED = "key.created", "key.revoked", "keys.opened"
LIST = ActorRef(KEYS, "mesh")
MAX_KEYS = 1_000  # revoked ones too, since they stay known as such: so the list is at most 32 KiB


def _fitted(budget: Any) -> Any:
    """Cut the limit that an earlier version stored to the bounds of today."""
    return {**budget, "limit_usd": fit(Decimal(budget["limit_usd"]))} if isinstance(budget, dict) else budget


KeptBudget = Annotated[Budget, BeforeValidator(_fitted)]


class Key(BaseModel):
    """All that is known of a key, but the key itself. Its holder is `agent_id` of `tenant_id`."""

    model_config = ConfigDict(frozen=True)

    key_id: str
    agent_id: Identifier
    tenant_id: Identifier = "default"
    budget: KeptBudget | None = None
    created_at: datetime
    revoked_at: datetime | None = None


class Make(Plain):
    """A key to be made. `hash` is the SHA-256 of the whole key in hexadecimal: nobody can read it again."""

    key: Key
    hash: str


class Kept(BaseModel):
    """What a key's actor keeps: nothing, until the key is made."""

    key: Key | None = None
    hash: str = ""


class Listed(BaseModel):
    """The ids of all keys, the oldest first. One that was never made may be among them.

    `opened` says that after the last of them an operator opened the mesh to callers without a key.
    """

    ids: list[str] = []
    opened: bool = False

    @property
    def required(self) -> bool:
        """Whether callers need a key."""
        return bool(self.ids) and not self.opened


class VirtualKey(Actor[Kept]):
    """One key: made once, and ended for good."""

    @turn
    def make(self, turn: Turn, make: Make) -> None:
        """Begin to be that key. One that is made stays as it is."""
        if self.state.key is None:
            self.state.key, self.state.hash = make.key, make.hash
            turn.publish(topics.MESH, CREATED, _described(make.key))

    @turn
    def revoke(self, turn: Turn) -> Key:
        """End, and stay known; one that has ended stays as it was. Raises NotFound where it was not made."""
        key = self.state.key
        if key is None:
            raise NotFound(
                f"there is no key {self.ref.id!r}",
                remedy="mesh keys list shows them by their ids",
                field="key_id",
            )
        if key.revoked_at is None:
            key = self.state.key = key.model_copy(update={"revoked_at": turn.now})
            turn.publish(topics.MESH, REVOKED, _described(key))
        return key


class VirtualKeys(Actor[Listed]):
    """The list of all keys."""

    @turn
    def add(self, turn: Turn, key_id: str) -> None:
        """Take up the id of a key. A repeat changes nothing. Raises InvalidInput where the list is full."""
        if key_id in self.state.ids:
            return
        if len(self.state.ids) >= MAX_KEYS:
            raise InvalidInput(f"the mesh has {MAX_KEYS:,} keys, revoked ones included, and may have no more")
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
