"""The component of coding agents: the agents that its tables make, and whether their programs can be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from meshwright import Agent, Capability
from meshwright.component import Component, Settings
from meshwright.core.errors import in_one_line
from meshwright.kit import BoundAgents, ConfigError
from meshwright.mesh.components import Check
from meshwright.parts.coding.settings import CodingProgram, CodingSettings
from meshwright.tools import Sandbox

_CHECK_SECONDS = 70.0  # programs of Node and Python take many seconds to begin a session

if TYPE_CHECKING:
    from meshwright import CodingAgent


class CodingComponent(Component):
    """Gives the coding agents of a mesh the tables of [coding]."""

    name = "coding"
    config: CodingSettings

    @classmethod
    def agents(cls, settings: Settings) -> Iterable[type[Agent]]:
        """An agent for each table with capabilities."""
        tables: CodingSettings = settings.table("coding")
        return [_agent(name, table) for name, table in tables.items() if table.capabilities]

    def assemble(self) -> None:
        """Give the agents of this process their programs."""
        for agent in self._coding_agents():
            agent.programs = self.config

    def warnings(self) -> Iterable[str]:
        """The agents whose table is not there."""
        for agent in self._coding_agents():
            try:
                agent.table_name()
            except ConfigError as error:
                yield in_one_line(error.message, error.remedy)

    def _coding_agents(self) -> Iterator[CodingAgent]:
        if not self.config:
            return
        from meshwright import CodingAgent

        for bound in self.mesh.get(BoundAgents).values():
            if isinstance(bound.agent, CodingAgent):
                yield bound.agent

    def checks(self) -> Iterable[Check]:
        """Whether each program is there, and speaks its protocol."""
        return [
            Check(f"coding.{name}", partial(self._check, name, table), _CHECK_SECONDS)
            for name, table in self.config.items()
        ]

    async def _check(self, name: str, table: CodingProgram) -> str:
        from meshwright.parts.coding.doctor import version_in_box

        return await version_in_box(name, table, self.mesh.get(Sandbox))


def _agent(name: str, table: CodingProgram) -> type[Agent]:
    from meshwright import CodingAgent

    fields = {
        "__doc__": f"Has changes of code done by {name}, a coding agent.",
        "__module__": __name__,
        "agent_id": name,
        "coder": name,
        "capabilities": tuple(Capability(capability) for capability in table.capabilities),
        "prompt_text": "A coding agent does the work; this prompt names its model and its tags.",
    }
    return type(f"Coding{name.title()}", (CodingAgent,), fields)
