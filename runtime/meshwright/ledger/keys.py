"""Keys: a caller that shows one is its holder, in one tenant, with some roles.

An actor holds each key, and another one whether callers need a key. So a key that one worker creates or
revokes counts in all of them with the next request, even if only the front has the database (Dapr).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from meshwright.core import topics
from meshwright.core.access import KEY_ROLES
from meshwright.core.clock import duration_of
from meshwright.core.errors import HostError, InvalidInput, MeshError, NotFound
from meshwright.core.messages import Event, new_id
from meshwright.core.money import Budget
from meshwright.events.log import EventLog
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime
from meshwright.ledger.allowances import amount_of, invalid_field
from meshwright.ledger.virtual_keys import (
    KEY,
    REFUSED,
    REQUIREMENT,
    USED,
    Key,
    KeyRequirement,
    KeyState,
    Replacement,
    check_current,
    read_keys,
    unknown_key,
)
from meshwright.settings import Settings

PREFIX = "sk-mesh-"
_WRITTEN = re.compile(rf"{PREFIX}([0-9A-HJKMNP-TV-Z]{{26}})-[A-Za-z0-9_-]{{43}}")
_SECRET_BYTES = 32
_NO_HASH = "0" * 64
_USED_EVERY = timedelta(minutes=10)
_REFUSED_EVERY = timedelta(minutes=1)
_MAX_YEARS = timedelta(days=3_650)


class Unauthenticated(MeshError):
    """A caller without the key that it needs, or with an invalid one."""

    status = 401


class NewKey(Key):
    """A key as it is made: `key` is shown this once."""

    key: str


class Keys:
    """The keys of a mesh, the same in each of its processes.

    Every method raises HostError if the store does not answer. `list` and `open` need the event log: in a
    process that has none (`has_log`) they raise NotFound.
    """

    def __init__(self, host: Runtime, log: EventLog, *, has_log: bool = True) -> None:
        self._host = host
        self._log = log
        self._has_log = has_log
        self._recorded_at: dict[tuple[str, str], datetime] = {}

    async def create(
        self,
        agent_id: str,
        *,
        key_id: str | None = None,
        tenant_id: str = "default",
        roles: Collection[str] = KEY_ROLES,
        expires: str | None = None,
        budget: str | None = None,
    ) -> NewKey:
        """Make a key, durable when this returns. Raises InvalidInput.

        `key_id` is a new id, by default a random one. `tenant_id` may be `*`: of all tenants.
        `expires` is a time from now like `30d`, `budget` is like `5.00/day`.
        """
        key_id, now = key_id or new_id(), self._host.clock.now()
        expires_at = None if expires is None else now + _checked_duration(expires, "expires")
        fields = {"agent_id": agent_id, "tenant_id": tenant_id, "roles": tuple(dict.fromkeys(roles))}
        try:
            key = Key.model_validate(
                {**fields, "key_id": key_id, "created_at": now, "expires_at": expires_at}
            )
        except ValidationError as error:
            raise invalid_field(error) from None
        if budget is not None:
            key = key.model_copy(update={"budget": budget_of(budget, key_id, agent_id)})
        return await self._make(key)

    async def _make(self, key: Key) -> NewKey:
        text = f"{PREFIX}{key.key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}"
        opening = await self._host.call(REQUIREMENT, "require")
        made = KeyState(key=key, hash=digest(text), opening=opening)
        await self._host.call(ActorRef(KEY, key.key_id), "make", made)
        return NewKey(**dict(key), key=text)

    async def rotate(self, key_id: str, *, grace: str = "1h", expires: str | None = None) -> NewKey:
        """Make a key that takes another's place, with its agent, tenant, roles and budget.

        Both are valid for `grace`, a time like `1h`; then the other one expires. `expires` is like that of
        `create`; by default the new key has the lifetime of the other. Raises NotFound, InvalidInput, and
        Conflict if the other was revoked or rotated.
        """
        now, pause = self._host.clock.now(), _checked_duration(grace, "grace")
        old = await self.find(key_id)
        lifetime = None if old.expires_at is None else old.expires_at - old.created_at
        if expires is not None:
            lifetime = _checked_duration(expires, "expires")
        check_current(old)
        expires_at = None if lifetime is None else now + lifetime
        fresh = {"key_id": new_id(), "created_at": now, "expires_at": expires_at}
        made = await self._make(old.model_copy(update=fresh))
        replacement = Replacement(key_id=made.key_id, until=now + pause)
        try:
            await self._host.call(ActorRef(KEY, key_id), "replace", replacement)
        except MeshError:
            await self.revoke(made.key_id)  # it was never shown
            raise
        return made

    async def find(self, key_id: str) -> Key:
        """A key by its id. Raises NotFound."""
        key = (await self._kept(key_id)).key
        if key is None:
            raise unknown_key(key_id)
        return key

    async def list(self) -> list[Key]:
        """Every key that was made, the oldest first."""
        if not self._has_log:
            raise NotFound(
                "This worker has no list of the keys", remedy="Ask the mesh's front, which has the event log"
            )
        found = await self._log.view(read_keys)
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
        """The key that a caller shows. Raises Unauthenticated, which never quotes the text that was shown."""
        match = _WRITTEN.fullmatch(text)
        kept = await self._kept(match[1]) if match else KeyState()
        # An unknown key is compared too, so that the time it takes reveals nothing.
        key, now = kept.key, self._host.clock.now()
        if not hmac.compare_digest(digest(text), kept.hash or _NO_HASH) or key is None:
            if key is not None:
                self._tell(key, REFUSED, _REFUSED_EVERY, {"reason": "its secret is wrong"})
            raise Unauthenticated("The key is not one of this mesh's", remedy="mesh keys create makes one")
        ended = ""
        if key.revoked_at is not None:
            ended = "was revoked"
        elif key.expires_at is not None and key.expires_at <= now:
            ended = f"expired at {key.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        if ended:
            self._tell(key, REFUSED, _REFUSED_EVERY, {"reason": ended})
            raise Unauthenticated(f"Key {key.key_id} {ended}", remedy="mesh keys create makes another")
        self._tell(key, USED, _USED_EVERY, {})
        return key

    def _tell(self, key: Key, event_type: str, pause: timedelta, payload: dict[str, Any]) -> None:
        """Record that a key was used or refused, at most once in each `pause`."""
        name, now = (key.key_id, event_type), self._host.clock.now()
        if name in self._recorded_at and now - self._recorded_at[name] < pause:
            return
        self._recorded_at[name] = now
        event = Event(
            id=f"{KEY}/{key.key_id}/{new_id()}",
            event_type=event_type,
            topic=topics.MESH,
            time=now,
            tenant_id=key.events_tenant,
            aggregate_id=f"{KEY}/{key.key_id}",
            payload={"key_id": key.key_id, "agent_id": key.agent_id, **payload},
        )
        with suppress(HostError):  # the key is valid even if the log is away
            self._host.emit([event])

    async def required(self) -> bool:
        """Whether callers need a key: from the first that is made until `open`, also when all are revoked."""
        return (await self._requirement()).required

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


def _checked_duration(text: str, field: str) -> timedelta:
    try:
        duration = duration_of(text)
    except ValueError as error:
        raise InvalidInput(f"{field}: {error}", remedy="Write it like 1h or 30d", field=field) from None
    if duration > _MAX_YEARS:
        raise InvalidInput(f"{field} is more than ten years", remedy="Write it like 30d", field=field)
    return duration


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


async def keys_required(keys: Keys, settings: Settings) -> bool:
    """Whether requests need credentials: as the settings say, else if there are keys or an issuer."""
    if settings.keys.required is not None:
        return settings.keys.required
    return settings.oidc.issuer is not None or await keys.required()
