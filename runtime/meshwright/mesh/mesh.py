"""The mesh: a container of what its parts share and provide for one another, and the apps a process runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

from meshwright.core import topics
from meshwright.core.encoding import Json, Struct
from meshwright.core.errors import Draining, HostError, StoreFailed, TooLarge
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.core.parts import ours
from meshwright.core.payloads import Payload
from meshwright.core.settings import Settings
from meshwright.core.tracing import NoTracing, Tracing
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.encryption import Cipher

_logger = logging.getLogger("meshwright.mesh")
_ResultT = TypeVar("_ResultT")
_ThingT = TypeVar("_ThingT")


@dataclass(eq=False, repr=False)
class Mesh:
    """A running mesh: `async with mesh:` starts and stops it.

    Built by `mesh.app`. Its components join in order; each provides things for the others, which get
    them by their types: `mesh.get(Registry)`. Several meshes can run in one process.
    """

    settings: Settings
    """The settings: `settings[PagerSettings]` returns the table of a part."""
    _: KW_ONLY
    project: Path
    """The folder of the project, with `actors/` and `prompts/`."""
    role: ProcessRole
    """The apps that this process runs, and whether it is the front."""
    runtime: Runtime
    """Runs the actors: turns, topics, alarms."""
    database: Database
    """The database of this process, with the tables of its components."""
    log: EventLog
    """The event log."""
    tracing: Tracing | NoTracing
    """Records spans, or nothing if tracing is off."""
    cipher: Cipher
    """Encrypts secrets of the tables: `cipher.encrypt(text)`."""

    def __post_init__(self) -> None:
        self.apps: tuple[str, ...] = ()
        self.components: list[Member] = []
        self.warnings: tuple[str, ...] = ()
        self.events: Mapping[str, type[Payload]] = {}
        self.ready = False
        self.state: Literal["working", "held", "draining"] = "working"
        """Whether it begins work: not while it is `held` from its start on, nor while it is `draining`."""
        self.on_end: list[Callable[[HostError], None]] = []
        """Called when the mesh ends, with the error for callers that wait for something of it."""
        self._provided: dict[type, Any] = {}
        self._failed = asyncio.Event()
        self._failure: StoreFailed | None = None
        self.runtime.on_failure = self._fail
        self.runtime.listen(topics.TASK_PROGRESS, self.log.show, (topics.MODEL_DELTA,))

    def provide(self, thing: _ThingT, kind: type[_ThingT] | None = None) -> _ThingT:
        """Let the components get a thing by its type, or by another type that it fits; returns it.

        Raises ValueError where another thing is provided by that type.
        """
        kind = kind or type(thing)
        if kind in self._provided:
            raise ValueError(f"The mesh has a {kind.__name__} already")
        self._provided[kind] = thing
        return thing

    def get(self, kind: type[_ThingT]) -> _ThingT:
        """The thing or the component that is provided by a type. Raises LookupError."""
        try:
            return self._provided[kind]
        except KeyError:
            raise LookupError(f"The mesh has no {kind.__name__}{_provider_hint(kind)}") from None

    def find(self, kind: type[_ThingT]) -> _ThingT | None:
        """The same, or None where nothing is provided by that type."""
        return self._provided.get(kind)

    @property
    def has_log(self) -> bool:
        """Whether this process reads the event log: on Dapr without a shared database only the front can."""
        return self.role.is_front or self.settings.database is not None

    @property
    def shares_tables(self) -> bool:
        """Whether it shares what other processes need of its tables: on Dapr they may have no database."""
        return self.role.is_front and self.runtime.is_shared and self.settings.database is None

    @property
    def takes_tasks(self) -> bool:
        """Whether a task is accepted now: not while it starts, stops or drains, or its store is away."""
        return self.ready and self.state != "draining" and self.runtime.is_ready

    async def start(self) -> None:
        """Open the runtime and begin to work. Raises its errors; nothing is left running then."""
        await self.runtime.start()
        try:
            for component in self.components:
                await component.start()
            if self.state == "working":
                await self.begin()
        except BaseException:  # a cancelled start too must leave nothing running
            await self.stop()
            raise
        self.ready = True

    async def begin(self) -> None:
        """Begin to work. A start does it, unless a component has set `state` by then."""
        self.state = "working"
        for component in self.components:
            await component.begin()

    async def stop(self, *, drain_seconds: float = 10.0) -> None:
        """Take nothing new, let running work end, and close. Unfinished work goes on at the next start."""
        self.ready = False
        for component in self.components:
            await component.drain(drain_seconds)
        async with AsyncExitStack() as stack:  # where one fails to stop, the others stop all the same
            stack.push_async_callback(self.runtime.stop)
            for component in self.components:
                stack.push_async_callback(component.stop)
        self._end(Draining("The mesh has stopped", remedy="What was accepted goes on at the next start"))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def aggregate_id(self) -> str:
        """The aggregate of the events of this process."""
        return f"mesh/{self.runtime.incarnation}"

    def event(
        self,
        event: str | Payload,
        payload: Payload | Mapping[str, Any] | Json | None = None,
        *,
        topic: str = "",
        **fields: Any,
    ) -> Event:
        """An event of this process, of now: a payload, or a type and its payload.

        `fields` are further ones of it.
        """
        if payload is None:
            payload = event if isinstance(event, Payload) else {}
        aggregate_id = self.aggregate_id
        return Event(
            id=f"{aggregate_id}/{new_id()}",
            event_type=event.event_type if isinstance(event, Payload) else event,
            topic=topic or (payload.event_topic if isinstance(payload, Payload) else topics.MESH),
            time=self.runtime.clock.now(),
            aggregate_id=aggregate_id,
            payload=payload if isinstance(payload, Json | Payload) else dict(payload),
            **fields,
        )

    def tell(
        self,
        event: str | Payload,
        payload: Payload | Mapping[str, Any] | Json | None = None,
        *,
        topic: str = "",
        **fields: Any,
    ) -> None:
        """Put an event of this process into the log, made as `event` makes it.

        Called where no caller could handle an error: an event that cannot be recorded becomes a warning.
        """
        try:
            self.runtime.emit([self.event(event, payload, topic=topic, **fields)])
        except (HostError, TooLarge) as error:
            level = logging.WARNING if self._failure is None else logging.DEBUG  # that says itself what to do
            event_type = event.event_type if isinstance(event, Payload) else event
            _logger.log(level, "%s is not recorded: %s", event_type, error)

    async def write(
        self, function: Callable[..., tuple[_ResultT, Sequence[Event]]], *args: Any, **kwargs: Any
    ) -> _ResultT:
        """Write rows and the events that tell of them in one transaction; durable when this returns.

        Calls `function(session, ...)`, which writes the rows and returns a result and the events, perhaps in
        another process: it is a function of a module, and what it takes and returns can be pickled. The
        process has the event log (`has_log`). Raises StoreFailed, and what the function raises; then nothing
        is written.
        """

        async def write() -> _ResultT:
            result, events = await self.log.write(function, *args, **kwargs)
            self.runtime.show(events)
            return result

        return await asyncio.shield(write())  # the events of what is written are shown, come what may

    async def share(self, ref: ActorRef, state: Struct) -> None:
        """Give an actor of this process a state by its turn `share`; others read it without a call.

        A value too large for a record is not shared: the actor gets the default. Raises HostError.
        """
        try:
            await self.runtime.call(ref, "share", state)
        except TooLarge:
            await self.runtime.call(ref, "share", type(state)())

    async def failure(self) -> StoreFailed:
        """Wait until the store fails, and return why: accepted tasks go on at the next start."""
        await self._failed.wait()
        assert self._failure is not None
        return self._failure

    def _fail(self, error: StoreFailed) -> None:
        self.ready = False
        self._failure = error
        self._failed.set()
        self._end(error)

    def _end(self, error: HostError) -> None:
        for call in self.on_end:
            call(error)


def _provider_hint(kind: type) -> str:
    """The end of the sentence that something is missing: the components of its package."""
    package = kind.__module__.rpartition(".")[0]
    names = " or ".join(part.name for part in ours() if part.component and part.package == package)
    return f": the component {names} of its package has not joined, or does not provide it" if names else ""


EVERYWHERE = "*"
"""The place of actors that live in each process of the mesh."""
ORCHESTRATION = "orchestrator"
"""The app in which tasks are orchestrated, and what the whole mesh asks lives."""
FRONT = "event-logger"
"""The app that keeps the event log and serves clients."""


class Lifecycle(Protocol):
    """Something that lives as long as the mesh: started after the runtime, stopped before it."""

    async def start(self) -> None:
        """Begin."""
        ...

    async def stop(self) -> None:
        """End. Idempotent, and called also where the start failed."""
        ...


class Member(Lifecycle, Protocol):
    """A component, as the mesh knows it."""

    async def begin(self) -> None:
        """Run open work, and send waiting messages; the mesh has started."""
        ...

    async def drain(self, seconds: float) -> None:
        """Take nothing new, and let what runs end; after that time leave the rest for the next start."""
        ...


@dataclass(frozen=True, slots=True)
class ProcessRole:
    """Which apps of the mesh this process runs, None for all of them, and whether it is the front."""

    apps: frozenset[str] | None = None
    is_front: bool = True

    def runs(self, app: str) -> bool:
        """Whether what lives in an app lives in this process."""
        if app == FRONT:
            return self.is_front
        return app == EVERYWHERE or self.apps is None or app in self.apps
