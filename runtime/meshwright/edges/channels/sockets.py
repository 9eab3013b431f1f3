"""Chats that the mesh reads over a socket too, or alone: Slack and Mattermost; replies go by their HTTP APIs.

https://docs.slack.dev/authentication/verifying-requests-from-slack
https://docs.slack.dev/apis/events-api (and /using-socket-mode, for a mesh behind NAT)
https://docs.slack.dev/reference/methods (chat.postMessage, conversations.replies,
assistant.threads.setStatus)
https://developers.mattermost.com/api-documentation (websocket, posts, channels, users)
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from pydantic_core import from_json

from meshwright.core.clock import Backoff
from meshwright.core.errors import ConfigError, InvalidInput, MeshError, NotFound, TooLarge
from meshwright.core.plugins import install_command
from meshwright.core.redaction import foreign_words
from meshwright.edges.channels.chats import (
    MAX_CONTENT_CHARS,
    ChannelMessage,
    ChatChannel,
    make_message,
    parse_time,
)
from meshwright.edges.channels.relay import ChannelReceiver
from meshwright.edges.channels.settings import ChannelSettings
from meshwright.edges.deliveries import SignatureKind
from meshwright.edges.outgoing_requests import HttpPool, TryLater, asked_pause, harmless, parse_json
from meshwright.edges.replies.courier import Undeliverable

if TYPE_CHECKING:
    from aiohttp import ClientWebSocketResponse
    from slack_sdk.socket_mode.aiohttp import SocketModeClient
    from slack_sdk.socket_mode.request import SocketModeRequest

_logger = logging.getLogger("meshwright.edges.channels")
_MAX_POST_CHARS = 16_000
_CAUGHT_UP_SECONDS = 3600
_HEARTBEAT_SECONDS = 30.0
_DIRECT = "D"
_REPLY = "meshwright_reply"


class MattermostChat:
    """One bot's account."""

    signed = SignatureKind()
    typing_seconds, has_status = 5.0, False

    def __init__(self, name: str, settings: ChannelSettings) -> None:
        assert settings.url is not None and settings.token is not None
        self._name = name
        self.token = settings.token.get_secret_value()
        self.api = f"{settings.url.rstrip('/')}/api/v4"
        self.http = HttpPool()
        self.user_id = self.username = ""

    def read(self, document: dict[str, Any]) -> Iterator[ChannelMessage]:
        """A `posted` event: a message that names the bot, or in a conversation with it alone."""
        data = document.get("data")
        if document.get("event") != "posted" or not isinstance(data, dict):
            return
        if message := self._message(_object(data.get("post")), data.get("channel_type")):
            yield message

    def _message(self, post: dict[str, Any], channel_type: Any) -> ChannelMessage | None:
        fields = (post.get(name) for name in ("id", "user_id", "channel_id", "message"))
        post_id, user_id, channel_id, text = (str(value or "") for value in fields)
        props = post.get("props")
        props = props if isinstance(props, dict) else {}
        is_bots = user_id == self.user_id or "true" in (props.get("from_bot"), props.get("from_webhook"))
        mention = re.compile(rf"(?<![\w@])@{re.escape(self.username)}(?![\w-])\s*", re.IGNORECASE)
        content = mention.sub("", text, count=1).strip()[:MAX_CONTENT_CHARS]
        is_meant = channel_type == _DIRECT or mention.search(text) is not None
        is_said = not (is_bots or post.get("type") or post.get("delete_at"))
        if not (is_said and is_meant and content and post_id):
            return None
        root_id = str(post.get("root_id") or "")
        is_loose = channel_type == _DIRECT and not root_id
        try:
            return make_message(
                id=post_id,
                channel="mattermost",
                channel_metadata={"channel_id": channel_id, "root_id": root_id or post_id},
                sender=user_id,
                content=content,
                timestamp=parse_time(post.get("create_at"), 0.001),
                thread_id=channel_id if is_loose else root_id or post_id,
            )
        except InvalidInput as error:  # the messages behind it are still taken
            _logger.warning("channel %s: a message is not taken: %s", self._name, error)
            return None

    async def missed(self) -> list[ChannelMessage]:
        """Returns the messages of the last hour, the oldest first."""
        since = int((time.time() - _CAUGHT_UP_SECONDS) * 1000)
        messages: list[ChannelMessage] = []
        for channel in await self.call("GET", f"/users/{self.user_id}/channels"):
            if channel.get("last_post_at", 0) >= since:
                page = await self.call("GET", f"/channels/{channel['id']}/posts?since={since}")
                posts = (self._message(post, channel.get("type")) for post in page["posts"].values())
                messages += [message for message in posts if message is not None]
        return sorted(messages, key=lambda message: message.timestamp)

    async def who_am_i(self) -> None:
        """Learn the bot's name. Raises Undeliverable, TryLater."""
        me = await self.call("GET", "/users/me")
        self.user_id, self.username = me["id"], me["username"]

    async def post(self, message: ChannelMessage, *, again: bool) -> None:
        """Post it into the thread, unless one with its id in the props is there."""
        where = message.channel_metadata
        if again:
            root_id = where.get("root_id")
            posts = f"/posts/{root_id}/thread" if root_id else f"/channels/{where['channel_id']}/posts?since="
            since = int((time.time() - _CAUGHT_UP_SECONDS) * 1000)
            thread = await self.call("GET", posts if root_id else f"{posts}{since}")
            if any((post.get("props") or {}).get(_REPLY) == message.id for post in thread["posts"].values()):
                return
        props = {_REPLY: message.id}
        text = harmless(message.content[:_MAX_POST_CHARS])
        await self.call("POST", "/posts", json={**where, "message": text, "props": props})

    async def show_typing(self, message: ChannelMessage, status: str) -> None:
        """Show that the bot is typing in the thread."""
        where = message.channel_metadata
        typing = {"channel_id": where["channel_id"], "parent_id": where["root_id"]}
        await self.call("POST", f"/users/{self.user_id}/typing", json=typing)

    async def call(self, method: str, path: str, **options: Any) -> Any:
        """Call the API. Raises Undeliverable, TryLater."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = await self.http.request(method, self.api + path, headers=headers, **options)
        if answer.status < 300:
            return from_json(answer.body)
        problem = f"Mattermost answered {answer.status} to {method} {path.partition('?')[0]}"
        if answer.status in (401, 408, 429) or answer.status >= 500:
            raise TryLater(problem, asked_pause(answer) or 0.0)
        raise Undeliverable(problem)


class MattermostSocket:
    """Takes a bot's messages as they come, and those of the last hour whenever it connects.

    A message that was taken before is the same task, so that to look again repeats nothing.
    """

    def __init__(self, receiver: ChannelReceiver, channel: ChatChannel, chat: MattermostChat) -> None:
        self._receiver = receiver
        self._channel = channel
        self._chat = chat
        self._listening: asyncio.Task[None] | None = None
        self.is_connected = False
        """Whether messages come."""

    async def start(self) -> None:
        """Connect, and again whenever the connection ends; does not wait for it."""
        self._listening = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        """Disconnect. Idempotent."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening

    async def _listen(self) -> None:
        backoff, name = Backoff(0.5, 60.0), self._channel.name
        while True:
            try:
                await self._chat.who_am_i()
                session, url = self._chat.http.session(self._chat.api), f"{self._chat.api}/websocket"
                async with session.ws_connect(url, heartbeat=_HEARTBEAT_SECONDS) as socket:
                    await self._serve(socket)
                backoff = Backoff(0.5, 60.0)
            except Exception as error:  # noqa: BLE001 whatever it is, messages must still be taken
                _logger.warning("channel %s is not connected: %s", name, type(error).__name__)
            finally:
                self.is_connected = False
            await asyncio.sleep(backoff.next())

    async def _serve(self, socket: ClientWebSocketResponse) -> None:
        challenge = {"token": self._chat.token}
        await socket.send_json({"seq": 1, "action": "authentication_challenge", "data": challenge})
        reply: dict[str, Any] = {}
        while reply.get("seq_reply") != 1:  # what was said before this is in the last hour too
            reply = await socket.receive_json()
        if reply.get("status") != "OK":
            raise Undeliverable("Mattermost does not accept the token")
        self.is_connected = True
        for message in await self._chat.missed():
            await self._take(message)
        async for received in socket:
            for message in self._chat.read(_object(received.data)):
                await self._take(message)

    async def _take(self, message: ChannelMessage) -> None:
        """Make its task. Errors of the moment are raised: it is looked for at the next connection."""
        try:
            await self._receiver.accept(self._channel, [message])
        except (InvalidInput, NotFound, TooLarge) as error:
            _logger.warning("channel %s: a message is not taken: %s", self._channel.name, error)


def _object(text: Any) -> dict[str, Any]:
    try:
        document = from_json(text)
    except (TypeError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


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
        yield make_message(
            id=f"{channel}:{ts}",  # the same in each event about it, whose event_ids differ
            channel="slack",
            channel_metadata={"channel": str(channel), "ts": str(ts), "thread_ts": str(thread_ts)},
            sender=str(user),
            content=content,
            timestamp=parse_time(ts),
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
            **({"thread_ts": where["thread_ts"]} if "thread_ts" in where else {}),
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
        since = int(time.time() - _CAUGHT_UP_SECONDS)
        for _ in range(10):
            params = {"channel": where["channel"], "include_all_metadata": "true"}
            params |= {"ts": where["thread_ts"]} if "thread_ts" in where else {"oldest": str(since)}
            params |= {"cursor": cursor} if cursor else {}
            method = "conversations.replies" if "thread_ts" in where else "conversations.history"
            page = await self._call("GET", method, params=params)
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
        document = parse_json(answer)
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
