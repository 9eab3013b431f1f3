"""The component: prompts of tenants, changed at the mesh's fronts and used by the agents of each process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from meshwright.agent import AgentTypes
from meshwright.agents.loader import BoundAgents, variables_of
from meshwright.component import Actors
from meshwright.core import topics
from meshwright.core.access import Role
from meshwright.core.errors import HostError, InvalidInput, NotFound, PromptError
from meshwright.core.messages import Caller, Event
from meshwright.core.payloads import by_type
from meshwright.events.audit import Audit
from meshwright.events.status import WORKER_BEGUN, WORKER_HELD
from meshwright.identity.rules import Rule
from meshwright.mesh import Mesh
from meshwright.prompts import Prompt, PromptContext, parse_prompt
from meshwright.prompts.sources import NO_RUN
from meshwright.roles import FRONT
from meshwright.services.llmops import table
from meshwright.services.llmops.event_types import (
    EVENTS,
    PromptDeleted,
    PromptLabelled,
    PromptRegistered,
    PromptUnlabelled,
)
from meshwright.services.llmops.records import (
    MAX_VERSION,
    PromptChange,
    PromptPage,
    PromptRequest,
    PromptSummary,
    PromptVersion,
    PromptVersionPage,
    row_of,
)
from meshwright.services.llmops.settings import LlmopsSettings
from meshwright.services.llmops.sharing import SharedPrompts
from meshwright.services.llmops.table import PRODUCTION, Live, LivePrompts, MatchedVersion
from meshwright.work import Worker

if TYPE_CHECKING:
    pass

SEE = Rule("lists registered prompts", (Role.VIEWER,))
READ = Rule("reads registered prompts", (Role.CONTENTS, Role.OPERATOR))
CHANGE = Rule("changes registered prompts", (Role.OPERATOR,))
PROTECT = Rule(f"moves the label {PRODUCTION}", (Role.ADMIN,))
_FETCH_SECONDS = 10.0
_RETRY_SECONDS = 1.0
_MAX_TRIED = 100  # versions whose texts a process keeps, beside the live ones
_TOLD_SECONDS = 10.0  # after which a worker that cannot begin says so
_UNREAD = "registered prompts"  # the reason of a worker's hold
_AGAIN_SECONDS = 5.0  # after an event, which the front may hear later than its workers do
_SHARED = "prompt.shared"
"""Tells workers without a database that a front has shared the live versions with them. No log has it."""
_Change = PromptDeleted | PromptLabelled | PromptUnlabelled
_logger = logging.getLogger("meshwright.prompts")


class PromptRegistry:
    """Registered prompts: a source of prompts for agents, and the operations of callers.

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

        def text_of(version: Live) -> str:
            return self.live_texts().get(version) or self.text_of_version(version)

        return [Actors(kind, FRONT) for kind in self._sharing.kinds(live_now, text_of)]

    def prompt_source(self) -> PromptRegistry:
        """The live versions. They are asked for before the prompts folder."""
        return self

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
            return self._prompt(version, self.text_of_version(version))
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

    def text_of_version(self, version: Live) -> str:
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
            self.text_of_version(version)
        if (fetching := self._fetching.get(version)) is not None:
            await asyncio.wait([fetching])

    async def _fetch_tried(self, version: Live) -> None:
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                text = await self._text_of(version)
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
                    self._fetched[item] = await self._text_of(item)
        return {item: self._fetched[item] for item in live}

    async def _live_now(self) -> LivePrompts:
        if self._has_table:
            return await self.mesh.database.read(table.live)
        return await self._sharing.live()

    async def _text_of(self, item: Live) -> str:
        if self._has_table:
            return await self.mesh.database.read(table.text_of, item)
        return await self._sharing.text_of(item)

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

    async def page(self, caller: Caller, *, after: str = "", limit: int = 100) -> PromptPage:
        """The prompts of the caller's tenant by name, after one: their newest versions without the texts."""
        SEE.check(caller)
        rows = await self.mesh.database.read(table.page, caller.tenant_id, after, limit + 1)
        items = [PromptSummary.of(match) for match in rows[:limit]]
        return PromptPage(items=items, cursor=items[-1].name if len(rows) > limit else None)

    async def history(
        self, caller: Caller, name: str, *, before: int = MAX_VERSION, limit: int = 100
    ) -> PromptVersionPage:
        """The versions of a prompt below a number, the newest first, without the texts. Raises NotFound."""
        SEE.check(caller)
        rows = await self.mesh.database.read(table.history, caller.tenant_id, name, before, limit + 1)
        items = [PromptSummary.of(match) for match in rows[:limit]]
        return PromptVersionPage(items=items, cursor=items[-1].version if len(rows) > limit else None)

    async def show(
        self, caller: Caller, name: str, *, version: int | None = None, label: str | None = None
    ) -> PromptVersion:
        """A version by its number or a label, else the newest. Raises NotFound."""
        READ.check(caller)
        return PromptVersion.of(await self._find(caller, name, version, label))

    async def register(self, caller: Caller, request: PromptRequest) -> PromptVersion:
        """Register a prompt: version 1, or the next one of a name that was deleted. Durable at the return.

        Raises InvalidPrompt, StorageExceeded, and Conflict for a name that there is.
        """
        CHANGE.check(caller)
        return await self._add(caller, request.name, request, is_new=True)

    async def change(
        self, caller: Caller, name: str, change: PromptChange, *, expected: Sequence[str] = ()
    ) -> PromptVersion:
        """Make a version, unless the newest has the same text. Raises NotFound, InvalidPrompt, and
        PreconditionFailed where the digest of the newest is none of those that are `expected`."""
        CHANGE.check(caller)
        if change.name not in ("", name):
            problem = f"The path names the prompt {name!r}, the body {change.name!r}"
            raise InvalidInput(problem, remedy="Leave name out: it never changes", field="name")
        await self._find(caller, name)
        return await self._add(caller, name, change, is_new=False, expected=expected)

    async def remove(self, caller: Caller, name: str) -> None:
        """Delete a prompt with its labels; its versions stay readable by number. Raises NotFound.

        One with the label `production` takes the role that moves that.
        """
        CHANGE.check(caller)
        is_live = PRODUCTION in (await self._find(caller, name)).labels
        if is_live:
            PROTECT.check(caller)
        await self._change(caller, PromptDeleted(name=name), table.delete, name, also_live=is_live)

    async def label(self, caller: Caller, name: str, label: str, version: int) -> PromptSummary:
        """Point a label at a version: agents use `production` from their next attempt on. Raises NotFound."""
        _check_label(caller, label)
        await self._find(caller, name, version)
        moved = PromptLabelled(name=name, label=label, version=version)
        await self._change(caller, moved, table.set_label, name, label, version)
        return PromptSummary.of(await self._find(caller, name))

    async def unlabel(self, caller: Caller, name: str, label: str) -> None:
        """Delete a label; without `production` agents use their files again. Raises NotFound."""
        _check_label(caller, label)
        await self._find(caller, name, label=label)
        removed = PromptUnlabelled(name=name, label=label)
        await self._change(caller, removed, table.delete_label, name, label)

    async def _add(
        self, caller: Caller, name: str, change: PromptChange, *, is_new: bool, expected: Sequence[str] = ()
    ) -> PromptVersion:
        own, now = variables_of(self.mesh.get(AgentTypes)).get(name, ()), self.mesh.runtime.clock.now()
        row = row_of(caller.tenant_id, name, change, caller.requested_by, now, own)
        payload = PromptRegistered(name=name, digest=row.digest, author=row.author, message=row.message)
        event = self.mesh.event(payload, tenant_id=caller.tenant_id)
        limits = (self.config.max_prompts, self.config.max_versions)
        action, details = payload.event_type, {"digest": row.digest}
        async with self.mesh.get(Audit).change(caller, action, _subject(name), details):
            number = await self.mesh.write(table.add, event, row, limits, is_new=is_new, expected=expected)
        return PromptVersion.of(await self._find(caller, name, number))

    async def _change(
        self, caller: Caller, payload: _Change, write: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        """Make a change with the event that tells of it, and go by it in this process when this returns."""
        event = self.mesh.event(payload, tenant_id=caller.tenant_id)
        details = {key: value for key, value in payload.model_dump().items() if key != "name"}
        async with self.mesh.get(Audit).change(caller, payload.event_type, _subject(payload.name), details):
            await self.mesh.write(write, event, caller.tenant_id, *args, **kwargs)
        self._version += 1
        await self._refresh()

    async def _find(
        self, caller: Caller, name: str, version: int | None = None, label: str | None = None
    ) -> MatchedVersion:
        return await self.mesh.database.read(table.find, caller.tenant_id, name, version, label)


def _check_label(caller: Caller, label: str) -> None:
    (PROTECT if label == PRODUCTION else CHANGE).check(caller)


def _subject(name: str) -> str:
    return f"prompts/{name}"
