"""The component of memories: people list, edit, forget and promote them, and take that back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from meshwright.context.memory import (
    BY_PERSON,
    STATUSES,
    MemoryCatalog,
    MemoryItem,
    MemoryPage,
    MemoryStatus,
    MemoryStore,
    check_text,
    subject_of,
)
from meshwright.core.access import Role
from meshwright.core.errors import Conflict, InvalidInput, NotFound
from meshwright.core.messages import Caller
from meshwright.events.audit import Audit, hashed
from meshwright.events.inbox_sources import WholeInbox
from meshwright.identity.rules import Rule
from meshwright.kernel.timers import every
from meshwright.mesh import Mesh
from meshwright.services.memories.inbox import Quarantine
from meshwright.services.memories.settings import MemoriesSettings
from meshwright.sql.meta import DELETED, delete_note, read_note
from meshwright.work.people import Approval

if TYPE_CHECKING:
    pass

SEE = Rule("sees memories", (Role.CONTENTS,))
CHANGE = Rule("changes memories", (Role.OPERATOR,))
PROMOTE = Rule("promotes memories", (Role.APPROVER,))
Listed = MemoryStatus | Literal["shown", "all"]
"""Memories of a status, those that are `shown` (active and quarantined), or all."""
_SHOWN: tuple[MemoryStatus, ...] = ("active", "quarantined")
_PAUSE_SECONDS = 3600.0


class Memories:
    """The memories of a mesh, for callers. Each operation is of the caller's tenant alone.

    It raises the errors of its rule for a caller who may not use it, NotFound for a memory that the tenant
    does not have, and Conflict where the store of an installed package keeps memories that it does not list.
    """

    config: MemoriesSettings

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.config = mesh, mesh.settings[MemoriesSettings]
        self._purging: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()

    def assemble(self) -> None:
        """List what is in quarantine in the inbox."""
        if self._catalog is not None:
            self.mesh.get(WholeInbox).add(Quarantine(self._catalog, self.decide))

    async def begin(self) -> None:
        """Begin to delete what was forgotten."""
        if self.mesh.role.is_front and self._purging is None and self._catalog is not None:
            self._purging = asyncio.create_task(every(self.mesh.runtime.clock, _PAUSE_SECONDS, self._purge))

    async def stop(self) -> None:
        """Delete no more."""
        purging, self._purging = self._purging, None
        if purging is not None:
            purging.cancel()
            with suppress(asyncio.CancelledError):
                await purging

    async def page(
        self,
        caller: Caller,
        listed: Listed = "shown",
        filters: Mapping[str, str] | None = None,
        *,
        after: int = 0,
        limit: int = 100,
    ) -> MemoryPage:
        """Memories whose fields have the wanted values, the newest first; `contains` is a part of a text."""
        SEE.check(caller)
        statuses: Sequence[MemoryStatus] = (
            STATUSES if listed == "all" else _SHOWN if listed == "shown" else (listed,)
        )
        await self.mesh.get(Audit).record_read(caller, "memories")
        return await self._listing().page(caller.tenant_id, statuses, filters, after=after, limit=limit)

    async def show(self, memory_id: str, caller: Caller) -> MemoryItem:
        """A memory with its source and the trust in it."""
        SEE.check(caller)
        await self.mesh.get(Audit).record_read(caller, "memories")
        return await self._find(memory_id, caller)

    async def edit(self, memory_id: str, caller: Caller, changes: Mapping[str, Any]) -> MemoryItem:
        """Change `text`, `kind`, `subject` or `expires_at`. A text that a person wrote has a person's trust.

        Raises InvalidInput and TooLarge for a value that it does not take, Conflict for a forgotten memory.
        """
        CHANGE.check(caller)
        if "text" in changes:
            check_text(changes["text"])
        subject_of(changes.get("subject"))
        item = await self._find(memory_id, caller)
        if item.status == "forgotten":
            raise Conflict(f"The memory {memory_id} is forgotten", remedy="Bring it back: mesh memory undo")
        changed = {name: value for name, value in changes.items() if value != getattr(item, name)}
        if not changed:
            return item
        details = {"fields": sorted(changed), "values": hashed(_plain(changed))}
        if "text" in changed:
            changed["trust"] = BY_PERSON
        return await self._change(item, caller, "edited", changed, details)

    async def promote(self, memory_id: str, caller: Caller) -> MemoryItem:
        """Have a quarantined or superseded memory recalled, with the trust of a person. Raises Conflict."""
        PROMOTE.check(caller)
        item = await self._find(memory_id, caller)
        if item.status not in ("quarantined", "superseded"):
            raise Conflict(
                f"The memory {memory_id} is {item.status}",
                remedy="Promote a quarantined or a superseded one: mesh memory list --status quarantined",
            )
        changes = {"status": "active", "trust": BY_PERSON, "superseded_by": None}
        changes |= {"approved_by": caller.requested_by}
        return await self._change(item, caller, "promoted", changes, {"was": item.status})

    async def decide(self, memory_id: str, caller: Caller, decision: Approval) -> MemoryItem:
        """Promote a quarantined memory, or forget it. Raises Conflict where it is in quarantine no longer."""
        PROMOTE.check(caller)
        item = await self._find(memory_id, caller)
        if item.status != "quarantined":
            raise Conflict(
                f"The memory {memory_id} is {item.status}", remedy="Another person has decided already"
            )
        if decision.approve:
            return await self.promote(memory_id, caller)
        details = {"was": item.status, "reason": hashed(decision.reason)}
        return await self._change(item, caller, "forgotten", {"status": "forgotten"}, details)

    async def forget(self, memory_id: str, caller: Caller) -> MemoryItem:
        """Have a memory recalled no more; `undo` brings it back until it is deleted. Raises Conflict."""
        CHANGE.check(caller)
        item = await self._find(memory_id, caller)
        if item.status == "forgotten":
            raise Conflict(f"The memory {memory_id} is forgotten already", remedy="Nothing is left to do")
        return await self._change(item, caller, "forgotten", {"status": "forgotten"}, {"was": item.status})

    async def undo(self, memory_id: str, caller: Caller) -> MemoryItem:
        """Take the last change of a memory back, an undone one too. Raises Conflict where it has none."""
        CHANGE.check(caller)
        await self._find(memory_id, caller)
        async with self.mesh.get(Audit).change(caller, "memory.undone", f"memories/{memory_id}"):
            undone = await self._listing().undo(memory_id, caller.tenant_id, caller.requested_by)
            if undone is None:
                raise Conflict(
                    f"No change of the memory {memory_id} is left to undo",
                    remedy=f"Forget it: mesh memory forget {memory_id}",
                )
        return undone

    async def delete(self, memory_id: str, caller: Caller) -> None:
        """Delete a memory for good, with its words in the index and in the free pages of the database."""
        CHANGE.check(caller)
        await self._find(memory_id, caller)
        async with self.mesh.get(Audit).change(caller, "memory.deleted", f"memories/{memory_id}"):
            await self.mesh.get(MemoryStore).forget(memory_id, caller.tenant_id)
            await self._clean()

    async def delete_subject(self, subject: str, caller: Caller) -> int:
        """Delete all memories of a subject for good, of every status; returns how many. Raises NotFound."""
        CHANGE.check(caller)
        name = subject_of(subject)
        if name is None:
            raise InvalidInput(
                "A subject needs a name", remedy="Name it as mesh memory list shows it", field="subject"
            )
        details = {"subject": hashed(name)}
        async with self.mesh.get(Audit).change(caller, "memory.deleted", "memories", details):
            count = await self._listing().forget_subject(name, caller.tenant_id)
            await self._clean()
            if not count:
                remedy = "mesh memory list shows the subjects"
                raise NotFound(f"There is no memory about {name!r}", remedy=remedy)
        return count

    async def _change(
        self,
        item: MemoryItem,
        caller: Caller,
        action: str,
        changes: Mapping[str, Any],
        details: Mapping[str, Any],
    ) -> MemoryItem:
        """Change a memory that is still of the status by which that was decided. Raises Conflict."""
        memory_id, by = item.memory_id, caller.requested_by
        async with self._changing:
            if (now := await self._find(memory_id, caller)).status != item.status:
                problem = f"The memory {memory_id} is {now.status} by now, not {item.status}"
                raise Conflict(problem, remedy="Look at it again")
            audited = self.mesh.get(Audit).change(
                caller, f"memory.{action}", f"memories/{memory_id}", details
            )
            async with audited:
                changed = await self._listing().change(memory_id, caller.tenant_id, changes, by)
                if changed is None:
                    raise _unknown(memory_id)
        return changed

    async def _find(self, memory_id: str, caller: Caller) -> MemoryItem:
        item = await self._listing().find(memory_id, caller.tenant_id)
        if item is None:
            raise _unknown(memory_id)
        return item

    async def _purge(self) -> None:
        if self._catalog is not None:
            before = self.mesh.runtime.clock.now() - timedelta(days=self.config.forgotten_days)
            await self._catalog.purge(before)
            await self._clean()

    async def _clean(self) -> None:
        """Take from the disk what was deleted for good, also before a process died with it in free pages."""
        database = self.mesh.database
        if (note := await database.read(read_note, DELETED)) is not None:
            await database.compact()
            await database.write(delete_note, DELETED, note)

    @property
    def _catalog(self) -> MemoryCatalog | None:
        store = self.mesh.get(MemoryStore)
        return store if isinstance(store, MemoryCatalog) else None

    def _listing(self) -> MemoryCatalog:
        if self._catalog is None:
            raise Conflict(
                "The memories are in the store of an installed package, which does not list them",
                remedy="Look for them there",
            )
        return self._catalog


def _unknown(memory_id: str) -> NotFound:
    return NotFound(
        f"There is no memory {memory_id!r}", remedy="mesh memory lists those there are", field="id"
    )


def _plain(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in changes.items()
    }
