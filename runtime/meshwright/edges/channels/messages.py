"""Channels: their services, their messages, and the addresses of replies; the same for all kinds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple, Protocol

from pydantic import Field, StringConstraints, ValidationError

from meshwright.core.errors import InvalidInput, sentence
from meshwright.core.messages import ID_PATTERN, derived_id
from meshwright.edges.bodies import Strict
from meshwright.edges.channels.settings import ChannelKind, ChannelSettings
from meshwright.edges.deliveries import Signed
from meshwright.edges.outgoing import HttpPool
from meshwright.edges.replies import Address

SCHEME = "channel"
MAX_CONTENT_CHARS = 40_000
_Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class ChannelMessage(Strict):
    """A message that somebody sent in a chat, or that is sent there.

    `id` is the service's own, which stays the same when it is delivered again; `thread_id` names the
    conversation there. `channel_metadata` is for that service alone, `context` is the sender's.
    """

    id: _Id
    tenant_id: str = Field(default="", pattern=ID_PATTERN.replace("{1,", "{0,"))
    channel: ChannelKind = "http"
    channel_metadata: dict[str, str] = Field(default_factory=dict, max_length=16)
    sender: _Id
    content: str = Field(min_length=1, max_length=MAX_CONTENT_CHARS)
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))
    thread_id: _Id
    reply_to: _Id | None = None
    context: dict[str, Any] = Field(default_factory=dict)


class Chat(Protocol):
    """One channel's service. Both requests raise TryLater, and Undeliverable for what it will never take."""

    signed: Signed
    typing_seconds: float
    """How long it shows that somebody is typing."""
    has_status: bool
    """Whether it shows the progress of the work."""
    http: HttpPool

    def read(self, document: dict[str, Any]) -> Iterator[ChannelMessage]:
        """Returns the messages of people in a delivery. Raises InvalidInput."""
        ...

    async def show_typing(self, message: ChannelMessage, status: str) -> None:
        """Shows that a message is being worked on."""
        ...

    async def post(self, message: ChannelMessage, *, again: bool) -> None:
        """Returns once the service has a message; `again` says that it may have it already."""
        ...


class ChatChannel(NamedTuple):
    """A channel of the settings with its service."""

    name: str
    settings: ChannelSettings
    chat: Chat


def message_of(**fields: Any) -> ChannelMessage:
    """Returns a message made of what a service has sent. Raises InvalidInput."""
    try:
        return ChannelMessage.model_validate(fields)
    except ValidationError as error:
        [problem, *_] = error.errors(include_url=False, include_input=False)
        field = ".".join(map(str, problem["loc"])) or "body"
        remedy = "Send id, sender, content and thread_id"
        raise InvalidInput(f"{field}: {sentence(problem)}", remedy=remedy, field=field) from None


def time_of(value: Any, unit: float = 1.0) -> datetime:
    """Returns the time that a service gives in units of so many seconds; now, where it gives none."""
    try:
        return datetime.fromtimestamp(float(value) * unit, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return datetime.now(UTC)


class ChannelAddress(Address):
    """The address of a reply: a conversation in a channel, and the message that it answers."""

    channel: str
    thread_id: str
    message_id: str
    metadata: dict[str, str] = Field(default_factory=dict)


def task_of(tenant_id: str, channel: str, message_id: str) -> str:
    """Returns the id of the task that a message becomes."""
    return derived_id(tenant_id, f"channel:{channel}", message_id)


def requester_of(channel: str, sender: str) -> str:
    """Returns who requests the tasks of a sender, and answers what tasks ask."""
    return f"channel:{channel}:{sender}"


def thread_of(tenant_id: str, channel: str, thread_id: str) -> str:
    """Returns the thread of the mesh that a conversation is: no person's own has such an id."""
    return f"{channel}-{derived_id(tenant_id, f'channel:{channel}', thread_id)[:20]}"
