"""The messages of chats, and the chats that speak plain HTTP: Standard Webhooks, and WhatsApp."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple, Protocol

from msgspec import field
from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from meshwright.core.encoding import encode
from meshwright.core.errors import ConfigError, InvalidInput, sentence
from meshwright.core.ids import ID_PATTERN, derived_id
from meshwright.core.operations import Input
from meshwright.edges.channels.settings import ChannelKind, ChannelSettings
from meshwright.edges.deliveries import SignatureKind, standard_key
from meshwright.edges.outgoing_requests import HttpPool, TryLater, asked_pause, parse_json
from meshwright.edges.replies.courier import Address, Undeliverable

SCHEME = "channel"
MAX_CONTENT_CHARS = 40_000
_MAX_METADATA_BYTES = 16_384  # stored with the address until the answer is sent
_Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]


def _small(metadata: dict[str, Any]) -> dict[str, Any]:
    if len(encode(metadata)) > _MAX_METADATA_BYTES:
        raise ValueError(f"it has more than {_MAX_METADATA_BYTES:,} bytes as JSON")
    return metadata


class ChannelMessage(Input):
    """A message that somebody sent in a chat, or that is sent there.

    `id` is the service's own, which stays the same when it is delivered again; `thread_id` names the
    conversation there. `channel_metadata` is for that service alone: any JSON, up to 16,384 bytes. `context`
    is the sender's.
    """

    id: _Id
    tenant_id: str = Field(default="", pattern=ID_PATTERN.replace("{1,", "{0,"))
    channel: ChannelKind = "http"
    channel_metadata: Annotated[dict[str, Any], AfterValidator(_small)] = Field(default_factory=dict)
    sender: _Id
    content: str = Field(min_length=1, max_length=MAX_CONTENT_CHARS)
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))
    thread_id: _Id
    reply_to: _Id | None = None
    context: dict[str, Any] = Field(default_factory=dict)


class Chat(Protocol):
    """One channel's service. Both requests raise TryLater, and Undeliverable for what it will never take."""

    signed: SignatureKind
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


def make_message(**fields: Any) -> ChannelMessage:
    """Returns a message made of what a service has sent. Raises InvalidInput."""
    try:
        return ChannelMessage.model_validate(fields)
    except ValidationError as error:
        [problem, *_] = error.errors(include_url=False, include_input=False)
        field = ".".join(map(str, problem["loc"])) or "body"
        remedy = "Send id, sender, content and thread_id"
        raise InvalidInput(f"{field}: {sentence(problem)}", remedy=remedy, field=field) from None


