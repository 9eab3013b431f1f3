"""A peer: its settings, its card as it was last read, and the client that speaks with it."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from meshwright import Capability
from meshwright.core.errors import MeshError
from meshwright.parts.remote.client import PeerClient
from meshwright.parts.remote.settings import RemotePeer
from meshwright.parts.remote.wire import AgentCard, AgentInterface, is_skill_name

_MAX_SKILLS = 100


class Peer:
    """An agent elsewhere, as one process knows it."""

    def __init__(self, name: str, settings: RemotePeer) -> None:
        self.name, self.settings = name, settings
        self.client = PeerClient(name, settings)
        self.card: AgentCard | None = None
        """Its card. None before it was read."""
        self.problem = ""
        """Why it cannot take tasks now, as a clause."""
        self._interface: AgentInterface | None = None

    async def read_card(self) -> AgentCard:
        """Read the card, and choose how to speak with it. Raises ToolFailed, and notes why in `problem`."""
        try:
            card = await self.client.card()
            self._interface = card.choose(self.settings.a2a)
        except MeshError as error:
            self.problem = " ".join(str(error).split())
            raise
        self.card, self.problem = card, ""
        return card

    async def interface(self) -> AgentInterface:
        """The address that tasks are sent to; the card is read where that was not done. Raises ToolFailed."""
        if self._interface is None:
            await self.read_card()
        assert self._interface is not None
        return self._interface

    @property
    def is_idempotent(self) -> bool:
        """Whether a message may be sent twice."""
        return self.settings.idempotent or (self.card is not None and self.card.is_idempotent)

    @property
    def skills(self) -> Sequence[str]:
        """The skills of its card that are capabilities."""
        skills = (skill.id for skill in (self.card.skills if self.card is not None else ()))
        usable = [skill for skill in skills if is_skill_name(skill) and self._is_wanted(skill)]
        return list(dict.fromkeys(usable))[:_MAX_SKILLS]

    def _is_wanted(self, skill: str) -> bool:
        return any(fnmatchcase(skill, pattern) for pattern in self.settings.skills)

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """Its own name and its skills, as capabilities."""
        names = dict.fromkeys([self.name, *self.skills])
        return tuple(Capability(name, weight=self.settings.weight) for name in names)

    def describe(self) -> str:
        """Returns a sentence on the card. It has to be read."""
        assert self.card is not None and self._interface is not None
        binding, version = self._interface.protocol_binding, self._interface.protocol_version
        skills = ", ".join(self.skills) or "none"
        return f"{self.settings.a2a} speaks A2A {version} by {binding}; skills: {skills}"
