"""Bodies and answers of /v1/conversations, as OpenAI's API has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from meshwright.core.operations import Input

_MAX_TEXT_CHARS = 65_536  # of a message
_Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Metadata = Annotated[
    dict[_Name, Annotated[str, StringConstraints(max_length=512)]],
    Field(max_length=16, description="At most 16 texts by name."),
]


class TextPart(BaseModel):
    """A text of a message."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["input_text", "output_text", "text"]
    """The type."""
    text: Annotated[str, Field(max_length=_MAX_TEXT_CHARS)]
    """The text."""


class NewItem(BaseModel):
    """A message that is added. Other items than messages are not taken."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["message"] = "message"
    """The type."""
    role: Literal["user", "assistant", "system", "developer"]
    """The speaker."""
    content: (
        Annotated[str, Field(max_length=_MAX_TEXT_CHARS)] | Annotated[list[TextPart], Field(max_length=50)]
    )
    """The text, or its parts."""

    @property
    def text(self) -> str:
        """The whole text."""
        parts = self.content
        return parts if isinstance(parts, str) else "\n".join(part.text for part in parts)


Items = Annotated[list[NewItem], Field(max_length=20, description="Messages, at most 20.")]


class NewConversation(Input):
    """A conversation that is made."""

    items: Items | None = None
    """Messages that it begins with, at most 20."""
    metadata: Metadata | None = None
    """At most 16 texts by name."""


class MetadataChange(Input):
    """Metadata that replace those of a conversation."""

    metadata: Metadata | None
    """At most 16 texts by name."""


class NewItems(Input):
    """Messages that are added."""

    items: Annotated[list[NewItem], Field(min_length=1, max_length=20)]
    """Messages, at most 20."""


class ConversationDocument(BaseModel):
    """A conversation."""

    id: str
    """The id, which is its thread's."""
    object: Literal["conversation"] = "conversation"
    """The type."""
    created_at: int
    """When it was made, in unix seconds."""
    metadata: dict[str, str]
    """Its metadata."""


class DeletedConversation(BaseModel):
    """A conversation that was deleted."""

    id: str
    """The id."""
    object: Literal["conversation.deleted"] = "conversation.deleted"
    """The type."""
    deleted: bool = True
    """Whether it is deleted."""


class ItemPage(BaseModel):
    """Messages of a conversation."""

    object: Literal["list"] = "list"
    """The type."""
    data: list[dict[str, Any]]
    """The messages."""
    first_id: str
    """The id of the first one; "" without any."""
    last_id: str
    """The id of the last one, after which the next page begins."""
    has_more: bool
    """Whether there are others."""


def make_item(item_id: str, role: str, text: str) -> dict[str, Any]:
    """Returns a message as it is read."""
    kind = "output_text" if role == "assistant" else "input_text"
    part: dict[str, Any] = {"type": kind, "text": text}
    if role == "assistant":
        part |= {"annotations": [], "logprobs": []}
    return {"type": "message", "id": item_id, "role": role, "status": "completed", "content": [part]}
