"""Mattermost: messages come over its WebSocket, replies go by REST.

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

from pydantic_core import from_json

from meshwright.core.clock import Backoff
from meshwright.core.errors import InvalidInput, NotFound, TooLarge
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
from meshwright.edges.outgoing import HttpPool, TryLater, asked_pause, harmless
from meshwright.edges.replies.courier import Undeliverable

if TYPE_CHECKING:
    from aiohttp import ClientWebSocketResponse

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
            return message_of(
                id=post_id,
                channel="mattermost",
                channel_metadata={"channel_id": channel_id, "root_id": root_id or post_id},
                sender=user_id,
                content=content,
                timestamp=time_of(post.get("create_at"), 0.001),
                thread_id=channel_id if is_loose else root_id or post_id,
            )
        except InvalidInput as error:  # the messages behind it are still taken
            _logger.warning("channel %s: a message is not taken: %s", self._name, error)
            return None

    async def missed(self) -> list[ChannelMessage]:
        """Returns what was said in the last hour, the oldest first."""
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
            thread = await self.call("GET", f"/posts/{where['root_id']}/thread")
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
