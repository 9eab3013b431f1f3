"""Agent cards: the mesh as one agent whose skills are its capabilities, and each agent by itself."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from meshwright.component import InvalidInput, Mesh, NotFound
from meshwright.core import __version__
from meshwright.core.capability import AgentInfo
from meshwright.kit import Registry
from meshwright.parts.a2a.settings import A2aSettings
from meshwright.parts.a2a.signatures import CardSigner

PATH = "/a2a"
SKILL_ID = "skillId"
"""The key in the metadata of a message that names its skill."""
INPUT_SCHEMAS = "urn:meshwright:a2a:input-schemas"
"""The extension of a card that has the JSON schemas of skills that take data, by their ids."""
IDEMPOTENT = "urn:meshwright:a2a:idempotent-messages"
"""The extension of a card that says: a message that is sent again is the same task, or the same answer."""
_BINDINGS = ("JSONRPC", "HTTP+JSON")
_TEXT_MODES = ["text/plain", "application/json"]
_FILE_MODES = ["application/pdf", "image/jpeg", "image/png"]


class Directory:
    """The agents that A2A reaches, and their skills."""

    def __init__(self, mesh: Mesh, settings: A2aSettings) -> None:
        self.settings = settings
        self._signer = CardSigner(mesh.database.folder)
        self._registered = [agent for agent in mesh.get(Registry).agents() if agent.kind != "system"]
        self._agents = {agent.agent_id: agent for agent in self._registered if self._reaches(agent)}

    def _reaches(self, agent: AgentInfo) -> bool:
        return any(fnmatchcase(agent.agent_id, pattern) for pattern in self.settings.agents)

    def find(self, agent_id: str) -> AgentInfo:
        """Returns an agent. Raises NotFound."""
        if (agent := self._agents.get(agent_id)) is None:
            raise NotFound(f"There is no agent {agent_id!r} for A2A", field="agent_id")
        return agent

    def target(self, agent_id: str, skill: str) -> dict[str, Any]:
        """Returns the fields of a task's request that say who gets it.

        `agent_id` is the agent at whose address the message came, `skill` the one that it names; both may be
        empty. Raises NotFound, and InvalidInput for a message that names no skill where it has to.
        """
        agents = [self.find(agent_id)] if agent_id else [*self._agents.values()]
        if skill:
            able = [agent for agent in agents if agent.capability(skill)]
            if not able:
                skills = ", ".join(sorted({item.name for agent in agents for item in agent.capabilities}))
                raise NotFound(
                    f"There is no skill {skill!r}", remedy=f"Known are {skills or 'none'}", field=SKILL_ID
                )
            others = [agent for agent in self._registered if agent.capability(skill)]
            if len(able) < len(others):  # the best one may be out of reach
                return {"agent_id": able[0].agent_id, "capability": skill}
            return {"capability": skill}
        if self.settings.default_agent and not agent_id:
            return {"agent_id": self.find(self.settings.default_agent).agent_id}
        if len(agents) == 1:
            return {"agent_id": agents[0].agent_id}
        raise InvalidInput(
            "The message names no skill, and there are several agents",
            remedy=f'Send it to {PATH}/agents/ID, add "metadata": {{"{SKILL_ID}": "..."}}, or set '
            "default_agent in [a2a]",
            field=SKILL_ID,
        )

    def card(self, base_url: str, agent_id: str, *, is_extended: bool) -> dict[str, Any]:
        """Returns the signed card of the mesh, or of an agent, of the mesh at `base_url`. Raises NotFound.

        The extended one has the schemas of skills.
        """
        card = self._describe_card(base_url, agent_id, is_extended=is_extended)
        return self._signer.sign(card, base_url)

    def _describe_card(self, base_url: str, agent_id: str, *, is_extended: bool) -> dict[str, Any]:
        if agent_id:
            agent = self.find(agent_id)
            name, description, agents = agent.name, _describe(agent), [agent]
        else:
            name, agents = "Meshwright", [*self._agents.values()]
            description = f"A mesh of agents: {', '.join(self._agents) or 'none'}"
        skills, schemas = dict[str, dict[str, Any]](), dict[str, Any]()
        for agent in agents:
            for capability in agent.capabilities:
                skill = skills.setdefault(
                    capability.name,
                    {
                        "id": capability.name,
                        "name": capability.name.replace("-", " "),
                        "description": _describe(agent),
                        "tags": [],
                    },
                )
                skill["tags"].append(agent.agent_id)
                if capability.input_schema:
                    skill["inputModes"] = ["application/json"]
                    schemas.setdefault(capability.name, capability.input_schema)
        url = f"{base_url}{PATH}" + (f"/agents/{agent_id}" if agent_id else "")
        extensions: list[dict[str, Any]] = [
            {
                "uri": IDEMPOTENT,
                "description": "A message that is sent again is the same task, or the same answer",
            }
        ]
        if is_extended and schemas:
            description = "The JSON schemas of skills that take data, by their ids"
            extensions.append({"uri": INPUT_SCHEMAS, "description": description, "params": schemas})
        return {
            "name": name,
            "description": description,
            "version": __version__,
            "supportedInterfaces": [
                {"url": url, "protocolBinding": binding, "protocolVersion": "1.0"} for binding in _BINDINGS
            ],
            "capabilities": {
                "streaming": True,
                "pushNotifications": self.settings.push,
                "extendedAgentCard": True,
                "extensions": extensions,
            },
            "securitySchemes": {"bearer": {"httpAuthSecurityScheme": {"scheme": "Bearer"}}},
            "defaultInputModes": [*_TEXT_MODES, *_FILE_MODES],
            "defaultOutputModes": _TEXT_MODES,
            "skills": [*skills.values()],
        }


def _describe(agent: AgentInfo) -> str:
    return str(agent.metadata.get("description") or f"Gives a task to {agent.name}.")
