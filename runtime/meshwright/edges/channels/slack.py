"""Slack: messages come by webhook or over its socket, replies go by its Web API.

https://docs.slack.dev/authentication/verifying-requests-from-slack
https://docs.slack.dev/apis/events-api (and /using-socket-mode, for a mesh behind NAT)
https://docs.slack.dev/reference/methods (chat.postMessage, conversations.replies,
assistant.threads.setStatus)
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from meshwright.core.errors import ConfigError, MeshError
from meshwright.core.plugins import install_command
from meshwright.core.redaction import foreign_words
from meshwright.edges.channels.chats import (
    MAX_CONTENT_CHARS,
    ChannelMessage,
    ChatChannel,
    message_of,
    time_of,
)
from meshwright.edges.channels.receiver import ChannelReceiver
from meshwright.edges.channels.settings import ChannelSettings
from meshwright.edges.deliveries import SignatureKind
from meshwright.edges.outgoing import HttpPool, TryLater, asked_pause, json_of
from meshwright.edges.replies.courier import Undeliverable

if TYPE_CHECKING:
    from slack_sdk.socket_mode.aiohttp import SocketModeClient
    from slack_sdk.socket_mode.request import SocketModeRequest

_logger = logging.getLogger("meshwright.edges.channels")
_API = "https://slack.com/api"
_MAX_CHARS = 12_000
_LATER = ("ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable")
_ESCAPES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))
_MENTION = re.compile(r"^\s*<@[A-Z0-9]+>\s*")


class SlackChat:
    """Slack's Events API, and its methods for messages."""

    typing_seconds, has_status = 60.0, True  # Slack's own limit is two minutes

    signed = SignatureKind(
        headers=("x-slack-signature",),
        prefix="v0=",
        timestamp_header="x-slack-request-timestamp",
        version="v0:",
    )

    def __init__(self, name: str, settings: ChannelSettings) -> None:
        assert settings.token is not None
        self._api = (settings.url or _API).rstrip("/")
        self.http = HttpPool()
        self._headers = {"Authorization": f"Bearer {settings.token.get_secret_value()}"}

    def read(self, document: dict[str, Any]) -> Iterator[ChannelMessage]:
        """A message to the bot: one that names it, or in a conversation with it alone. Not what bots say."""
        event = document.get("event")
        if document.get("type") != "event_callback" or not isinstance(event, dict):
            return
        is_direct = event.get("type") == "message" and event.get("channel_type") == "im"
        is_said = event.get("subtype") in (None, "file_share") and not event.get("bot_id")
        text, user, channel, ts = (event.get(name) for name in ("text", "user", "channel", "ts"))
        plain = _plain(_MENTION.sub("", text)) if isinstance(text, str) else ""
        content = plain[:MAX_CONTENT_CHARS].strip()
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

    async def post(self, message: ChannelMessage, *, again: bool) -> None:
        """Post it into the thread, unless a message with its id in the metadata is there."""
        where = message.channel_metadata
        with suppress(Undeliverable):  # without the right to look, it may come twice
            if again and await self._has(message):
                return
        body = {
            "channel": where["channel"],
            "thread_ts": where["thread_ts"],
            "text": _escaped(message.content[:_MAX_CHARS]),
            "unfurl_links": False,  # a preview would fetch whatever address the model names
            "unfurl_media": False,
            "metadata": {"event_type": "meshwright_reply", "event_payload": {"id": message.id}},
        }
        await self._call("POST", "chat.postMessage", json=body)

    async def show_typing(self, message: ChannelMessage, status: str) -> None:
        """Set the status of the thread, which the next message there ends."""
        where = message.channel_metadata
        body = {"channel_id": where["channel"], "thread_ts": where["thread_ts"], "status": _escaped(status)}
        await self._call("POST", "assistant.threads.setStatus", json=body)

    async def _has(self, message: ChannelMessage) -> bool:
        where, cursor = message.channel_metadata, ""
        for _ in range(10):
            params = {"channel": where["channel"], "ts": where["thread_ts"], "include_all_metadata": "true"}
            params |= {"cursor": cursor} if cursor else {}
            page = await self._call("GET", "conversations.replies", params=params)
            for reply in page.get("messages", ()):
                if reply.get("metadata", {}).get("event_payload", {}).get("id") == message.id:
                    return True
            cursor = (page.get("response_metadata") or {}).get("next_cursor") or ""
            if not cursor:
                break
        return False

    async def _call(self, verb: str, method: str, **options: Any) -> dict[str, Any]:
        url = f"{self._api}/{method}"
        if params := options.pop("params", None):
            url = f"{url}?{urlencode(params)}"
        answer = await self.http.request(verb, url, headers=self._headers, **options)
        document = json_of(answer)
        if answer.status < 300 and document.get("ok"):
            return document
        error = foreign_words(str(document.get("error", answer.status)))
        problem = f"Slack answered {error} to {method}"
        if answer.status == 429 or answer.status >= 500 or error in _LATER:
            raise TryLater(problem, asked_pause(answer) or 0.0)
        raise Undeliverable(problem)


