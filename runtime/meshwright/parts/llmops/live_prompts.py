"""The live versions of registered prompts, which the agents of each process use.

A front shares them with workers that have no database, as the states of actors.

    prompt-registry/mesh                     the live versions
    prompt-version/{tenant}:{name}:{number}  the text of a version

A worker reads both from the store of actors, and has to call the front only for what is not shared: what a
front of an earlier release has, and what is larger than a record may be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from datetime import timedelta

from meshwright import Event
from meshwright.agents.prompts.sources import NO_RUN
from meshwright.component import (
    Actor,
    ActorRef,
    Actors,
    Mesh,
    Prompt,
    PromptContext,
    Turn,
    parse_prompt,
    turn,
)
from meshwright.engine.events.status import WORKER_BEGUN, WORKER_HELD
from meshwright.kit import (
    FRONT,
    ActorKind,
    BoundAgents,
    HostError,
    NotFound,
    PromptError,
    Struct,
    Worker,
    by_type,
    topics,
)
from meshwright.parts.llmops import table
from meshwright.parts.llmops.event_types import EVENTS
from meshwright.parts.llmops.settings import LlmopsSettings
from meshwright.parts.llmops.table import Live, LivePrompts

_FETCH_SECONDS = 10.0
_RETRY_SECONDS = 1.0
_MAX_TRIED = 100  # versions whose texts a process keeps, beside the live ones
_TOLD_SECONDS = 10.0  # after which a worker that cannot begin says so
_UNREAD = "registered prompts"  # the reason of a worker's hold
_AGAIN_SECONDS = 5.0  # after an event, which the front may hear later than its workers do
_SHARED = "prompt.shared"
"""Tells workers without a database that a front has shared the live versions with them. No log has it."""
_logger = logging.getLogger("meshwright.prompts")
_REGISTRY = ActorRef("prompt-registry", "mesh")
_VERSION = "prompt-version"


class _SharedLive(Struct):
    live: LivePrompts | None = None


class _SharedText(Struct):
    text: str = ""


class _SharedRegistry(Actor[_SharedLive]):
    """The live versions that workers read, and turns for those that have to call."""

    def __init__(
        self, ref: ActorRef, live_now: Callable[[], LivePrompts], read_text: Callable[[Live], str]
    ) -> None:
        super().__init__(ref)
        self._live_now = live_now
        self._read_text = read_text

    @turn
    def share(self, turn: Turn, state: _SharedLive) -> None:
        """Let workers read which versions are live."""
        self.state = state

    @turn
    def live(self, turn: Turn) -> LivePrompts:
        """Which version of which prompt is live. Raises HostError while the front reads a change."""
        return self._live_now()

    @turn
    def text(self, turn: Turn, version: Live) -> str:
        """The text of one of them, or of a version that is tried."""
        return self._read_text(version)


class _SharedVersion(Actor[_SharedText]):
    """The text of a version."""

    @turn
    def share(self, turn: Turn, state: _SharedText) -> None:
        """Let workers read it, in place of what a database that was lost had under this number."""
        self.state = state


class SharedPrompts:
    """The live versions and the texts of versions: a front shares them, a worker without a database reads."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    @staticmethod
    def kinds(live_now: Callable[[], LivePrompts], read_text: Callable[[Live], str]) -> list[ActorKind]:
        """The actors of the front."""
        registry = ActorKind.from_class(
            _SharedRegistry, type=_REGISTRY.type, live_now=live_now, read_text=read_text
        )
        return [registry, ActorKind.from_class(_SharedVersion, type=_VERSION)]

    async def share(self, texts: Mapping[Live, str], earlier: Set[Live]) -> None:
        """Share the live versions, of which the texts of the `earlier` ones are shared. Raises HostError."""
        await asyncio.gather(
            *(self.share_text(item, text) for item, text in texts.items() if item not in earlier)
        )
        await self._mesh.share(_REGISTRY, _SharedLive(live=LivePrompts(items=tuple(texts))))

    async def share_text(self, item: Live, text: str) -> None:
        """Share the text of a version. Raises HostError."""
        await self._mesh.share(_ref(item), _SharedText(text=text))

    async def live(self) -> LivePrompts:
        """The live versions. Raises HostError."""
        state = await self._mesh.runtime.read(_REGISTRY, _SharedLive)
        if state is not None and state.live is not None:
            return state.live
        return LivePrompts.model_validate(await self._mesh.runtime.call(_REGISTRY, "live"))

    async def version_text(self, item: Live) -> str:
        """The text of a version. Raises HostError, and NotFound."""
        state = await self._mesh.runtime.read(_ref(item), _SharedText)
        if state is not None and state.text:
            return state.text
        return str(await self._mesh.runtime.call(_REGISTRY, "text", item))


def _ref(item: Live) -> ActorRef:
    return ActorRef(_VERSION, f"{item.tenant_id}:{item.name}:{item.version}")


