"""RemoteAgent: an agent of the mesh whose work an agent elsewhere does."""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar

from meshwright import Agent, Capability, Run, ToolContext, ToolFailed, tool
from meshwright.core.capability import Registration
from meshwright.parts.remote.errors import RemoteTaskFailed
from meshwright.parts.remote.peer import Peer
from meshwright.parts.remote.settings import RemotePeer
from meshwright.parts.remote.wire import REJECTED
from meshwright.parts.remote.work import RemoteWork

_TOOL = "send_to_peer"


class RemoteAgent(Agent, abstract=True):
    """An agent whose work a peer does that speaks A2A: see docs/remote.md."""

    peer: ClassVar[Peer]
    """The agent elsewhere."""
    remembers = False

    async def run(self, run: Run) -> dict[str, Any]:
        """Have the task done by the peer."""
        end = await run.call(_TOOL, text=run.task.text)
        end = json.loads(end) if isinstance(end, str) else end  # as a long result comes
        if "result" in end:
            return dict(end["result"])
        if end["state"] == REJECTED:
            raise ToolFailed(f"{self.agent_id} declined: {end['words']}")
        how = "was cancelled there" if end["state"] == "TASK_STATE_CANCELED" else "failed"
        raise RemoteTaskFailed(f"The task of {self.agent_id} {how}: {end['words']}")

    @tool(name=_TOOL, idempotent=True, origin="outside", timeout=math.inf)
    async def send_to_peer(self, text: str, context: ToolContext) -> dict[str, Any]:
        """Give the task to the agent elsewhere.

        Args:
            text: the words of the task; its other fields go beside them
        """
        return await RemoteWork(self.peer, context).finish(text)

    @classmethod
    def registration(cls) -> Registration:
        """How the agent makes itself known: with the skills of its card, and why it cannot take tasks now."""
        registration, peer = super().registration(), cls.peer
        metadata = {**registration.metadata, "a2a": peer.settings.a2a}
        if peer.card is not None and peer.card.description:
            metadata["description"] = peer.client.words(peer.card.description)
        unmet = {capability.name: peer.problem for capability in peer.capabilities if peer.problem}
        return registration.model_copy(
            update={"capabilities": peer.capabilities, "metadata": metadata, "unmet": unmet}
        )


def make_agent(name: str, settings: RemotePeer) -> type[Agent]:
    """Make the agent of a table."""
    fields = {
        "__doc__": f"Gives a task to {name}, an agent elsewhere.",
        "__module__": __name__,
        "agent_id": name,
        "capabilities": (Capability(name, weight=settings.weight),),
        "peer": Peer(name, settings),
    }
    return type(f"Remote{name.title()}", (RemoteAgent,), fields)
