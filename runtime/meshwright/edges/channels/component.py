"""The component: channels of the settings, the route of their deliveries, and the sender of replies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from meshwright.component import Check, Component
from meshwright.core.errors import ConfigError
from meshwright.edges.channels.mattermost import MattermostChat, MattermostSocket
from meshwright.edges.channels.receiver import ChannelReceiver, channels_of
from meshwright.edges.channels.sender import ChannelSender
from meshwright.edges.channels.socket_mode import SlackSocket
from meshwright.edges.channels.typing_indicator import Typing
from meshwright.edges.replies import Courier
from meshwright.mesh import Mesh

if TYPE_CHECKING:
    from fastapi import APIRouter


class Channels(Component):
    """Messages of chats become tasks of an agent, which replies there."""

    name = "channels"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._channels = channels_of(self.config)
        typing = Typing(mesh)
        self.parts.append(typing)
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
