"""The component that provides the skills of the agents."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.agents.agent import AgentTypes
from meshwright.agents.skills.catalog import COPIES, Skills, skill_patterns, skill_places
from meshwright.agents.skills.settings import SkillsSettings
from meshwright.core.errors import ConfigError, in_one_line, nearest
from meshwright.engine.kernel.timers import Duty
from meshwright.mesh.components import Check, Component
from meshwright.mesh.mesh import Mesh


class SkillsComponent(Component):
    """The skills of the project and of packages, as far as agents have some; read again when they change."""

    name = "skills"
    config: SkillsSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._places = skill_places(mesh.project, self.config)
        agents = mesh.get(AgentTypes)
        self._check_settings([agent.agent_id for agent in agents])
        patterns = {agent.agent_id: skill_patterns(agent, self.config) for agent in agents}
        patterns = {agent_id: names for agent_id, names in patterns.items() if names}
        copies = mesh.project / mesh.settings.data_dir / COPIES
        places = self._places if patterns else []
        self._skills = mesh.provide(Skills(places, copies, patterns, mesh.tell))
        self._is_used = bool(patterns)
        if patterns:
            self.parts.append(Duty(mesh.runtime.clock, self.config.reload_seconds, self._reload))

    def _check_settings(self, agent_ids: list[str]) -> None:
        for agent_id in self.config.agents:
            if agent_id not in agent_ids:
                near = nearest(agent_id, agent_ids)
                remedy = f"Did you mean {near!r}?" if near else f"There are {', '.join(agent_ids)}"
                raise ConfigError(f"skills.agents names {agent_id!r}, which is no agent here", remedy=remedy)

    async def start(self) -> None:
        """Copy the skills that agents have, and look for changes from then on."""
        if self._is_used:
            await self._skills.start()
        await super().start()

    def warnings(self) -> Iterable[str]:
        """The skills that cannot be used."""
        return [in_one_line(problem.message, problem.remedy) for problem in self._skills.problems]

    def checks(self) -> Iterable[Check]:
        """Whether every skill can be used."""
        return [Check("skills", self._check)] if self._places else ()

    async def _check(self) -> str:
        if not self._is_used:
            return "no agent has any: name them in its class, or in [skills.agents]"
        if problems := self._skills.problems:
            raise problems[0]
        titles = self._skills.titles
        return f"{len(titles)}: {', '.join(titles)}"

    async def _reload(self) -> None:
        await self._skills.reload()
