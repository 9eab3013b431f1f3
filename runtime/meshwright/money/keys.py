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
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from meshwright.core import topics
from meshwright.core.access import KEY_ROLES, Role
from meshwright.core.clock import parse_duration
from meshwright.core.encoding import decode, encode
from meshwright.core.errors import Conflict, HostError, InvalidInput, MeshError, NotFound, Unauthenticated
from meshwright.core.events import Event
from meshwright.core.ids import ID_PATTERN, Identifier, new_id
from meshwright.core.money import Budget
from meshwright.core.settings import Settings
from meshwright.edges.http.settings import HttpSettings
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.sql.database import Session
from meshwright.engine.work.protocol import DEFAULT_TENANT
from meshwright.mesh.identity.settings import KeysSettings, OidcSettings
from meshwright.money.allowances import invalid_field, parse_amount
from meshwright.money.event_types import KeyCreated, KeyRefused, KeysOpened, KeyUsed

PREFIX = "sk-mesh-"
RUN_PREFIX = "mesh-run-"
"""The beginning of the keys of runs, which their gateways alone take."""
_WRITTEN = re.compile(rf"{PREFIX}([0-9A-HJKMNP-TV-Z]{{26}})-[A-Za-z0-9_-]{{43}}")
_SECRET_BYTES = 32
_NO_HASH = "0" * 64
_USED_EVERY = timedelta(minutes=10)
_REFUSED_EVERY = timedelta(minutes=1)
_MAX_YEARS = timedelta(days=3_650)
KEY, _KEYS = "virtual-key", "virtual-keys"
"""The types of the actors that are keys, by their ids, and of the one that says whether one is needed."""
REQUIREMENT = ActorRef(_KEYS, "mesh")
EVERY_TENANT = "*"
"""The tenant of a key that is of all of them."""
_CREATED, _ROTATED, _REVOKED = "key.created", "key.rotated", "key.revoked"
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


class _KeyRequirement(BaseModel):
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


class _Replacement(BaseModel):
    """The key that takes another's place, and the time until which the other is valid too."""

    key_id: str
    until: datetime


class _VirtualKey(Actor[KeyState]):
    """One key: made once, and ended for good."""

    @turn
    def make(self, turn: Turn, new_state: KeyState) -> None:
        """Begin to be that key. One that is made stays as it is."""
        if self.state.key is None:
            self.state = new_state
            self._publish(turn, _CREATED)

    @turn
    def revoke(self, turn: Turn) -> Key:
        """End, and stay known; one that has ended stays as it was. Raises NotFound if it was not made."""
        key = self._made()
        if key.revoked_at is None:
            key = self.state.key = key.model_copy(update={"revoked_at": turn.now})
            self._publish(turn, _REVOKED)
        return key

    @turn
    def replace(self, turn: Turn, replacement: _Replacement) -> Key:
        """Name the key that takes its place, and expire soon. Raises NotFound, Conflict if it has ended."""
        key = self._made()
        _check_current(key)  # in its turn, again: two rotations may have begun
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
        payload = KeyCreated(**key.model_dump(mode="json", exclude_none=True), opening=self.state.opening)
        turn.publish(topics.MESH, event_type, payload, tenant_id=key.events_tenant)


class _VirtualKeys(Actor[_KeyRequirement]):
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
            self.state = _KeyRequirement(opened_at=[*self.state.opened_at, turn.now])
            turn.publish(KeysOpened(keys=count))


KINDS = (ActorKind.from_class(_VirtualKey, type=KEY), ActorKind.from_class(_VirtualKeys, type=_KEYS))
"""The actors of keys."""


class KeyProjection:
    """The table `virtual_keys`."""

    name = "keys"
    version = 1
    event_types: Collection[str] = (_CREATED, _ROTATED, _REVOKED, KeyUsed.event_type)

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """List keys, their last uses and their ends."""
        for event in events:
            document = event.fields
            if (used := KeyUsed.read(event)) is not None:
                document = {"key_id": used.key_id, "used_at": event.time.isoformat()}
            _write_key(session, event.event_type, document, event.seq or 0)

    def clear(self, session: Session, oldest: int) -> None:
        """Delete nothing: to list a key again changes nothing."""


def unknown_key(key_id: str) -> NotFound:
    """The error for a key that the mesh does not have."""
    return NotFound(
        f"There is no key {key_id!r}", remedy="mesh keys list shows them by their ids", field="key_id"
    )


