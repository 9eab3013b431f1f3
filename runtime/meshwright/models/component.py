"""The component of the model that answers agents."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from meshwright.agent import AgentTypes
from meshwright.agents.binding import start_warnings
from meshwright.agents.component import agents_here, tell_task
from meshwright.agents.loader import project_file
from meshwright.component import Check, Component
from meshwright.context.text import count_tokens
from meshwright.core import topics
from meshwright.core.errors import HostError, MeshError, ModelError
from meshwright.core.messages import Event
from meshwright.core.plugins import MODELS, installed
from meshwright.events.inbox import Inbox
from meshwright.events.waits import wake_waiting
from meshwright.ledger.accounting import Accounted, call_events
from meshwright.ledger.budgets import Budgets
from meshwright.ledger.costs import last_answered
from meshwright.mesh import Mesh
from meshwright.models.adapt import Adapted
from meshwright.models.cache import Cached, cached, check_redis
from meshwright.models.circuits import (
    COOLED_DOWN,
    MAX_WAIT_SECONDS,
    RECOVERED,
    REFUSED,
    Circuits,
    Guarded,
    Retrying,
    recovered,
)
from meshwright.models.overview import Deployments
from meshwright.models.port import Adapter, GivenModel, Model, ModelRequest, ModelWindow, ModelWindows
from meshwright.models.prices import Prices, prices_of
from meshwright.models.select import (
    PREFIX,
    Configured,
    ConfiguredModels,
    adapter_for,
    choose_model,
    with_named_models,
)
from meshwright.models.settings import ModelsSettings
from meshwright.prompts import Prompts
from meshwright.services.agent_config.component import AgentConfigs

_logger = logging.getLogger("meshwright.models")


class ModelsComponent(Component):
    """The model that answers: chosen by the settings, with retries, a cache and the ledger around it."""

    name = "models"
    config: ModelsSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        settings = mesh.settings
        path = project_file(mesh.project, settings.models.config)
        self.circuits, given = Circuits(), mesh.get(GivenModel).model
        self.chosen = self._choose() if given is None else adapter_for(given)
        self._is_fixed = given is not None or settings.models.adapter == "offline"
        self._configs = mesh.get(AgentConfigs)
        self._model = mesh.provide(self._chain(path), Model)
        mesh.provide(self, ModelWindows)
        self.circuits.on_change = self._tell
        mesh.provide(Deployments(self.chosen, path, settings.ledger.default_price, self.circuits))
        mesh.host.listen(topics.MESH, self._learn, (COOLED_DOWN, REFUSED, RECOVERED))
        self._waking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Try again what was refused before: this process may have been started with another key."""
        if self._is_front:
            for deployment, status in await self.mesh.get(Inbox).refused():
                self._tell(RECOVERED, recovered(deployment, status or 401))

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> None:
        """Empty the cache, which does not know whose answers it has."""
        if isinstance(self._cache, Cached):
            await self._cache.clear()

    async def stop(self) -> None:
        """Book what is still to be booked, and close the connections."""
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.gather(self._waking, return_exceptions=True)
        await self._model.close()

    def warnings(self) -> Iterable[str]:
        """Warns about improbable settings in litellm_config.yaml and about tags without a deployment."""
        return start_warnings(self.chosen, self.mesh.get(Prompts), self.mesh.get(AgentTypes))

    def window_of(self, model: str, tags: tuple[str, ...], tenant_id: str, agent_id: str) -> ModelWindow:
        """The window of an agent's model: that of its configuration, else of the one named."""
        configured = None if self._is_fixed else self._configs.last_read(tenant_id, agent_id)
        if configured is not None:
            return _listed_window(configured.model)
        return self._prices.window(model, tags)

    def _chain(self, path: Path) -> Model:
        """The one chain for every caller: adapt, account, cache, retry, then what was chosen.

        Each form that a request is adapted to is a call with a row of its own; an answer from the cache is
        a row that costs nothing; retries and fallbacks are part of one call.
        """
        mesh, settings, clock = self.mesh, self.mesh.settings, self.mesh.host.clock
        is_server = self.chosen.kind == "http"
        guarded = Guarded(self.chosen, self.circuits) if is_server else self.chosen
        price = settings.ledger.default_price
        models = ConfiguredModels(guarded, prices_of(self.chosen, price), price, self.circuits)
        self._prices = models.price_list
        self._configs.on_read = partial(self._retain, models)
        max_wait = MAX_WAIT_SECONDS if settings.models.park else None
        agents = [agent for agent in agents_here(mesh) if agent.num_retries is not None]
        tries = {agent.agent_id: 1 + (agent.num_retries or 0) for agent in agents}
        retrying = Retrying(models, clock, on_retry=self._retried, max_wait_seconds=max_wait, tries_of=tries)
        folder, kind = mesh.database.folder, self.chosen.kind
        cache = self._cache = cached(retrying, settings, folder, path, clock, kind=kind)
        past = partial(mesh.log.view, last_answered) if mesh.has_log else None
        adapted = Adapted(Accounted(cache, mesh.get(Budgets), self._prices, call_events(mesh.host), past))
        return adapted if self._is_fixed else Configured(adapted, self._configs, models)

    def checks(self) -> Iterable[Check]:
        """Which model answers, and whether a cache in Redis can be reached."""
        yield Check("models", self._check)
        if self.config.cache == "redis":
            yield Check("cache", self._check_cache)

    async def _check(self) -> str:
        return f"{self.chosen.name}; mesh models test calls it"

    async def _check_cache(self) -> str:
        url = self.config.cache_redis_url
        return await check_redis(url.get_secret_value() if url else "")

    def _choose(self) -> Adapter:
        mesh = self.mesh
        adapter = mesh.settings.models.adapter
        brought = next((plugin for plugin in installed(MODELS) if plugin.name == adapter), None)
        if brought is not None:
            return adapter_for(brought.load()(mesh.settings))
        path = project_file(mesh.project, mesh.settings.models.config)
        shared = self.circuits
        chosen = choose_model(mesh.settings, path, count_tokens=count_tokens, circuits=shared)
        if mesh.settings.models.adapter == "offline":
            return chosen
        return with_named_models(chosen, agents_here(mesh), path, circuits=shared)

    @property
    def _is_front(self) -> bool:
        return self.mesh.role.is_front and self.mesh.has_log

    def _tell(self, event_type: str, payload: dict[str, Any]) -> None:
        """Report a deployment; that of an agent's configuration is its tenant's business."""
        name = payload["deployment"]
        tenant = {"tenant_id": name.split("/")[1]} if name.startswith(PREFIX) else {}
        self.mesh.tell(event_type, payload, **tenant)

    def _retain(self, models: ConfiguredModels, names: Collection[str]) -> None:
        """Close what configurations no longer name, and its circuits: a key may have changed."""
        models.retain(names)
        self.circuits.close(lambda name: name.startswith(PREFIX) and name not in names)

    def _learn(self, event: Event) -> None:
        """Apply what another worker has reported of a deployment; where it was refused before, wake tasks."""
        was_refused = event.event_type == RECOVERED and "refused" in event.fields
        if was_refused and self._is_front and (self._waking is None or self._waking.done()):
            self._waking = asyncio.get_running_loop().create_task(self._wake())
        if event.aggregate_id != self.mesh.aggregate_id:
            age = (self.mesh.host.clock.now() - event.time).total_seconds()
            self.circuits.learn(event.event_type, event.payload, age)

    async def _wake(self) -> None:
        """Have the tasks that wait for a provider go on."""
        try:
            await wake_waiting(self.mesh.host, self.mesh.log, "provider")
        except HostError as error:  # they go on at the end of their pauses
            _logger.warning("Cannot wake the tasks that wait for a provider: %s", error)

    def _retried(self, request: ModelRequest, error: ModelError, delay_seconds: float) -> None:
        context, delay = request.context, round(delay_seconds, 3)
        payload = {"error": _fault(error), "delay_seconds": delay, "step": context.step}
        tell_task(self.mesh, "model.retried", payload, context, request.user)


def _fault(error: MeshError) -> dict[str, str]:
    return {"type": error.code, "message": str(error)}


def _listed_window(model: str) -> ModelWindow:
    """The window of a model of the price list, which takes 10 ms to read."""
    return Prices(model=model).window(model, ())
