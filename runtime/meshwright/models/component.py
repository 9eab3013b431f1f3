"""The component of the model that answers agents."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from meshwright.agents.agent import AgentTypes
from meshwright.agents.component import agents_here, tell_task
from meshwright.agents.context.text import count_tokens
from meshwright.agents.loader import project_file
from meshwright.agents.prompts import PromptSources
from meshwright.agents.run.own_clients import key_warnings
from meshwright.agents.shipped import cache_warnings, find_warnings
from meshwright.core import topics
from meshwright.core.errors import ConfigError, HostError, ModelError
from meshwright.core.events import Event
from meshwright.core.messages import Fault
from meshwright.core.model_events import DeploymentLeftAlone, DeploymentRecovered, ModelRetried
from meshwright.core.money import Price
from meshwright.core.plugins import MODELS, installed
from meshwright.engine.events.inbox import Inbox
from meshwright.engine.events.waits import wake_waiting
from meshwright.mesh.components import Check, Component, call_hook
from meshwright.mesh.mesh import Mesh
from meshwright.models.adapt import AdaptedModel, CallSpans
from meshwright.models.cache import CachedModel, cached, check_redis
from meshwright.models.circuits import (
    COOLED_DOWN,
    MAX_WAIT_SECONDS,
    RECOVERED,
    REFUSED,
    Circuits,
    GuardedServer,
    Retrying,
)
from meshwright.models.last_tests import describe_model
from meshwright.models.overview import Deployments
from meshwright.models.port import (
    POSITIONS,
    Adapter,
    GivenModel,
    Model,
    ModelReply,
    ModelRequest,
    ModelWindow,
    ModelWindows,
    ModelWrapper,
    PriceList,
)
from meshwright.models.prices import price_list
from meshwright.models.providers import convention_name, provider_params
from meshwright.models.reading_on import ReadingOn
from meshwright.models.select import (
    PREFIX,
    AgentModels,
    ConfigurableModel,
    ConfiguredModels,
    adapter_for,
    choose_model,
    with_named_models,
)
from meshwright.models.server import HttpModel
from meshwright.models.settings import ModelsSettings
from meshwright.money.settings import LedgerSettings

_logger = logging.getLogger("meshwright.models")


class ModelsComponent(Component):
    """The model that answers: chosen by the settings, with retries, a cache and the ledger around it."""

    name = "models"
    config: ModelsSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        settings = mesh.settings
        path = self._path = project_file(mesh.project, settings[ModelsSettings].config)
        self.circuits, replacement = Circuits(), mesh.get(GivenModel).model
        self.chosen = self._choose() if replacement is None else adapter_for(replacement)
        is_fixed = replacement is not None or settings[ModelsSettings].adapter == "offline"
        self._configs: AgentModels | None = None
        with suppress(LookupError):  # no component configures the models of agents
            self._configs = None if is_fixed else mesh.get(AgentModels)
        self._models = self._base()
        deployments = Deployments(self.chosen, path, settings[LedgerSettings].default_price, self.circuits)
        self._deployed: Mapping[str | None, str] = {
            name: model for name, (_, model) in deployments.known().items()
        }
        mesh.provide(self._models.price_list, PriceList)
        mesh.provide(self, ModelWindows)
        self.circuits.on_change = self._tell
        mesh.provide(deployments)
        mesh.runtime.listen(topics.MESH, self._learn, (COOLED_DOWN, REFUSED, RECOVERED))
        self._waking: asyncio.Task[None] | None = None

    def model_wrappers(self) -> Iterable[ModelWrapper]:
        """Adapts requests to what models take, answers them from the cache, and retries them.

        Retries and fallbacks are part of one call of the ledger.
        """
        spans = CallSpans(self.mesh.tracing, self._reply_provider)
        # Inside the configured one: forms of requests are remembered by the name that it sets.
        yield ModelWrapper("request", partial(AdaptedModel, spans=spans))
        if self._configs is not None:
            yield ModelWrapper(
                "request", partial(ConfigurableModel, configs=self._configs, models=self._models)
            )
        yield ModelWrapper("cache", self._cached)
        yield ModelWrapper("retry", self._retrying)

    def assemble(self) -> None:
        """Make the one chain for every caller: the wrappers of all components, around what was chosen."""
        offers = reversed(call_hook(self.mesh, lambda component: component.model_wrappers()))
        model = wrapped(self._models, [wrapper for offer in offers for wrapper in offer])
        self._model = self.mesh.provide(model, Model)

    async def start(self) -> None:
        """Try again what was refused before: this process may have been started with another key."""
        if self._is_front:
            for deployment, status in await self.mesh.get(Inbox).refused():
                fields = {"deployment": deployment, "refused": status or 401}
                self._tell(RECOVERED, DeploymentRecovered(**fields, seconds=0.0))

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> None:
        """Empty the cache, which does not know whose answers it has."""
        if isinstance(self._cache, CachedModel):
            await self._cache.clear()

    async def stop(self) -> None:
        """Book what is still to be booked, and close the connections."""
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.gather(self._waking, return_exceptions=True)
        await self._model.close()

    def warnings(self) -> Iterable[str]:
        """Warns about improbable settings, tags without a deployment, and caches that are not there."""
        agents = self.mesh.get(AgentTypes)
        problems = find_warnings(self.chosen.config, self.mesh.get(PromptSources), agents)
        keys = key_warnings(agents_here(self.mesh), os.environ, self._key_variables())
        return [*map(str, problems), *cache_warnings(self.config, agents), *keys]

    def _key_variables(self) -> set[str]:
        """The variables in which the providers of the mesh's deployments have their keys by default."""
        params = (param for model in self._deployed.values() for param in provider_params(model))
        return {variable for param in params if param.name == "api_key" for variable in param.variables}

    def model_window(self, model: str, tags: tuple[str, ...], tenant_id: str, agent_id: str) -> ModelWindow:
        """The window of an agent's model: that of its configuration, else of the one named."""
        configured = None if self._configs is None else self._configs.last_read(tenant_id, agent_id)
        if configured is not None:
            return self._models.prices_for(configured).window(configured.name, ())
        return self._models.price_list.window(model, tags)

    def highest_price(
        self, model: str, tags: tuple[str, ...], tenant_id: str, agent_id: str, prompt_tokens: int
    ) -> Price | None:
        """The highest price of a call: of the model configured for an agent, else of the one named."""
        configured = None if self._configs is None else self._configs.last_read(tenant_id, agent_id)
        if configured is not None:
            request = ModelRequest(messages=(), model=configured.name, user=agent_id)
            return self._models.prices_for(configured).upper_bound(request, prompt_tokens)
        request = ModelRequest(messages=(), model=model, tags=tags, user=agent_id)
        return self._models.price_list.upper_bound(request, prompt_tokens)

    def _base(self) -> ConfiguredModels:
        price = self.mesh.settings[LedgerSettings].default_price
        base: Model = self.chosen
        if self.chosen.kind == "http":
            only = self.chosen.model_name if isinstance(self.chosen, HttpModel) else None
            base = GuardedServer(self.chosen, self.circuits, only=only)
        if self.chosen.kind != "router":  # which waits for places, and falls back, between calls
            base = ReadingOn(base)
        models = ConfiguredModels(base, price_list(self.chosen, price), price, self.circuits)
        if self._configs is not None:
            self._configs.on_read = partial(self._retain, models)
        return models

    def _retrying(self, model: Model) -> Model:
        agents = [agent for agent in agents_here(self.mesh) if agent.num_retries is not None]
        tries = {agent.agent_id: 1 + (agent.num_retries or 0) for agent in agents}
        max_wait = MAX_WAIT_SECONDS if self.mesh.settings[ModelsSettings].park else None
        clock = self.mesh.runtime.clock
        return Retrying(model, clock, on_retry=self._retried, max_wait_seconds=max_wait, tries_of=tries)

    def _cached(self, model: Model) -> Model:
        mesh, folder = self.mesh, self.mesh.database.folder
        self._cache = cached(
            model, mesh.settings, folder, self._path, mesh.runtime.clock, kind=self.chosen.kind
        )
        return self._cache

    def checks(self) -> Iterable[Check]:
        """Which model answers, and whether a cache in Redis can be reached."""
        yield Check("models", self._check)
        if self.config.cache == "redis":
            yield Check("cache", self._check_cache)

    def _reply_provider(self, request: ModelRequest, reply: ModelReply) -> str:
        """The provider of a reply: by its deployment, else by the name of the model, else the adapter."""
        model = self._deployed.get(reply.deployment, reply.model)
        return convention_name(model) or convention_name(request.model) or self.chosen.kind

    async def _check(self) -> str:
        if self.chosen.kind == "offline":
            return self.chosen.name
        return describe_model(self.chosen.name, self.mesh.settings.data_dir)

    async def _check_cache(self) -> str:
        url = self.config.cache_redis_url
        return await check_redis(url.get_secret_value() if url else "")

    def _choose(self) -> Adapter:
        mesh = self.mesh
        adapter = mesh.settings[ModelsSettings].adapter
        plugin = next((plugin for plugin in installed(MODELS) if plugin.name == adapter), None)
        if plugin is not None:
            return adapter_for(plugin.load()(mesh.settings))
        path, circuits = self._path, self.circuits
        owns_file = path == mesh.project / self.config.config
        chosen = choose_model(
            mesh.settings, path, count_tokens=count_tokens, circuits=circuits, owns_file=owns_file
        )
        if adapter == "offline":
            return chosen
        return with_named_models(chosen, agents_here(mesh), path, circuits=circuits)

    @property
    def _is_front(self) -> bool:
        return self.mesh.role.is_front and self.mesh.has_log

    def _tell(self, event_type: str, change: DeploymentLeftAlone | DeploymentRecovered) -> None:
        """Report a deployment; that of an agent's configuration is its tenant's business."""
        name = change.deployment
        tenant = {"tenant_id": name.split("/")[1]} if name.startswith(PREFIX) else {}
        self.mesh.tell(event_type, change, **tenant)

    def _retain(self, models: ConfiguredModels, names: Collection[str]) -> None:
        """Close what configurations no longer name, and its circuits: a key may have changed."""
        models.retain(names)
        self.circuits.close(lambda name: name.startswith(PREFIX) and name not in names)

    def _learn(self, event: Event) -> None:
        """Apply what another worker has reported of a deployment; where it was refused before, wake tasks."""
        recovery = DeploymentRecovered.read(event)
        was_refused = recovery is not None and recovery.refused is not None
        if was_refused and self._is_front and (self._waking is None or self._waking.done()):
            self._waking = asyncio.get_running_loop().create_task(self._wake())
        if event.aggregate_id != self.mesh.aggregate_id:  # its own reports come back to it
            age = (self.mesh.runtime.clock.now() - event.time).total_seconds()
            self.circuits.learn(event.event_type, event.payload, age)

    async def _wake(self) -> None:
        try:
            await wake_waiting(self.mesh.runtime, self.mesh.log, "provider")
        except HostError as error:  # they go on at the end of their pauses
            _logger.warning("Cannot wake the tasks that wait for a provider: %s", error)

    def _retried(self, request: ModelRequest, error: ModelError, delay_seconds: float) -> None:
        context, delay = request.context, round(delay_seconds, 3)
        fault = Fault(type=error.code, message=str(error))
        payload = ModelRetried(error=fault, delay_seconds=delay, step=context.step)
        tell_task(self.mesh, payload, context, request.user)


def wrapped(model: Model, wrappers: Sequence[ModelWrapper]) -> Model:
    """Returns a model in its wrappers; of those at one position, the first is next to the model."""
    for wrapper in wrappers:
        if wrapper.position not in POSITIONS:
            what = f"The chain of models has no position {wrapper.position!r}"
            raise ConfigError(what, remedy=f"Known are {', '.join(POSITIONS)}", field="position")
    # The sort is stable, also in reverse.
    for wrapper in sorted(wrappers, key=lambda wrapper: POSITIONS.index(wrapper.position), reverse=True):
        model = wrapper.wrap(model)
    return model