def _check_current(key: Key) -> None:
    """Raises Conflict for a key that has ended, or has been replaced."""
    if key.revoked_at is not None or key.replaced_by is not None:
        end = f"was rotated to {key.replaced_by}" if key.replaced_by else "was revoked"
        raise Conflict(f"Key {key.key_id} {end}", remedy="mesh keys create makes another", field="key_id")


def _write_key(session: Session, event_type: str, document: dict[str, Any], seq: int) -> None:
    """List a key as an event has it; its last use stays known."""
    rows = session.execute(_FIND, (str(document.get("key_id")),)).fetchall()
    listed = decode(rows[0][0]) if rows else {}
    if event_type == KeyUsed.event_type:
        document = {**listed, **document}
    elif "used_at" in listed:
        document = {**document, "used_at": listed["used_at"]}
    try:
        key = Key.model_validate(document)
    except (ValueError, ArithmeticError):  # an event that another program has published
        return
    row = key.key_id, seq, encode(document).decode()
    then = "ON CONFLICT DO NOTHING" if event_type == _CREATED else _REPLACE  # a rebuild undoes no change
    session.insert("virtual_keys (key_id, seq, document)", [row], then=then)


def _read_keys(session: Session) -> list[tuple[Key, int]]:
    """Returns the listed keys, oldest first, each with how often the mesh had been opened before."""
    documents = [decode(document) for (document,) in session.execute(_LIST).fetchall()]
    return [(Key.model_validate(document), document.get("opening", 0)) for document in documents]


class NewKey(Key):
    """A key as it is made: `key` is shown this once."""

    key: str


