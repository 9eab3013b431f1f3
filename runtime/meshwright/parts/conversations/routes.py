"""/v1/conversations, as OpenAI's SDKs call it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query

from meshwright.component import Mesh, make_router
from meshwright.edges.http.routing import SubmitterDep
from meshwright.parts.conversations.conversations import Conversations
from meshwright.parts.conversations.documents import (
    ConversationDocument,
    DeletedConversation,
    ItemPage,
    MetadataChange,
    NewConversation,
    NewItems,
)

_Id = Annotated[str, Path(max_length=128, description="The id of the conversation.")]
_ItemId = Annotated[str, Path(max_length=128, description="The id of the message.")]
_PATH = "/v1/conversations/{conversation_id}"


def make_routes(mesh: Mesh) -> APIRouter:
    """Makes the router. Each route answers with 404 for a conversation of another."""
    router = make_router("models", errors="openai")

    @router.post("/v1/conversations", summary="Make a conversation")
    async def _create(caller: SubmitterDep, body: NewConversation) -> ConversationDocument:
        """Make a conversation: a thread, which `conversation` of `/v1/responses` goes on with."""
        return await Conversations(mesh, caller).create(body.metadata or {}, body.items or [])

    @router.get(_PATH, summary="Show a conversation")
    async def _show(caller: SubmitterDep, conversation_id: _Id) -> ConversationDocument:
        """Show a conversation that you have made."""
        return await Conversations(mesh, caller).get(conversation_id)

    @router.post(_PATH, summary="Change a conversation")
    async def _update(
        caller: SubmitterDep, conversation_id: _Id, body: MetadataChange
    ) -> ConversationDocument:
        """Replace the metadata of a conversation."""
        return await Conversations(mesh, caller).update(conversation_id, body.metadata or {})

    @router.delete(_PATH, summary="Delete a conversation")
    async def _delete(caller: SubmitterDep, conversation_id: _Id) -> DeletedConversation:
        """Delete a conversation with the messages that were added. Its tasks stay."""
        await Conversations(mesh, caller).delete(conversation_id)
        return DeletedConversation(id=conversation_id)

    @router.get(f"{_PATH}/items", summary="List the messages of a conversation")
    async def _list(
        caller: SubmitterDep,
        conversation_id: _Id,
        after: Annotated[str, Query(max_length=128, description="The message before the page.")] = "",
        limit: Annotated[int, Query(ge=1, le=100, description="How many a page has.")] = 20,
        order: Annotated[Literal["asc", "desc"], Query(description="`desc`: the newest first.")] = "desc",
    ) -> ItemPage:
        """List what was added, and requests and answers of the newest 500 tasks of the thread."""
        newest_first = order == "desc"
        return await Conversations(mesh, caller).items(
            conversation_id, after=after, limit=limit, newest_first=newest_first
        )

    @router.post(f"{_PATH}/items", summary="Add messages to a conversation")
    async def _add(caller: SubmitterDep, conversation_id: _Id, body: NewItems) -> ItemPage:
        """Add messages, which agents get as earlier ones of the thread."""
        return await Conversations(mesh, caller).add(conversation_id, body.items)

    @router.get(f"{_PATH}/items/{{item_id}}", summary="Show a message of a conversation")
    async def _item(caller: SubmitterDep, conversation_id: _Id, item_id: _ItemId) -> dict[str, Any]:
        """Show a message."""
        return await Conversations(mesh, caller).item(conversation_id, item_id)

    @router.delete(f"{_PATH}/items/{{item_id}}", summary="Delete a message of a conversation")
    async def _delete_item(
        caller: SubmitterDep, conversation_id: _Id, item_id: _ItemId
    ) -> ConversationDocument:
        """Delete a message that was added. Those of tasks stay with the tasks."""
        return await Conversations(mesh, caller).delete_item(conversation_id, item_id)

    return router