class LivePromptSource:
    """Registered prompts as a source of prompts for agents.

    A run takes the version that is tried with its task, else that of its tenant which has the label
    `production`, else the sources behind this one are asked. Live versions are read at the start, after each
    event that says that something changed, and again after `ttl_seconds`; the last read stays in use while it
    cannot be repeated. A front on Dapr shares what it has read with the workers that have no database.

    The worker of this process is held until they are read once, so no run falls back to the file only because
    the registry is not known yet. One that is held for 10 s says why: `worker.held`, and `mesh status`.
    """

    config: LlmopsSettings

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.config = mesh, mesh.settings[LlmopsSettings]
        self._has_table = mesh.has_log
        self._sharing = SharedPrompts(mesh)
        self._shared_items: Set[Live] | None = None
        self._texts: dict[Live, str] | None = None
        self._fetched: dict[Live, str] = {}
        self._live: dict[tuple[str, str], Live] = {}
        self._parsed: dict[Live, Prompt] = {}
        self._tried: dict[Live, str] = {}
        self._fetching: dict[Live, asyncio.Task[None]] = {}
        self._version = 1
        self._read_version = 0
        self._due_at = mesh.runtime.clock.now()
        self._is_running = False
        self._started_at = self._due_at
        self._has_told = False
        self._has_failed = False
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._unlisten: Callable[[], None] = lambda: None

    def actors(self) -> Iterable[Actors]:
        """Those by which other processes read the tables, at the front."""

        def live_now() -> LivePrompts:
            return LivePrompts(items=tuple(self.live_texts(is_newest=True)))

        def version_text(version: Live) -> str:
            return self.live_texts().get(version) or self.stored_text(version)

        return [Actors(kind, FRONT) for kind in self._sharing.kinds(live_now, version_text)]

    async def start(self) -> None:
        """Read them, and again after each change."""
        self._is_running, self._started_at = True, self.mesh.runtime.clock.now()
        self.mesh.get(Worker).hold(_UNREAD)
        changes = by_type(EVENTS)
        kinds = (*changes,) if self._has_table else (*changes, _SHARED)
        self._unlisten = self.mesh.runtime.listen(topics.MESH, self._expire, kinds)
        if self._has_table:
            await self._refresh()
        self._refresh_soon()  # the front may start later than its workers

    async def stop(self) -> None:
        """Stop reading."""
        self._is_running = False
        self._unlisten()
        tasks = [*self._fetching.values(), *([] if self._task is None else [self._task])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def resolve(self, name: str, context: PromptContext = NO_RUN) -> Prompt | None:
        """The version that is tried, else the live one of the run's tenant; None where it has none.

        Raises HostError until it is read, but for no run, and PromptError for a version that was registered
        with another release of Meshwright and is no prompt for this one.
        """
        if context.version is not None:
            version = Live(tenant_id=context.tenant_id, name=name, version=context.version)
            return self._prompt(version, self.stored_text(version))
        if self._texts is None and context == NO_RUN:
            return None
        texts, live = self.live_texts(), self._live.get((context.tenant_id, name))
        return None if live is None else self._prompt(live, texts[live])

    def _prompt(self, version: Live, text: str) -> Prompt:
        if version not in self._parsed:
            # An agent's code may have lost a variable since: the run that misses its value says so.
            place = f"registry:v{version.version}"
            self._parsed[version] = parse_prompt(version.name, text.encode(), place, source="registry")
        return self._parsed[version]

    def stored_text(self, version: Live) -> str:
        """The text of any version. Raises HostError until it is read, which begins then.

        Raises PromptError for one that there is not.
        """
        if text := self._tried.get(version):
            return text
        if text is not None:
            problem = f"Prompt {version.name!r} has no version {version.version}"
            raise PromptError(problem, remedy="Submit the task again", field="version")
        if self._is_running and version not in self._fetching:
            fetching = asyncio.get_running_loop().create_task(self._fetch_tried(version))
            self._fetching[version] = fetching
        raise HostError(
            f"Version {version.version} of prompt {version.name!r} is not read yet",
            remedy="Ask again in a moment",
        )

    async def prepare(self, version: Live) -> None:
        """Read a version that is going to be tried, as far as that can be: else a run reads it."""
        with suppress(HostError, PromptError):
            self.stored_text(version)
        if (fetching := self._fetching.get(version)) is not None:
            await asyncio.wait([fetching])

    async def _fetch_tried(self, version: Live) -> None:
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                text = await self._fetch_text(version)
                if self.mesh.shares_tables:
                    await self._sharing.share_text(version, text)
                self._tried[version] = text
        except NotFound:
            self._tried[version] = ""
        except (HostError, TimeoutError) as error:  # it is asked for again
            _logger.debug("prompt %s v%d is not read yet: %s", version.name, version.version, error)
        finally:
            del self._fetching[version]
        if len(self._tried) > _MAX_TRIED:
            oldest = next(iter(self._tried))
            del self._tried[oldest]
            self._parsed.pop(oldest, None)

    def names(self) -> list[str]:
        """None: they differ by tenant, and no tenant is to see those of another."""
        return []

    def reload(self) -> list[str]:
        """Begin to read again what is no longer fresh."""
        self._refresh_soon()
        return []

    def live_texts(self, *, is_newest: bool = False) -> dict[Live, str]:
        """The live versions of all tenants with their texts. Raises HostError before the first read.

        If they are to be the newest it raises that too while a change is not read yet.
        """
        if self._texts is None or (is_newest and self._read_version != self._version):
            raise HostError("The registered prompts are not read yet", remedy="Ask again in a moment")
        return self._texts

    @property
    def _is_fresh(self) -> bool:
        return self._read_version == self._version and self.mesh.runtime.clock.now() < self._due_at

    async def _refresh(self) -> bool:
        """Read them once more if they may have changed; returns whether they are known now."""
        async with self._reading:
            return self._is_fresh or await self._read()

    async def _read(self) -> bool:
        version, now = self._version, self.mesh.runtime.clock.now()
        seconds = self.config.ttl_seconds
        if not self._has_table and version != self._read_version:
            seconds = min(_AGAIN_SECONDS, seconds)
        try:
            texts = await self._fetch()
        except (HostError, NotFound, TimeoutError) as error:
            level = logging.DEBUG if self._has_failed else logging.WARNING  # it is tried every second
            _logger.log(level, "registered prompts stay as they were: %s", error or "no answer in time")
            self._has_failed = True
            if self._texts is None:
                self._tell_held(str(error) or "the front sent no answer in time")
            return False
        self._has_failed = False
        self._texts, self._fetched = texts, dict(texts)
        self._live = {(live.tenant_id, live.name): live for live in texts}
        in_use = {*texts, *self._tried}
        self._parsed = {live: prompt for live, prompt in self._parsed.items() if live in in_use}
        self._read_version, self._due_at = version, now + timedelta(seconds=seconds)
        self.mesh.get(Worker).begin(_UNREAD)
        if self._has_told:
            self._has_told = False
            self.mesh.tell(WORKER_BEGUN, {})
        return not self.mesh.shares_tables or await self._share(texts)

    async def _share(self, texts: Mapping[Live, str]) -> bool:
        """Share what is live, and say so, if it has changed; where that fails it is soon read again."""
        if texts.keys() == self._shared_items:
            return True
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                await self._sharing.share(texts, self._shared_items or frozenset())
        except (HostError, TimeoutError) as error:
            _logger.warning("registered prompts are not shared yet: %s", error or "no answer in time")
            self._due_at = self.mesh.runtime.clock.now()
            return False
        self._shared_items = texts.keys()
        self.mesh.runtime.broadcast(self.mesh.event(_SHARED, {}))
        return True

    def _tell_held(self, reason: str) -> None:
        """Say why the worker is held: in the log once, then to fronts, which may have started since."""
        mesh, since = self.mesh, self._started_at
        if mesh.runtime.clock.now() - since < timedelta(seconds=_TOLD_SECONDS):
            return
        problem = f"The registered prompts cannot be read: {reason}"
        payload = {"agents": sorted(mesh.get(BoundAgents)), "since": since, "reason": problem}
        if self._has_told:
            mesh.runtime.broadcast(mesh.event(WORKER_HELD, payload))
        else:
            self._has_told = True
            _logger.warning("no task begins in this process: %s", problem)
            mesh.tell(WORKER_HELD, payload)

    async def _fetch(self) -> dict[Live, str]:
        """The live versions; only the texts of new ones are read, since a version never changes.

        A read that fails leaves the texts that it got to the next one.
        """
        async with asyncio.timeout(_FETCH_SECONDS):
            live = (await self._live_now()).items
        for item in live:
            if item not in self._fetched:
                async with asyncio.timeout(_FETCH_SECONDS):
                    self._fetched[item] = await self._fetch_text(item)
        return {item: self._fetched[item] for item in live}

    async def _live_now(self) -> LivePrompts:
        if self._has_table:
            return await self.mesh.database.read(table.live)
        return await self._sharing.live()

    async def _fetch_text(self, item: Live) -> str:
        if self._has_table:
            return await self.mesh.database.read(table.version_text, item)
        return await self._sharing.version_text(item)

    def _expire(self, event: Event | None = None) -> None:
        self._version += 1
        self._refresh_soon()

    def _refresh_soon(self) -> None:
        is_reading = self._task is not None and not self._task.done()
        if self._is_running and not self._is_fresh and not is_reading:
            self._task = asyncio.get_running_loop().create_task(self._refresh_behind())

    async def _refresh_behind(self) -> None:
        while not self._is_fresh:
            if not await self._refresh():
                await asyncio.sleep(_RETRY_SECONDS)
