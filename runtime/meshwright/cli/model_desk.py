"""The models of a project, for `mesh models`: what they are, where a call goes, and whether they answer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshwright.agents.loader import load_agents, project_file
from meshwright.agents.tags import warnings_of
from meshwright.context.text import count_tokens
from meshwright.errors import ConfigError
from meshwright.models.config import LiteLLMConfig, read_config
from meshwright.models.overview import explanation, groups_document, probe_all
from meshwright.models.port import Adapter
from meshwright.models.prices import Prices
from meshwright.models.routing import deployment_id
from meshwright.models.select import choose_model
from meshwright.prompts import Prompts
from meshwright.settings import Settings

Document = dict[str, Any]


class ModelDesk:
    """Answers questions about the models of a project. Reads files; calls nobody but where it says so."""

    def __init__(
        self, settings: Settings, project: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.settings = settings
        self.project = project
        self.environment = os.environ if environment is None else environment
        self.path = project_file(project, settings.models.config)

    async def overview(self, health: Mapping[str, Document]) -> Document:
        """Groups, deployments, prices, what each misses, and warnings; asks the server where there is one."""
        model, problem = self._model()
        try:
            server = await self._server(model)
        finally:
            if model is not None:
                await model.close()
        config = server or self._config()
        if config is None:
            groups: list[Document] = []
        else:
            known = None if server else self.environment
            states = _by_group(config, health) if server else health
            groups = groups_document(config, self._prices(config), known, states)
        return {
            "answers": model.name if model else f"nobody: {problem}",
            "file": None if server or config is None else str(config.path),
            "groups": groups,
            "warnings": [] if server or config is None else [str(each) for each in self._warnings(config)],
        }

    def explain(self, group: str, tags: list[str]) -> Document:
        """Where a call of a group with tags goes, by the file. Raises ConfigError, and ModelRefused."""
        return {"file": str(self.path), **explanation(read_config(self.path), self.environment, group, tags)}

    async def test(self, group: str | None) -> list[Document]:
        """Call each usable deployment as agents do. Raises ConfigError where there is none of the group."""
        model, problem = self._model()
        if model is None:
            raise problem or ConfigError("no model answers")
        try:
            server = await self._server(model)
            probed, names = model.alone(group, server.groups if server else ())
            try:
                return await probe_all(probed, names, model.prices(self.settings.ledger.default_price))
            finally:
                await probed.close()
        finally:
            await model.close()

    def _model(self) -> tuple[Adapter | None, ConfigError | None]:
        try:
            return choose_model(
                self.settings, self.path, environment=self.environment, count_tokens=count_tokens
            ), None
        except ConfigError as problem:
            if problem.path and problem.line:  # the file itself is broken: nothing can be said of it
                raise
            return None, problem

    def _config(self) -> LiteLLMConfig | None:
        return read_config(self.path) if self.path.is_file() else None

    def _prices(self, config: LiteLLMConfig) -> Prices:
        return Prices.of(config, self.settings.ledger.default_price, self.environment)

    async def _server(self, model: Adapter | None) -> LiteLLMConfig | None:
        """What the server behind a model is made of, where there is one."""
        found = None if model is None else await model.listed()
        if found is None:
            return None
        return LiteLLMConfig(Path("server"), tuple(found), {"enable_tag_filtering": True}, {}, {})

    def _warnings(self, config: LiteLLMConfig) -> list[ConfigError]:
        prompts = Prompts(project_file(self.project, self.settings.prompts.dir))
        agents = load_agents(project_file(self.project, self.settings.agents.dir), self.project)
        return warnings_of(config, prompts, agents)


def _by_group(config: LiteLLMConfig, health: Mapping[str, Document]) -> dict[str, Document]:
    """The health of a server's deployments, which can only be called by their group."""
    known = {deployment_id(each): health.get(each["model_name"]) for each in config.deployments}
    return {**health, **{name: state for name, state in known.items() if state is not None}}
