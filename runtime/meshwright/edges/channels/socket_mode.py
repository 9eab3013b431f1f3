"""Slack's socket mode: its events come over a connection that the mesh opens, so also to one behind NAT.

https://docs.slack.dev/apis/events-api/using-socket-mode
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from meshwright.core.errors import ConfigError, MeshError
from meshwright.core.plugins import install_command
from meshwright.edges.channels.receiver import ChannelReceiver, ChatChannel

if TYPE_CHECKING:
    from slack_sdk.socket_mode.aiohttp import SocketModeClient
    from slack_sdk.socket_mode.request import SocketModeRequest

_logger = logging.getLogger("meshwright.edges.channels")


class SlackSocket:
    """Takes a channel's messages over Slack's socket; each is acknowledged once its task is durable.

    What is not acknowledged Slack sends again. Raises ConfigError where slack-sdk is not installed.
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
