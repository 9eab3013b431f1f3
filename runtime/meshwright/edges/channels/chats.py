"""Chats: how each kind of channel signs what it sends, says it, and takes what is said."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode

from pydantic_core import from_json

from meshwright.core.encoding import encode
from meshwright.core.errors import ConfigError
from meshwright.core.messages import derived_id
from meshwright.edges.channels.mattermost import MattermostChat
from meshwright.edges.channels.messages import MAX_CONTENT_CHARS, ChannelMessage, message_of, time_of
from meshwright.edges.channels.settings import ChannelSettings
from meshwright.edges.replies import Undeliverable
from meshwright.edges.webhooks.kinds import Kind
from meshwright.edges.webhooks.outgoing import MAX_ANSWER_BYTES, HttpReply, TryLater, asked_pause, request
from meshwright.edges.webhooks.push import post_signed
from meshwright.edges.webhooks.signatures import standard_key

if TYPE_CHECKING:
    from aiohttp import ClientSession

_SLACK_API = "https://slack.com/api"
_WHATSAPP_API = "https://graph.facebook.com/v23.0"
_MAX_SLACK_CHARS, _MAX_WHATSAPP_CHARS = 12_000, 4_096
_SLACK_LATER = ("ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable")
_WHATSAPP_LATER = (4, 80007, 130429, 131000, 131016, 131056, 133004)
_LIMIT_SECONDS = 6.0
_SLACK_ESCAPES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))
_SLACK_MENTION = re.compile(r"^\s*<@[A-Z0-9]+>\s*")


class Chat(Protocol):
    """One channel's service."""

    signed: Kind
    typing_seconds: float
    """How long it shows that somebody is typing."""
    has_status: bool
    """Whether it shows what is being done."""

    def read(self, document: dict[str, Any]) -> Iterator[ChannelMessage]:
        """Returns the messages of people in a delivery. Raises InvalidInput."""
        ...

    async def show_typing(self, session: ClientSession, message: ChannelMessage, status: str) -> None:
        """Show that a message is being worked on. Raises Undeliverable, TryLater."""
        ...

    async def post(self, session: ClientSession, message: ChannelMessage, *, again: bool) -> None:
        """Returns once the service has a message; `again` says that it may have it already.

        Raises Undeliverable where it will never take it, TryLater for all else.
        """
        ...


class HttpChat:
    """Any service that sends and takes messages of channels, signed as Standard Webhooks has it.

    A message that is sent again has the same `webhook-id`.
    """

    signed = Kind(scheme="standard")
    typing_seconds, has_status = 5.0, True

    def __init__(self, name: str, settings: ChannelSettings) -> None:
        assert settings.url is not None
        try:
            self._keys = [standard_key(secret) for secret in settings.secrets]
        except ValueError as error:
            raise ConfigError(f"[channels.{name}] secret: {error}", field="channels") from None
        self._url, self._networks = settings.url, settings.networks

    def read(self, document: dict[str, Any]) -> Iterator[ChannelMessage]:
        """The body is one message."""
        yield message_of(**document)

    async def post(self, session: ClientSession, message: ChannelMessage, *, again: bool) -> None:
        """POST it to the channel's URL."""
        body = encode({"type": "message", "timestamp": message.timestamp, "data": message.model_dump()})
        await post_signed(self._url, self._keys, f"msg_{message.id}", body, self._networks)

    async def show_typing(self, session: ClientSession, message: ChannelMessage, status: str) -> None:
        """POST what is being done to the channel's URL."""
        now = datetime.now(UTC)
        where = {"thread_id": message.thread_id, "channel_metadata": message.channel_metadata}
        data = {**where, "reply_to": message.id, "status": status}
        body = encode({"type": "typing", "timestamp": now, "data": data})
        message_id = derived_id(message.id, now.isoformat())
        await post_signed(self._url, self._keys, f"typing_{message_id}", body, self._networks)


