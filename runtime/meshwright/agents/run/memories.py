"""The memories of a run: recalled for its prompt and its model, written with the trust of their source."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple

from meshwright.agents.context.event_types import MemoryStored
from meshwright.agents.context.memory import (
    BY_CODE,
    BY_MODEL,
    BY_STRANGERS,
    CITED,
    FLOOR,
    MemoryCatalog,
    MemoryItem,
)
from meshwright.agents.context.text import is_repeat
from meshwright.agents.run.state import RunState
from meshwright.core.errors import MemoryUnavailable
from meshwright.core.ids import derived_id
from meshwright.core.messages import MemoryKind, MemoryScope
from meshwright.engine.work.records import ProgressEvent

_RECALLED = 5  # memories at a time
_ALIKE = 5  # memories that are compared with a new one
_ALIKE_TOKENS = 20_000
_FORGOTTEN = 100  # the newest, that a new memory is compared with
_ID_CHARS = 12


class NewMemory(NamedTuple):
    """A memory that a run is to write."""

    text: str
    scope: MemoryScope
    kind: MemoryKind = "fact"
    subject: str | None = None
    expires: timedelta | datetime | None = None


async def recalled(state: RunState, query: str, kind: MemoryKind | None = None) -> list[MemoryItem]:
    """The few memories that suit a question, none where none does; counted as used."""
    task, services = state.task, state.services
    items = await services.memory.recall(
        query,
        tenant_id=task.tenant_id,
        scopes=[*state.scopes.items()],
        max_tokens=services.max_memory_tokens,
        limit=_RECALLED,
        kind=kind,
        floor=FLOOR,
    )
    items = [item for item in items if item.status == "active"]  # whatever a store of a package gives
    if items and isinstance(services.memory, MemoryCatalog):
        await services.memory.count([item.memory_id for item in items], task.tenant_id, "used")
    return items


async def remembered(state: RunState, new: NewMemory, *, has_asked: bool) -> str:
    """Write a memory, and return what to tell the model. `has_asked`: the run has asked a model or an agent.

    Its trust is the least of all that it was made of: that of a run which has read text from outside is
    quarantined, and so is a text that a person has forgotten. One that the run could recall already is not
    written again.
    """
    services, task, inside = state.services, state.task, state.journal.inside
    path, now = "" if inside is None else inside.key.path, services.clock.now()
    identity = "" if inside is None else inside.identity
    memory_key = derived_id(state.work.first_steps, identity, new.scope, new.text)
    memory_id = f"m-{memory_key[-_ID_CHARS:].lower()}"
    if repeated := await _repeated(state, new.text, memory_id):
        return repeated
    was_forgotten = await _was_forgotten(state, new.text)
    trust = BY_STRANGERS if state.journal.outside else BY_MODEL if has_asked else BY_CODE
    expires = new.expires
    item = MemoryItem(
        memory_id=memory_id,
        tenant_id=task.tenant_id,
        scope=new.scope,
        scope_id=state.scopes[new.scope],
        text=new.text,
        created_at=now,
        task_id=task.task_id,
        agent_id=state.agent.agent_id,
        kind=new.kind,
        subject=new.subject,
        status="active" if trust and not was_forgotten else "quarantined",
        trust=trust,
        step=path or None,
        expires_at=now + expires if isinstance(expires, timedelta) else expires,
    )
    is_written = await services.memory.remember(item)
    if not is_written and (repeated := await _repeated(state, new.text, memory_id)):
        return repeated  # by a run beside this one
    if new.subject and isinstance(services.memory, MemoryCatalog):  # it may contradict one of more trust
        item = await services.memory.find(memory_id, task.tenant_id) or item
    if inside is not None:
        facts = {name: getattr(item, name) for name in ("memory_id", "scope", "kind", "status", "trust")}
        inside.events.append(ProgressEvent.from_payload(MemoryStored(**facts, text_chars=len(new.text))))
    if item.status == "active":
        return f"Remembered for {new.scope}."
    why = "another of its subject has more trust" if trust else "this run has read text from outside"
    why = "a person has had the same forgotten" if was_forgotten else why
    return f"Kept for {new.scope}, but not recalled until a person promotes it: {why}."


async def _repeated(state: RunState, text: str, memory_id: str) -> str | None:
    """The reply to the model if another memory that the run could recall says the same."""
    others = await state.services.memory.recall(
        text,
        tenant_id=state.task.tenant_id,
        scopes=[*state.scopes.items()],
        max_tokens=_ALIKE_TOKENS,
        limit=_ALIKE,
    )
    for other in others:
        if other.memory_id != memory_id and is_repeat(text, other.text):
            return f"Not stored: [{other.memory_id}] says so already."
    return None


async def _was_forgotten(state: RunState, text: str) -> bool:
    """Whether a person has lately had a memory forgotten that the run could recall and that says so."""
    memory = state.services.memory
    if not isinstance(memory, MemoryCatalog):
        return False
    forgotten = await memory.page(state.task.tenant_id, ["forgotten"], limit=_FORGOTTEN)
    return any(
        is_repeat(text, item.text)
        for item in forgotten.items
        if item.scope == "global" or state.scopes[item.scope] == item.scope_id
    )


async def count_cited(state: RunState, answer: str) -> None:
    """Count the memories that the answer of a task which succeeded cites by their ids."""
    memory, cited = state.services.memory, list(dict.fromkeys(CITED.findall(answer)))
    if cited and isinstance(memory, MemoryCatalog):
        with suppress(MemoryUnavailable):  # the outcome matters more
            await memory.count(cited, state.task.tenant_id, "helped")
