"""Conversations of one caller: what was added, and requests and answers of the tasks in their threads."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from meshwright.component import Caller, Forbidden, Mesh, NotFound, Operations
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work.conversation import CONVERSATION, TaskMessages, ThreadMessage
from meshwright.kit import new_id
from meshwright.models.wire.errors import UnknownConversation
from meshwright.parts.conversations import table
from meshwright.parts.conversations.documents import (
    ConversationDocument,
    ItemPage,
    Metadata,
    NewItem,
    make_item,
)
from meshwright.parts.conversations.table import ConversationKey, ConversationRow, MessageRow

_MAX_TASKS = 500  # of a thread whose messages are listed, the newest
_REQUEST = "_request"
"""Ends the id of a task's request; its answer has the id of a response's message."""


class _ItemPlace(NamedTuple):
    time: float
    place: int
    item_id: str
    task_id: str = ""


class Conversations:
    """The operations of a caller on conversations. Those of others are as unknown as any."""

    def __init__(self, mesh: Mesh, caller: Caller) -> None:
        self._mesh, self._caller = mesh, caller

    async def create(self, metadata: Metadata, items: Sequence[NewItem]) -> ConversationDocument:
        """Make a conversation that begins with these messages. Raises TooLarge."""
        key = self._key(f"conv_{new_id()}")
        row = ConversationRow(self._caller.requested_by, self._now(), metadata)
        rows = self._make_rows(items)
        await self._mesh.database.write(table.create, key, row, rows)
        await self._tell_thread(key, rows)
        return _describe(key, row)

    async def get(self, conversation_id: str) -> ConversationDocument:
        """Show a conversation. Raises UnknownConversation."""
        return _describe(self._key(conversation_id), await self._find(conversation_id))

    async def update(self, conversation_id: str, metadata: Metadata) -> ConversationDocument:
        """Replace the metadata of a conversation. Raises UnknownConversation."""
        row = await self._find(conversation_id)
        await self._mesh.database.write(table.update, self._key(conversation_id), metadata)
        return _describe(self._key(conversation_id), row._replace(metadata=metadata))

    async def delete(self, conversation_id: str) -> None:
        """Delete a conversation with what was added; its tasks stay. Raises UnknownConversation."""
        await self._find(conversation_id)
        key = self._key(conversation_id)
        await _forget_added(self._mesh, key)
        await self._mesh.database.write(table.delete, key)

    async def add(self, conversation_id: str, items: Sequence[NewItem]) -> ItemPage:
        """Add messages: earlier ones of the thread to agents. Raises UnknownConversation, TooLarge."""
        await self._find(conversation_id)
        key, rows = self._key(conversation_id), self._make_rows(items)
        await self._mesh.database.write(table.add_items, key, rows)
        await self._tell_thread(key, rows)
        return _page([dict(row.item) for row in rows], has_more=False)

    async def delete_item(self, conversation_id: str, item_id: str) -> ConversationDocument:
        """Delete a message that was added. Raises UnknownConversation, Forbidden for one of a task."""
        row, key = await self._find(conversation_id), self._key(conversation_id)
        if all(item.id != item_id for item in await self._mesh.database.read(table.read_items, key)):
            await self.item(conversation_id, item_id)
            raise Forbidden(
                f"Message {item_id!r} is a task's, and stays as long as that",
                remedy="mesh erase deletes the contents of tasks",
                field="item_id",
            )
        await self._mesh.runtime.call(_thread(key), "forget", item_id)
        await self._mesh.database.write(table.delete_item, key, item_id)
        return _describe(key, row)

    async def item(self, conversation_id: str, item_id: str) -> dict[str, Any]:
        """Show a message. Raises UnknownConversation."""
        await self._find(conversation_id)
        for entry in await self._entries(conversation_id):
            if entry.item_id == item_id and (item := await self._read(conversation_id, [entry])):
                return item[0]
        raise UnknownConversation(f"Item with id {item_id[:100]!r} not found", field="item_id")

    async def items(self, conversation_id: str, *, after: str, limit: int, newest_first: bool) -> ItemPage:
        """List messages behind that of the id `after`. Raises UnknownConversation."""
        await self._find(conversation_id)
        entries = await self._entries(conversation_id)
        if newest_first:
            entries.reverse()
        if after:
            places = [place for place, entry in enumerate(entries) if entry.item_id == after]
            if not places:
                raise UnknownConversation(f"Item with id {after[:100]!r} not found", field="after")
            entries = entries[places[0] + 1 :]
        return _page(await self._read(conversation_id, entries[:limit]), has_more=len(entries) > limit)

    async def _find(self, conversation_id: str) -> ConversationRow:
        row = await self._mesh.database.read(table.find, self._key(conversation_id))
        if row is None or row.requested_by != self._caller.requested_by:
            problem = f"Conversation with id {conversation_id[:100]!r} not found"
            raise UnknownConversation(problem, field="conversation_id")
        return row

    async def _entries(self, conversation_id: str) -> list[_ItemPlace]:
        """The messages in order, without their contents."""
        key = self._key(conversation_id)
        rows = await self._mesh.database.read(table.read_items, key)
        entries = [_ItemPlace(row.created_at, place, row.id) for place, row in enumerate(rows)]
        page = await self._mesh.log.tasks(tenant_id=key.tenant_id, thread_id=key.id, limit=_MAX_TASKS)
        for task in page.items:
            if task.parent_task_id is None:
                item_id, begun = f"msg_{task.task_id}", task.created_at.timestamp()
                entries.append(_ItemPlace(begun, task.seq, item_id + _REQUEST, task.task_id))
                if task.completed_at is not None and task.status == "succeeded":
                    ended = task.completed_at.timestamp()
                    entries.append(_ItemPlace(ended, task.last_seq, item_id, task.task_id))
        return sorted(entries)

    async def _read(self, conversation_id: str, entries: Sequence[_ItemPlace]) -> list[dict[str, Any]]:
        rows = await self._mesh.database.read(table.read_items, self._key(conversation_id))
        added = {row.id: dict(row.item) for row in rows}
        items = [
            added.get(entry.item_id) if not entry.task_id else await self._read_task(entry)
            for entry in entries
        ]
        return [item for item in items if item is not None]

    async def _read_task(self, entry: _ItemPlace) -> dict[str, Any] | None:
        """The request or the answer of a task; None where the caller may not see it."""
        with suppress(NotFound, Forbidden):
            view = await Operations(self._mesh, self._caller).see(entry.task_id)
            if entry.item_id.endswith(_REQUEST):
                return make_item(entry.item_id, "user", str(view.payload.get("text") or ""))
            if view.outcome is not None:
                return make_item(entry.item_id, "assistant", view.outcome.answer)
        return None

    async def _tell_thread(self, key: ConversationKey, rows: Sequence[MessageRow]) -> None:
        for row in rows:
            role, text = row.item["role"], row.item["content"][0]["text"]
            if role in ("system", "developer"):
                text = f"[{role}] {text}"
            speaker = "assistant" if role == "assistant" else "user"
            message = ThreadMessage(role=speaker, content=text, task_id=row.id)
            addition = TaskMessages(task_id=row.id, messages=(message,))
            await self._mesh.runtime.call(_thread(key), "add", addition)

    def _make_rows(self, items: Sequence[NewItem]) -> list[MessageRow]:
        ids = [f"msg_{new_id()}" for _ in items]
        now = self._now()
        return [
            MessageRow(item_id, now, make_item(item_id, item.role, item.text))
            for item_id, item in zip(ids, items, strict=True)
        ]

    def _key(self, conversation_id: str) -> ConversationKey:
        return ConversationKey(self._caller.tenant_id, conversation_id)

    def _now(self) -> float:
        return self._mesh.runtime.clock.now().timestamp()


async def erase_added(mesh: Mesh, tenant_id: str, task_ids: Sequence[str]) -> None:
    """Erase what was added to the conversations that tasks are in."""
    for key in await mesh.database.read(table.find_by_tasks, tenant_id, task_ids):
        await _forget_added(mesh, key)
        await mesh.database.write(table.delete_items, key)


async def _forget_added(mesh: Mesh, key: ConversationKey) -> None:
    for row in await mesh.database.read(table.read_items, key):
        await mesh.runtime.call(_thread(key), "forget", row.id)


def _thread(key: ConversationKey) -> ActorRef:
    return ActorRef(CONVERSATION, f"{key.tenant_id}:{key.id}")


def _describe(key: ConversationKey, row: ConversationRow) -> ConversationDocument:
    return ConversationDocument(id=key.id, created_at=int(row.created_at), metadata=dict(row.metadata))


def _page(items: list[dict[str, Any]], *, has_more: bool) -> ItemPage:
    first, last = (items[0]["id"], items[-1]["id"]) if items else ("", "")
    return ItemPage(data=items, first_id=first, last_id=last, has_more=has_more)