class SlackChat:
    """Slack's Events API, and chat.postMessage.

    https://docs.slack.dev/authentication/verifying-requests-from-slack
    https://docs.slack.dev/apis/events-api
    https://docs.slack.dev/reference/methods/chat.postMessage
    https://docs.slack.dev/reference/methods/conversations.replies
    https://docs.slack.dev/reference/methods/assistant.threads.setStatus
    """

    typing_seconds, has_status = 60.0, True  # Slack's own limit is two minutes

    signed = Kind(
        headers=("x-slack-signature",),
        prefix="v0=",
        timestamp_header="x-slack-request-timestamp",
        version="v0:",
    )

    def __init__(self, name: str, settings: ChannelSettings) -> None:
        assert settings.token is not None
        self._api = (settings.url or _SLACK_API).rstrip("/")
        self._headers = {"Authorization": f"Bearer {settings.token.get_secret_value()}"}

    def read(self, document: dict[str, Any]) -> Iterator[ChannelMessage]:
        """A message to the bot: one that names it, or in a conversation with it alone. Not what bots say."""
        event = document.get("event")
        if document.get("type") != "event_callback" or not isinstance(event, dict):
            return
        is_direct = event.get("type") == "message" and event.get("channel_type") == "im"
        is_said = event.get("subtype") in (None, "file_share") and not event.get("bot_id")
        text, user, channel, ts = (event.get(name) for name in ("text", "user", "channel", "ts"))
        said = _plain(_SLACK_MENTION.sub("", text)) if isinstance(text, str) else ""
        content = said[:MAX_CONTENT_CHARS].strip()
        if not ((is_direct or event.get("type") == "app_mention") and is_said and content and user and ts):
            return
        thread_ts = event.get("thread_ts") or ts
        yield message_of(
            id=f"{channel}:{ts}",  # the same in each event about it, whose event_ids differ
            channel="slack",
            channel_metadata={"channel": str(channel), "ts": str(ts), "thread_ts": str(thread_ts)},
            sender=str(user),
            content=content,
            timestamp=time_of(ts),
            thread_id=str(channel) if is_direct and "thread_ts" not in event else f"{channel}:{thread_ts}",
        )

    async def post(self, session: ClientSession, message: ChannelMessage, *, again: bool) -> None:
        """Post it into the thread, unless a message with its id in the metadata is there."""
        where = message.channel_metadata
        with suppress(Undeliverable):  # without the right to look, it may come twice
            if again and await self._has(session, message):
                return
        body = {
            "channel": where["channel"],
            "thread_ts": where["thread_ts"],
            "text": _escaped(message.content[:_MAX_SLACK_CHARS]),
            "unfurl_links": False,  # a preview would fetch whatever address the model names
            "unfurl_media": False,
            "metadata": {"event_type": "meshwright_reply", "event_payload": {"id": message.id}},
        }
        await self._call(session, "POST", "chat.postMessage", json=body)

    async def show_typing(self, session: ClientSession, message: ChannelMessage, status: str) -> None:
        """Set the status of the thread, which the next message there ends."""
        where = message.channel_metadata
        body = {"channel_id": where["channel"], "thread_ts": where["thread_ts"], "status": _escaped(status)}
        await self._call(session, "POST", "assistant.threads.setStatus", json=body)

    async def _has(self, session: ClientSession, message: ChannelMessage) -> bool:
        where, cursor = message.channel_metadata, ""
        for _ in range(10):
            wanted = {"channel": where["channel"], "ts": where["thread_ts"], "include_all_metadata": "true"}
            wanted |= {"cursor": cursor} if cursor else {}
            page = await self._call(session, "GET", "conversations.replies", params=wanted)
            for known in page.get("messages", ()):
                if known.get("metadata", {}).get("event_payload", {}).get("id") == message.id:
                    return True
            cursor = (page.get("response_metadata") or {}).get("next_cursor") or ""
            if not cursor:
                break
        return False

    async def _call(self, session: ClientSession, verb: str, method: str, **options: Any) -> dict[str, Any]:
        url = f"{self._api}/{method}"
        if params := options.pop("params", None):
            url = f"{url}?{urlencode(params)}"
        answer = await request(
            session, verb, url, max_bytes=MAX_ANSWER_BYTES, headers=self._headers, **options
        )
        document = _json(answer)
        if answer.status < 300 and document.get("ok"):
            return document
        error = str(document.get("error", answer.status))
        said = f"Slack answered {error} to {method}"
        if answer.status == 429 or answer.status >= 500 or error in _SLACK_LATER:
            raise TryLater(said, asked_pause(answer) or 0.0)
        raise Undeliverable(said)


class WhatsAppChat:
    """WhatsApp's Cloud API. It takes no id of ours: what is sent again after a crash may come twice.

    https://developers.facebook.com/docs/graph-api/webhooks/getting-started
    https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks/payload-examples
    https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes
    https://developers.facebook.com/docs/whatsapp/cloud-api/typing-indicators
    """

    typing_seconds, has_status = 20.0, False  # WhatsApp's own limit is 25 seconds
    signed = Kind(headers=("x-hub-signature-256",), prefix="sha256=")

    def __init__(self, name: str, settings: ChannelSettings) -> None:
        assert settings.token is not None
        self._number = settings.phone_number_id
        self._url = f"{(settings.url or _WHATSAPP_API).rstrip('/')}/{self._number}/messages"
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

    async def post(self, session: ClientSession, message: ChannelMessage, *, again: bool) -> None:
        """Send it, as an answer to the message that it replies to. Not later than a day after that."""
        body = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": message.channel_metadata["to"],
            "context": {"message_id": message.reply_to},
            "type": "text",
            "text": {"body": message.content[:_MAX_WHATSAPP_CHARS]},
        }
        await self._send(session, body)

    async def show_typing(self, session: ClientSession, message: ChannelMessage, status: str) -> None:
        """Mark the message as read, and show that an answer is being written."""
        read = {"messaging_product": "whatsapp", "status": "read", "message_id": message.id}
        await self._send(session, read | {"typing_indicator": {"type": "text"}})

    async def _send(self, session: ClientSession, body: dict[str, Any]) -> None:
        answer = await request(
            session, "POST", self._url, json=body, headers=self._headers, max_bytes=MAX_ANSWER_BYTES
        )
        if answer.status < 300:
            return
        error = _json(answer).get("error")
        code = error.get("code") if isinstance(error, dict) else None
        said = f"WhatsApp answered {answer.status} with error {code}"
        if answer.status == 429 or answer.status >= 500 or code in _WHATSAPP_LATER:
            raise TryLater(said, asked_pause(answer) or _LIMIT_SECONDS)
        raise Undeliverable(said)


CHATS: Mapping[str, type[HttpChat | SlackChat | MattermostChat | WhatsAppChat]] = {
    "http": HttpChat,
    "slack": SlackChat,
    "mattermost": MattermostChat,
    "whatsapp": WhatsAppChat,
}


def _plain(text: str) -> str:
    """A text of Slack's as its sender wrote it."""
    for sign, escaped in reversed(_SLACK_ESCAPES):
        text = text.replace(escaped, sign)
    return text


def _escaped(text: str) -> str:
    """A text for Slack in which nothing calls people together, or hides where a link leads."""
    for sign, escaped in _SLACK_ESCAPES:
        text = text.replace(sign, escaped)
    return text


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: Any, *path: str) -> str:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def _json(answer: HttpReply) -> dict[str, Any]:
    try:
        document = from_json(answer.body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