def parse_time(value: Any, unit: float = 1.0) -> datetime:
    """Returns the time that a service gives in units of so many seconds; now, where it gives none."""
    try:
        return datetime.fromtimestamp(float(value) * unit, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return datetime.now(UTC)


class ChannelAddress(Address, kw_only=True):
    """The address of a reply: a conversation in a channel, and the message that it answers."""

    channel: str
    thread_id: str
    message_id: str
    metadata: dict[str, Any] = field(default_factory=dict)


_WHERE = {"slack": "channel", "mattermost": "channel_id"}


def conversation(kind: str, thread_id: str) -> dict[str, Any]:
    """Returns the `channel_metadata` of a message to a conversation that answers none."""
    return {_WHERE[kind]: thread_id} if kind in _WHERE else {}


def message_task_id(tenant_id: str, channel: str, message_id: str) -> str:
    """Returns the id of the task that a message becomes."""
    return derived_id(tenant_id, f"channel:{channel}", message_id)


def chat_requester(channel: str, sender: str) -> str:
    """Returns who requests the tasks of a sender, and answers what tasks ask."""
    return f"channel:{channel}:{sender}"


def chat_thread(tenant_id: str, channel: str, thread_id: str) -> str:
    """Returns the thread of the mesh that a conversation is: no person's own has such an id."""
    return f"{channel}-{derived_id(tenant_id, f'channel:{channel}', thread_id)[:20]}"


_WHATSAPP_API = "https://graph.facebook.com/v23.0"
_MAX_WHATSAPP_CHARS = 4_096
_WHATSAPP_LATER = (4, 80007, 130429, 131000, 131016, 131056, 133004)
_LIMIT_SECONDS = 6.0


class HttpChat:
    """Any service that sends and takes messages of channels, signed as Standard Webhooks has it.

    A message that is sent again has the same `webhook-id`.
    """

    signed = SignatureKind(scheme="standard")
    typing_seconds, has_status = 5.0, True

    def __init__(self, name: str, settings: ChannelSettings) -> None:
        assert settings.url is not None
        try:
            self._keys = [standard_key(secret) for secret in settings.secrets]
        except ValueError as error:
            raise ConfigError(f"[channels.{name}] secret: {error}", field="channels") from None
        self._url, self.http = settings.url, HttpPool(networks=settings.networks)

    def read(self, document: dict[str, Any]) -> Iterator[ChannelMessage]:
        """The body is one message."""
        yield make_message(**document)

    async def post(self, message: ChannelMessage, *, again: bool) -> None:
        """POST it to the channel's URL."""
        body = encode({"type": "message", "timestamp": message.timestamp, "data": message.model_dump()})
        await self.http.post_signed(self._url, self._keys, f"msg_{message.id}", body)

    async def show_typing(self, message: ChannelMessage, status: str) -> None:
        """POST what is being done to the channel's URL."""
        now = datetime.now(UTC)
        where = {"thread_id": message.thread_id, "channel_metadata": message.channel_metadata}
        data = {**where, "reply_to": message.id, "status": status}
        body = encode({"type": "typing", "timestamp": now, "data": data})
        message_id = derived_id(message.id, now.isoformat())
        await self.http.post_signed(self._url, self._keys, f"typing_{message_id}", body)


class WhatsAppChat:
    """WhatsApp's Cloud API. It takes no id of ours: a message sent again after a crash may arrive twice.

    https://developers.facebook.com/docs/graph-api/webhooks/getting-started
    https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks/payload-examples
    https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes
    https://developers.facebook.com/docs/whatsapp/cloud-api/typing-indicators
    """

    typing_seconds, has_status = 20.0, False  # WhatsApp's own limit is 25 seconds
    signed = SignatureKind(headers=("x-hub-signature-256",), prefix="sha256=")

    def __init__(self, name: str, settings: ChannelSettings) -> None:
        assert settings.token is not None
        self._number = settings.phone_number_id
        self._url = f"{(settings.url or _WHATSAPP_API).rstrip('/')}/{self._number}/messages"
        self.http = HttpPool()
        self._headers = {"Authorization": f"Bearer {settings.token.get_secret_value()}"}

    def read(self, document: dict[str, Any]) -> Iterator[ChannelMessage]:
        """The text messages to the channel's own number; a conversation is the sender's number."""
        for entry in _dicts(document.get("entry")):
            for change in _dicts(entry.get("changes")):
                value = change.get("value")
                if not isinstance(value, dict) or self._number != _text(value, "metadata", "phone_number_id"):
                    continue
                for message in _dicts(value.get("messages")):
                    content = _text(message, "text", "body")[:MAX_CONTENT_CHARS]
                    sender, message_id = _text(message, "from"), _text(message, "id")
                    if content.strip() and sender and message_id:
                        yield make_message(
                            id=message_id,
                            channel="whatsapp",
                            channel_metadata={"to": sender},
                            sender=sender,
                            content=content,
                            timestamp=parse_time(message.get("timestamp")),
                            thread_id=sender,
                            reply_to=_text(message, "context", "id") or None,
                        )

    async def post(self, message: ChannelMessage, *, again: bool) -> None:
        """Send it, as an answer to the message that it replies to. Not later than a day after that."""
        body = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": message.channel_metadata["to"],
            "context": {"message_id": message.reply_to},
            "type": "text",
            "text": {"body": message.content[:_MAX_WHATSAPP_CHARS]},
        }
        await self._send(body)

    async def show_typing(self, message: ChannelMessage, status: str) -> None:
        """Mark the message as read, and show that an answer is being written."""
        receipt = {"messaging_product": "whatsapp", "status": "read", "message_id": message.id}
        await self._send(receipt | {"typing_indicator": {"type": "text"}})

    async def _send(self, body: dict[str, Any]) -> None:
        answer = await self.http.request("POST", self._url, json=body, headers=self._headers)
        if answer.status < 300:
            return
        error = parse_json(answer).get("error")
        code = error.get("code") if isinstance(error, dict) else None
        problem = f"WhatsApp answered {answer.status} with error {code}"
        if answer.status == 429 or answer.status >= 500 or code in _WHATSAPP_LATER:
            raise TryLater(problem, asked_pause(answer) or _LIMIT_SECONDS)
        raise Undeliverable(problem)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: Any, *path: str) -> str:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
