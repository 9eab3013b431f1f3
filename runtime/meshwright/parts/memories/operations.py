"""Memories as people see them: listed, edited, forgotten, promoted also by the inbox, and that taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, Field

from meshwright import Approval
from meshwright.agents.context.memory import BY_PERSON, STATUSES, MemoryStatus, check_text, normalize_subject
from meshwright.component import (
    Audit,
    Caller,
    MemoryCatalog,
    MemoryItem,
    MemoryKind,
    MemoryStore,
    Mesh,
    hashed,
)
from meshwright.core.messages import MemoryScope
from meshwright.engine.events.audit import RECORDED
from meshwright.engine.sql.meta import DELETED, delete_note, read_note
from meshwright.kit import (
    Conflict,
    Duty,
    Identifier,
    Input,
    InvalidInput,
    Limit,
    NotFound,
    Question,
    Role,
    Rule,
    SourcePage,
    SourceQuery,
    WholeInbox,
    operation,
)
from meshwright.parts.memories.display import owner, trusted
from meshwright.parts.memories.settings import MemoriesSettings

_SEE = Rule("sees memories", (Role.CONTENTS,))
_CHANGE = Rule("changes memories", (Role.OPERATOR,))
_PROMOTE = Rule("promotes memories", (Role.APPROVER,))
_NONE = {404: "There is no such memory."}
_CHANGE_ERRORS = {403: "Only a caller with the role operator changes memories.", **_NONE}
_PROMOTE_ERRORS = {403: "Only a caller with the role approver promotes memories.", **_NONE}
_STATUS = {409: "The status of the memory does not allow it."}
_Subject = Annotated[str, Field(max_length=100)]
Listed = MemoryStatus | Literal["shown", "all"]
"""Memories of a status, those that are `shown` (active and quarantined), or all."""
_SHOWN: tuple[MemoryStatus, ...] = ("active", "quarantined")
_PAUSE_SECONDS = 3600.0


class MemoryChange(Input):
    """The fields of a memory that change. `subject` and `expires_at` may be null, for none.

    With `was`, the text that its author saw, the change of a memory that has another text by now is refused.
    """

    text: str = Field(default="", min_length=1)
    was: str | None = None
    kind: MemoryKind = "fact"
    subject: _Subject | None = None
    expires_at: AwareDatetime | None = None


class MemoryList(BaseModel):
    """Some memories, the newest first; `cursor` asks for those that follow, and is None at the end."""

    items: list[MemoryItem]
    cursor: int | None


class Deleted(BaseModel):
    """How many memories were deleted."""

    memories: int


class Memories:
    """The memories of a mesh, for callers. Each operation is of the caller's tenant alone.

    It raises NotFound for a memory that the tenant does not have, and Conflict where the store of an
    installed package keeps memories that it does not list. Changes are durable when they return.
    """

    config: MemoriesSettings

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.config = mesh, mesh.settings[MemoriesSettings]
        self._purging = Duty(mesh.runtime.clock, _PAUSE_SECONDS, self._purge)
        self._changing = asyncio.Lock()

    def assemble(self) -> None:
        """List what is in quarantine in the inbox."""
        if self._catalog is not None:
            self.mesh.get(WholeInbox).add(Quarantine(self._catalog, self.decide))

    async def begin(self) -> None:
        """Begin to delete what was forgotten."""
        if self.mesh.role.is_front and self._catalog is not None:
            await self._purging.start()

    async def stop(self) -> None:
        """Delete no more."""
        await self._purging.stop()

    @operation(_SEE, "GET /memories", "List memories")
    async def list_memories(
        self,
        caller: Caller,
        *,
        status: Listed = "shown",
        kind: MemoryKind | None = None,
        scope: MemoryScope | None = None,
        scope_id: Annotated[str, Field(max_length=64)] | None = None,
        subject: _Subject | None = None,
        agent_id: Identifier | None = None,
        task_id: Identifier | None = None,
        contains: Annotated[str, Field(max_length=200)] | None = None,
        limit: Limit = 100,
        cursor: Annotated[int, Field(ge=0, le=2**53)] = 0,
    ) -> MemoryList:
        """List what agents of your tenant remember, the newest first.

        By default those that are recalled and those in quarantine; `status=all` lists the superseded and the
        forgotten too. `contains` is a part of their text.
        """
        statuses: Sequence[MemoryStatus] = (
            STATUSES if status == "all" else _SHOWN if status == "shown" else (status,)
        )
        fields = {"kind": kind, "scope": scope, "scope_id": scope_id, "subject": subject}
        fields |= {"agent_id": agent_id, "task_id": task_id, "contains": contains}
        filters = {name: value for name, value in fields.items() if value is not None}
        await self.mesh.get(Audit).record_read(caller, "memories")
        page = await self._listing().page(caller.tenant_id, statuses, filters, after=cursor, limit=limit)
        return MemoryList(items=page.items, cursor=page.cursor)

    @operation(_SEE, "GET /memories/{memory_id}", "Show a memory", errors=_NONE)
    async def show_memory(self, memory_id: Identifier, caller: Caller) -> MemoryItem:
        """Show a memory with its source, the trust in it, and who changed it."""
        await self.mesh.get(Audit).record_read(caller, "memories")
        return await self._find(memory_id, caller)

    @operation(
        _CHANGE,
        "PATCH /memories/{memory_id}",
        "Edit a memory",
        response="Durable.",
        errors=_CHANGE_ERRORS | _STATUS,
    )
    async def edit_memory(self, memory_id: Identifier, caller: Caller, change: MemoryChange) -> MemoryItem:
        """Change some fields. A text that a person wrote supersedes what agents said of its subject."""
        changes = change.model_dump(exclude_unset=True, exclude={"was"})
        if "text" in changes:
            check_text(changes["text"])
        normalize_subject(changes.get("subject"))
        item = await self._find(memory_id, caller)
        if item.status == "forgotten":
            raise Conflict(f"The memory {memory_id} is forgotten", remedy="Bring it back: mesh memory undo")
        if change.was not in (None, item.text):
            raise _has_changed(memory_id)
        changed = {name: value for name, value in changes.items() if value != getattr(item, name)}
        if not changed:
            return item
        details = {"fields": sorted(changed), "values": hashed(_plain(changed))}
        if "text" in changed:
            changed["trust"] = BY_PERSON
        return await self._change(item, caller, "edited", changed, details)

    @operation(
        _PROMOTE,
        "POST /memories/{memory_id}/promote",
        "Promote a memory",
        response="It is recalled from now on; durable.",
        errors=_PROMOTE_ERRORS | _STATUS,
    )
    async def promote_memory(self, memory_id: Identifier, caller: Caller) -> MemoryItem:
        """Vouch for a quarantined or superseded memory: it has the trust of a person."""
        item = await self._find(memory_id, caller)
        if item.status not in ("quarantined", "superseded"):
            raise Conflict(
                f"The memory {memory_id} is {item.status}",
                remedy="Promote a quarantined or a superseded one: mesh memory list --status quarantined",
            )
        changes = {"status": "active", "trust": BY_PERSON, "superseded_by": None}
        changes |= {"approved_by": caller.requested_by}
        return await self._change(item, caller, "promoted", changes, {"was": item.status})

    @operation(_PROMOTE)
    async def decide(self, memory_id: str, caller: Caller, decision: Approval) -> MemoryItem:
        """Promote a quarantined memory, or forget it. Raises Conflict where it is in quarantine no longer."""
        item = await self._find(memory_id, caller)
        if item.status != "quarantined":
            raise Conflict(
                f"The memory {memory_id} is {item.status}", remedy="Another person has decided already"
            )
        if decision.approve:
            return await self.promote_memory(memory_id, caller)
        details = {"was": item.status, "reason": hashed(decision.reason)}
        return await self._change(item, caller, "forgotten", {"status": "forgotten"}, details)

    @operation(
        _CHANGE,
        "POST /memories/{memory_id}/forget",
        "Forget a memory",
        response="It is recalled no more; durable.",
        errors=_CHANGE_ERRORS | _STATUS,
    )
    async def forget_memory(self, memory_id: Identifier, caller: Caller) -> MemoryItem:
        """Have it recalled no more. It is deleted `memories.forgotten_days` later; undo brings it back."""
        item = await self._find(memory_id, caller)
        if item.status == "forgotten":
            raise Conflict(f"The memory {memory_id} is forgotten already", remedy="Nothing is left to do")
        return await self._change(item, caller, "forgotten", {"status": "forgotten"}, {"was": item.status})

    @operation(
        _CHANGE,
        "POST /memories/{memory_id}/undo",
        "Undo the last change",
        response="Durable.",
        errors=_CHANGE_ERRORS | _STATUS,
    )
    async def undo_change(self, memory_id: Identifier, caller: Caller) -> MemoryItem:
        """Take the last change back: an edit, a promotion, a forgetting, or that another superseded it."""
        await self._find(memory_id, caller)
        async with self.mesh.get(Audit).change(caller, "memory.undone", f"memories/{memory_id}"):
            undone = await self._listing().undo(memory_id, caller.tenant_id, caller.requested_by)
            if undone is None:
                raise Conflict(
                    f"No change of the memory {memory_id} is left to undo",
                    remedy=f"Forget it: mesh memory forget {memory_id}",
                )
        return undone

    @operation(_CHANGE, "DELETE /memories/{memory_id}", "Delete a memory", status=204, errors=_CHANGE_ERRORS)
    async def delete_memory(self, memory_id: Identifier, caller: Caller) -> None:
        """Delete it for good, also from the index."""
        await self._find(memory_id, caller)
        async with self.mesh.get(Audit).change(caller, "memory.deleted", f"memories/{memory_id}"):
            await self.mesh.get(MemoryStore).forget(memory_id, caller.tenant_id)
            await self._clean()

    @operation(_CHANGE, "DELETE /memories", "Delete all of a subject", errors=_CHANGE_ERRORS)
    async def delete_subject(
        self, caller: Caller, *, subject: Annotated[_Subject, Field(min_length=1)]
    ) -> Deleted:
        """Delete all memories of a subject for good, also from the index. Transcripts of tasks stay."""
        name = normalize_subject(subject)
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
        return Deleted(memories=count)

    async def _change(
        self,
        item: MemoryItem,
        caller: Caller,
        action: str,
        changes: Mapping[str, Any],
        details: Mapping[str, Any],
    ) -> MemoryItem:
        """Change a memory that has the status and text by which that was decided. Raises Conflict."""
        memory_id, by = item.memory_id, caller.requested_by
        async with self._changing:
            if (now := await self._find(memory_id, caller)).status != item.status:
                problem = f"The memory {memory_id} is {now.status} by now, not {item.status}"
                raise Conflict(problem, remedy="Look at it again")
            if now.text != item.text:
                raise _has_changed(memory_id)
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


def _has_changed(memory_id: str) -> Conflict:
    return Conflict(f"The memory {memory_id} has another text by now", remedy="Look at it again", field="was")


def _unknown(memory_id: str) -> NotFound:
    return NotFound(
        f"There is no memory {memory_id!r}", remedy="mesh memory lists those there are", field="id"
    )


def _plain(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in changes.items()
    }


# The inbox

Decide = Callable[[str, Caller, Approval], Awaitable[MemoryItem]]
"""Promotes or forgets a memory of the caller's tenant, by its id."""


