"""Roles: what one worker of a mesh does. Embedded, one worker does everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meshwright.context.service import CONTEXT_SERVICE
from meshwright.errors import ConfigError
from meshwright.events.logger import EventLogger
from meshwright.ledger.keys import LLM_SERVICE
from meshwright.work.protocol import ORCHESTRATOR

FLEET = "mesh"
"""The app that does everything."""
ORCHESTRATION = ORCHESTRATOR.lower()
FRONTS = (FLEET, EventLogger.agent_id)


@dataclass(frozen=True, slots=True)
class Role:
    """Which actors live in a worker, and whether clients talk to it.

    `agents` are the ids of its agents, None for the whole fleet. A front keeps the event log, and serves the
    HTTP API and the MQTT edge; who only offers models serves of that API what calls them.
    """

    orchestrates: bool = False
    compresses: bool = False
    agents: frozenset[str] | None = frozenset()
    is_front: bool = False
    offers_models: bool = False

    @property
    def parts(self) -> list[str]:
        """The parts of the mesh, besides agents, that this worker is."""
        parts = {
            ORCHESTRATION: self.orchestrates,
            EventLogger.agent_id: self.is_front,
            CONTEXT_SERVICE: self.compresses,
        }
        return [name for name, is_one in parts.items() if is_one]

    def employs(self, agent_id: str) -> bool:
        """Whether an agent lives here."""
        return self.agents is None or agent_id in self.agents


EVERYTHING = Role(orchestrates=True, compresses=True, agents=None, is_front=True)
MODELS = Role(agents=frozenset({LLM_SERVICE}), offers_models=True)
"""The agent that calls a model for others, and beside it the same over HTTP."""


def serves_api(app_id: str, *, replica: bool = False) -> bool:
    """Whether that worker holds event log, HTTP API and MQTT edge."""
    return app_id in FRONTS and not replica


def role_of(app_id: str, agent_ids: Sequence[str], *, replica: bool = False) -> Role:
    """What the worker of an app does. Raises ConfigError for an app that the mesh does not have."""
    is_front = serves_api(app_id, replica=replica)
    roles = {
        FLEET: Role(orchestrates=True, compresses=True, agents=None, is_front=is_front),
        ORCHESTRATION: Role(orchestrates=True),
        CONTEXT_SERVICE: Role(compresses=True),
        EventLogger.agent_id: Role(is_front=is_front),
        **{agent_id: Role(agents=frozenset({agent_id})) for agent_id in agent_ids},
        LLM_SERVICE: MODELS,
    }
    if app_id not in roles:
        raise ConfigError(
            f"the mesh has no app {app_id!r}", remedy=f"there are {', '.join(roles)}", field="app"
        )
    return roles[app_id]