class SlackSocket:
    """Takes a channel's messages over Slack's socket; each is acknowledged once its task is durable.

    Slack sends unacknowledged messages again. Raises ConfigError where slack-sdk is not installed.
    """

    def __init__(self, receiver: ChannelReceiver, channel: ChatChannel) -> None:
        try:
            import slack_sdk  # noqa: F401 asked for here, so that the mesh does not start without it
        except ImportError:
            remedy = f"Install it: {install_command('slack')}; or set a secret, and use the webhook"
            raise ConfigError(
                f"[channels.{channel.name}] app_token needs slack-sdk", remedy=remedy, field="channels"
            ) from None
        self._receiver = receiver
        self._channel = channel
        self._turn = asyncio.Lock()  # one message after the other, as they come
        self._client: SocketModeClient | None = None
        self._connecting: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether messages come."""
        session = None if self._client is None else self._client.current_session
        return session is not None and not session.closed

    async def start(self) -> None:
        """Connect, and again whenever the connection ends; does not wait for it."""
        from slack_sdk.socket_mode.aiohttp import SocketModeClient
        from slack_sdk.web.async_client import AsyncWebClient

        settings = self._channel.settings
        assert settings.app_token is not None
        web = AsyncWebClient(base_url=settings.url) if settings.url else AsyncWebClient()
        self._client = SocketModeClient(settings.app_token.get_secret_value(), web_client=web)
        self._client.socket_mode_request_listeners.append(self._take)
        self._connecting = asyncio.create_task(self._client.connect())

    async def stop(self) -> None:
        """Disconnect. Idempotent."""
        client, connecting, self._client = self._client, self._connecting, None
        if client is None or connecting is None:
            return
        connecting.cancel()
        with suppress(asyncio.CancelledError):
            await connecting
        await client.close()

    async def _take(self, client: Any, request: SocketModeRequest) -> None:
        from slack_sdk.socket_mode.response import SocketModeResponse

        async with self._turn:
            try:
                if request.type == "events_api":
                    await self._receiver.accept(self._channel, self._channel.chat.read(request.payload))
            except MeshError as error:  # Slack sends it again
                _logger.warning("channel %s: a message is not taken: %s", self._channel.name, error)
                return
            await client.send_socket_mode_response(SocketModeResponse(request.envelope_id))


def _plain(text: str) -> str:
    """A text of Slack's as its sender wrote it."""
    for sign, escaped in reversed(_ESCAPES):
        text = text.replace(escaped, sign)
    return text


def _escaped(text: str) -> str:
    """A text for Slack in which nothing calls people together, or hides where a link leads."""
    for sign, escaped in _ESCAPES:
        text = text.replace(sign, escaped)
    return text