class Quarantine:
    """Lists what agents recall only once a person has promoted it. A yes promotes it, a no forgets it."""

    name = "memory"
    event_types: Collection[str] = ("memory.stored", RECORDED)

    def __init__(self, catalog: MemoryCatalog, decide: Decide) -> None:
        self._catalog = catalog
        self._decide = decide

    async def page(self, query: SourceQuery) -> SourcePage:
        """The newest first, none that has ended. A filter of their tasks but by `agent_id` leaves all out."""
        fields = {} if query.of_task is None else query.of_task.model_dump(exclude_defaults=True)
        if fields.keys() - {"agent_id"}:
            return SourcePage([])
        if query.id is not None:
            fields["named"] = query.id
        page = await self._catalog.page(
            query.tenant_id, ["quarantined"], fields, after=query.after, limit=query.limit
        )
        return SourcePage([_question(item) for item in page.items], page.cursor)

    async def answer(self, item: Question, value: Any, caller: Caller) -> None:
        """Promote or forget a memory. Raises Conflict where it is in quarantine no longer."""
        await self._decide(item.subject["memory_id"], caller, Approval.model_validate(value))


def _question(item: MemoryItem) -> Question:
    fields = item.model_dump()
    return Question(
        id=item.memory_id,
        seq=0,
        wait_id=f"{Quarantine.name}/{item.memory_id}",
        task_id=item.task_id or "",
        tenant_id=item.tenant_id,
        source=Quarantine.name,
        agent_id=item.agent_id,
        question=f'May agents recall this? "{item.text}"',
        subject={
            "kind": Quarantine.name,
            "memory_id": item.memory_id,
            "says": item.kind,
            "about": item.subject,
            "recalled_by": owner(fields),
            "trust": trusted(fields),
            "step": item.step,
        },
        answer_schema=Approval.model_json_schema(),
        since=item.created_at or datetime.fromtimestamp(0, UTC),
        expires_at=item.expires_at,
    )
