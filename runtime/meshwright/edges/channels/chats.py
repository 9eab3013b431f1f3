"""The chats whose services speak plain HTTP: any that signs as Standard Webhooks has it, and WhatsApp."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from meshwright.core.encoding import encode
from meshwright.core.errors import ConfigError
from meshwright.core.messages import derived_id
from meshwright.edges.channels.messages import MAX_CONTENT_CHARS, ChannelMessage, message_of, time_of
from meshwright.edges.channels.settings import ChannelSettings
from meshwright.edges.deliveries import Signed, standard_key
from meshwright.edges.outgoing import HttpPool, TryLater, asked_pause, json_of
from meshwright.edges.replies import Undeliverable

_WHATSAPP_API = "https://graph.facebook.com/v23.0"
_MAX_WHATSAPP_CHARS = 4_096
_WHATSAPP_LATER = (4, 80007, 130429, 131000, 131016, 131056, 133004)
_LIMIT_SECONDS = 6.0


class HttpChat:
    """Any service that sends and takes messages of channels, signed as Standard Webhooks has it.

    A message that is sent again has the same `webhook-id`.
    """

    signed = Signed(scheme="standard")
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
        yield message_of(**document)

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
    signed = Signed(headers=("x-hub-signature-256",), prefix="sha256=")

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
                for said in _dicts(value.get("messages")):
                    content = _text(said, "text", "body")[:MAX_CONTENT_CHARS]
                    sender, message_id = _text(said, "from"), _text(said, "id")
                    if content.strip() and sender and message_id:
                        yield message_of(
                            id=message_id,
                            channel="whatsapp",
                            channel_metadata={"to": sender},
                            sender=sender,
                            content=content,
                            timestamp=time_of(said.get("timestamp")),
                            thread_id=sender,
                            reply_to=_text(said, "context", "id") or None,
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
        read = {"messaging_product": "whatsapp", "status": "read", "message_id": message.id}
        await self._send(read | {"typing_indicator": {"type": "text"}})

    async def _send(self, body: dict[str, Any]) -> None:
        answer = await self.http.request("POST", self._url, json=body, headers=self._headers)
        if answer.status < 300:
            return
        error = json_of(answer).get("error")
        code = error.get("code") if isinstance(error, dict) else None
        said = f"WhatsApp answered {answer.status} with error {code}"
        if answer.status == 429 or answer.status >= 500 or code in _WHATSAPP_LATER:
            raise TryLater(said, asked_pause(answer) or _LIMIT_SECONDS)
        raise Undeliverable(said)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: Any, *path: str) -> str:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