class Keys:
    """The keys of a mesh, the same in each of its processes.

    Every method raises HostError if the store does not answer. `list` and `open` need the event log: in a
    process that has none (`has_log`) they raise NotFound.
    """

    def __init__(self, runtime: Runtime, log: EventLog, *, has_log: bool = True) -> None:
        self._runtime = runtime
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
        key_id, now = key_id or new_id(), self._runtime.clock.now()
        expires_at = None if expires is None else now + _checked_duration(expires, "expires")
        fields = {"agent_id": agent_id, "tenant_id": tenant_id, "roles": tuple(dict.fromkeys(roles))}
        try:
            key = Key.model_validate(
                {**fields, "key_id": key_id, "created_at": now, "expires_at": expires_at}
            )
        except ValidationError as error:
            raise invalid_field(error) from None
        if budget is not None:
            key = key.model_copy(update={"budget": key_budget(budget, key_id, agent_id)})
        return await self._make(key)

    async def _make(self, key: Key) -> NewKey:
        text = f"{PREFIX}{key.key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}"
        opening = await self._runtime.call(REQUIREMENT, "require")  # before the key exists: no gap
        state = KeyState(key=key, hash=digest(text), opening=opening)
        await self._runtime.call(ActorRef(KEY, key.key_id), "make", state)
        return NewKey(**dict(key), key=text)

    async def rotate(self, key_id: str, *, grace: str = "1h", expires: str | None = None) -> NewKey:
        """Make a key that takes another's place, with its agent, tenant, roles and budget.

        Both are valid for `grace`, a time like `1h`; then the other one expires. `expires` is like that of
        `create`; by default the new key has the lifetime of the other. Raises NotFound, InvalidInput, and
        Conflict if the other was revoked or rotated.
        """
        now, pause = self._runtime.clock.now(), _checked_duration(grace, "grace")
        old = await self.find(key_id)
        lifetime = None if old.expires_at is None else old.expires_at - old.created_at
        if expires is not None:
            lifetime = _checked_duration(expires, "expires")
        _check_current(old)
        expires_at = None if lifetime is None else now + lifetime
        fresh = {"key_id": new_id(), "created_at": now, "expires_at": expires_at}
        new_key = await self._make(old.model_copy(update=fresh))
        replacement = _Replacement(key_id=new_key.key_id, until=now + pause)
        try:
            await self._runtime.call(ActorRef(KEY, key_id), "replace", replacement)
        except MeshError:
            await self.revoke(new_key.key_id)  # it was never shown
            raise
        return new_key

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
        keys = await self._log.view(_read_keys)
        requirement = await self._requirement()
        return [requirement.applied_to(key, opening) for key, opening in keys]

    async def revoke(self, key_id: str) -> Key:
        """End a key everywhere, for good when this returns; one that has ended stays as it was.

        Raises NotFound.
        """
        key = (await self._kept(key_id)).key
        if key is not None and key.revoked_at is not None:
            return key
        return await self._runtime.call(ActorRef(KEY, key_id), "revoke")

    async def check(self, text: str) -> Key:
        """The key that a caller shows. Raises Unauthenticated, which never quotes the text that was shown."""
        match = _WRITTEN.fullmatch(text)
        state = await self._kept(match[1]) if match else KeyState()
        # An unknown key is compared too, so that the time it takes reveals nothing.
        key, now = state.key, self._runtime.clock.now()
        if not hmac.compare_digest(digest(text), state.hash or _NO_HASH) or key is None:
            if key is not None:
                self._refuse(key, "its secret is wrong")
            raise Unauthenticated("The key is not one of this mesh's", remedy="mesh keys create makes one")
        end = ""
        if key.revoked_at is not None:
            end = "was revoked"
        elif key.expires_at is not None and key.expires_at <= now:
            end = f"expired at {key.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        if end:
            self._refuse(key, end)
            raise Unauthenticated(f"Key {key.key_id} {end}", remedy="mesh keys create makes another")
        self._tell(key, KeyUsed(key_id=key.key_id, agent_id=key.agent_id), _USED_EVERY)
        return key

    def _refuse(self, key: Key, reason: str) -> None:
        refused = KeyRefused(key_id=key.key_id, agent_id=key.agent_id, reason=reason)
        self._tell(key, refused, _REFUSED_EVERY)

    def _tell(self, key: Key, payload: KeyUsed | KeyRefused, pause: timedelta) -> None:
        """Record that a key was used or refused, at most once in each `pause`."""
        name, now = (key.key_id, payload.event_type), self._runtime.clock.now()
        if name in self._recorded_at and now - self._recorded_at[name] < pause:
            return
        self._recorded_at[name] = now
        event = Event(
            id=f"{KEY}/{key.key_id}/{new_id()}",
            event_type=payload.event_type,
            topic=topics.MESH,
            time=now,
            tenant_id=key.events_tenant,
            aggregate_id=f"{KEY}/{key.key_id}",
            payload=payload,
        )
        with suppress(HostError):  # the key is valid even if the log is away
            self._runtime.emit([event])

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
        await self._runtime.call(REQUIREMENT, "open", len(keys))
        return len(valid)

    async def _kept(self, key_id: str) -> KeyState:
        state, requirement = await asyncio.gather(
            self._runtime.read(ActorRef(KEY, key_id)), self._requirement()
        )
        if not isinstance(state, KeyState) or state.key is None:
            return KeyState()
        return state.model_copy(update={"key": requirement.applied_to(state.key, state.opening)})

    async def _requirement(self) -> _KeyRequirement:
        state = await self._runtime.read(REQUIREMENT)
        return state if isinstance(state, _KeyRequirement) else _KeyRequirement()


def _checked_duration(text: str, field: str) -> timedelta:
    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise InvalidInput(f"{field}: {error}", remedy="Write it like 1h or 30d", field=field) from None
    if duration > _MAX_YEARS:
        raise InvalidInput(f"{field} is more than ten years", remedy="Write it like 30d", field=field)
    return duration


def digest(text: str) -> str:
    """The hash that is stored of a key. A key is random and long: no salt or slow hash would add to it."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def key_budget(text: str, key_id: str, agent_id: str) -> Budget:
    """The hard budget of one key, from a text like `5.00/day`. Raises InvalidInput."""
    limit, window = parse_amount(text)
    name = f"key-{key_id.lower()}"
    return Budget.model_validate(
        {"name": name, "scope": "agent", "of": agent_id, "limit_usd": limit, "window": window}
    )


async def keys_required(keys: Keys, settings: Settings) -> bool:
    """Whether requests need credentials: as the settings say, else behind TLS, with keys or an issuer."""
    required = requires_keys(settings)
    return await keys.required() if required is None else required


def requires_keys(settings: Settings) -> bool | None:
    """Whether requests need credentials, as the settings say; None where the first key decides it."""
    required = settings[KeysSettings].required
    if required is None and (settings[HttpSettings].behind_tls or settings[OidcSettings].issuer is not None):
        return True
    return required
