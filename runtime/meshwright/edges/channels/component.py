"""The component: channels of the settings, the route of their deliveries, and the sender of replies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from meshwright.component import Check, Component
from meshwright.core.errors import ConfigError
from meshwright.edges.channels.chats import HttpChat, WhatsAppChat
from meshwright.edges.channels.mattermost import MattermostChat, MattermostSocket
from meshwright.edges.channels.messages import ChatChannel
from meshwright.edges.channels.receiver import ChannelReceiver
from meshwright.edges.channels.sender import ChannelSender, Typing
from meshwright.edges.channels.slack import SlackChat, SlackSocket
from meshwright.edges.replies import Courier
from meshwright.mesh import Mesh
from meshwright.settings.channels import ChannelSettings

if TYPE_CHECKING:
    from fastapi import APIRouter

CHATS: Mapping[str, type[HttpChat | SlackChat | MattermostChat | WhatsAppChat]] = {
    "http": HttpChat,
    "slack": SlackChat,
    "mattermost": MattermostChat,
    "whatsapp": WhatsAppChat,
}


def channels_of(settings: Mapping[str, ChannelSettings]) -> dict[str, ChatChannel]:
    """Returns the active channels of the settings. Raises ConfigError."""
    return {
        name: ChatChannel(name, channel, CHATS[channel.kind](name, channel))
        for name, channel in settings.items()
        if channel.active
    }


class Channels(Component):
    """Messages of chats become tasks of an agent, which replies there."""

    name = "channels"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._channels = channels_of(self.config)
        typing = Typing(mesh)
        self.parts += [*(channel.chat.http for channel in self._channels.values()), typing]
        self._receiver = ChannelReceiver(mesh, self._channels, typing)
        if self._channels and mesh.role.is_front:
            mesh.component(Courier).register(ChannelSender(mesh, self._channels))
            for channel in self._channels.values():
                if channel.settings.app_token is not None:
                    self.parts.append(SlackSocket(self._receiver, channel))
                if isinstance(channel.chat, MattermostChat):
                    self.parts.append(MattermostSocket(self._receiver, channel, channel.chat))

    def routes(self) -> APIRouter | None:
        """The route of deliveries."""
        from meshwright.edges.channels.routes import make_routes

        return make_routes(self._receiver)

    def checks(self) -> Iterable[Check]:
        """Whether channels name agents that there are."""
        return [Check("channels", self._check)] if self.config else []

    async def _check(self) -> str:
        agents = {agent.agent_id for agent in self.mesh.agent_types}
        for name, channel in self.config.items():
            if channel.agent_id(name) not in agents:
                raise ConfigError(
                    f"[channels.{name}] names the agent {channel.agent!r}, which the mesh does not have",
                    remedy="Correct mesh.toml; mesh agents lists what there is",
                )
        return ", ".join(f"{name} ({channel.kind})" for name, channel in self.config.items())
