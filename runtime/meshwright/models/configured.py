"""Models that are configured for agents while the mesh runs, beside those of the settings.

    models = ConfiguredModels(others, prices, default_price, circuits)   # below cache, ledger and retries
    model = Configured(chain_over(models), configs, models)              # above them

`Configured` finds what an agent's configuration says and puts its name into the request; `ConfiguredModels`
calls what has that name. Between the two a call is retried, cached, paid for and recorded as any other, and a
journal above knows the request as the agent made it: a configuration that changes meanwhile is no other step.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from meshwright.core.errors import ConfigError
from meshwright.core.money import Price
from meshwright.models.circuits import Circuits
from meshwright.models.config import LiteLLMConfig, with_ids
from meshwright.models.errors import ModelRefused, Unauthorized
from meshwright.models.picker import Picker
from meshwright.models.port import Model, ModelReply, ModelRequest, ModelWindow, OnDelta, PriceList
from meshwright.models.providers import provider_params
from meshwright.models.routing import missing_of

PREFIX = "agents/"
"""How the names of configured models begin; no caller may ask for one."""
_NOT_SECRET = ("api_version",)
"""The parameters of providers that go to any address."""
_WHERE = Path("agent configuration")


@dataclass(frozen=True, slots=True)
class AgentModel:
    """What a configuration says of an agent's calls.

    `name` is its own and changes with it: a cache has no answer of an earlier one. `model` is LiteLLM's whole
    name. Without an `endpoint` the provider's usual address counts; with one, no secret of the environment
    does, so that no key of the mesh goes to an address that a tenant has chosen. `timeout_seconds` bounds one
    attempt.
    """

    name: str
    model: str
    endpoint: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout_seconds: float = 30.0
    temperature: float = 0.7
    max_tokens: int | None = None

    def picker(self, circuits: Circuits | None = None) -> Picker:
        """What calls it. Raises ConfigError where a key, an address or a package is missing."""
        given = {"api_base": self.endpoint, "api_key": self.api_key}
        params = {name: value for name, value in given.items() if value is not None}
        deployment = {
            "model_name": self.name,
            "litellm_params": {"model": self.model, "timeout": self.timeout_seconds, **params},
            "model_info": {"id": self.name},
        }
        config = LiteLLMConfig(
            path=_WHERE,
            deployments=with_ids([deployment]),
            router_settings={},
            litellm_settings={"drop_params": True},  # what a provider does not know is left out
            lines={},
        )
        environment = self._environment()
        if names := missing_of(deployment, environment):
            what = f"Model {self.model!r} needs {', '.join(names)}"
            if "LiteLLM" in what:
                raise ConfigError(what, field="llm_provider")
            elsewhere = "" if self.endpoint else ", or set it in the environment"
            raise ConfigError(what, remedy=f"Give the configuration a key{elsewhere}", field="llm_api_key")
        return Picker(config, environment=environment, circuits=circuits, name=self.name)

    def _environment(self) -> Mapping[str, str]:
        """What counts of the environment: at an address of its own only what is no secret."""
        if self.endpoint is None:
            return os.environ
        params = [param for param in provider_params(self.model) if param.name in _NOT_SECRET]
        names = {name for param in params for name in param.variables}
        return {name: os.environ[name] for name in names if name in os.environ}


class _Configs(Protocol):
    """What knows the configurations of agents."""

    @property
    def is_fresh(self) -> bool:
        """Whether what was read last still counts."""
        ...

    async def refresh(self) -> None:
        """Read again what may have changed. Raises ModelUnavailable."""
        ...

    def model_for(self, request: ModelRequest) -> AgentModel | None:
        """What decides a call, by what was read last. Raises Unauthorized for a key that cannot be read."""
        ...


@dataclass(slots=True)
class _Entry:
    """A configured model that is or was called; `is_current` until its configuration changes."""

    picker: Picker
    prices: PriceList
    calls: int = 0
    is_current: bool = True


class ConfiguredModels:
    """Calls configured models by their names, and gives all other calls to `others`.

    It is the price list of both.
    """

    def __init__(
        self, others: Model, prices: PriceList, default_price: Price | None, circuits: Circuits
    ) -> None:
        self.name = others.name
        self._others = others
        self._prices = prices
        self._default_price = default_price
        self._circuits = circuits
        self._entries: dict[str, _Entry] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def complete(
        self, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> Coroutine[Any, Any, ModelReply]:
        """Make one attempt. Raises ModelError."""
        entry = self._entries.get(request.model)
        return (self._others if entry is None else entry.picker).complete(request, on_delta)

    @asynccontextmanager
    async def using(self, agent: AgentModel) -> AsyncIterator[None]:
        """Have a configured model for a call. Raises Unauthorized where it cannot be called at all."""
        entry = self._entries.get(agent.name)
        if entry is None:
            try:
                picker = agent.picker(self._circuits)
            except ConfigError as error:
                raise Unauthorized(error.message, remedy=error.remedy) from None
            entry = self._entries[agent.name] = _Entry(picker, picker.prices(self._default_price))
        entry.calls += 1
        try:
            yield
        finally:
            entry.calls -= 1
            self._tidy()

    def retain(self, names: Collection[str]) -> None:
        """Close all others once their calls have ended: they have changed, or are deleted."""
        for name, entry in self._entries.items():
            entry.is_current = name in names
        self._tidy()

    async def close(self) -> None:
        """Give back connections."""
        self.retain(())
        await asyncio.gather(*self._closing)
        await self._others.close()

    def _tidy(self) -> None:
        ended = [name for name, entry in self._entries.items() if not (entry.calls or entry.is_current)]
        for name in ended:
            task = asyncio.get_running_loop().create_task(self._entries.pop(name).picker.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    # The price list

    def _prices_of(self, name: str) -> PriceList:
        entry = self._entries.get(name)
        return self._prices if entry is None else entry.prices

    def window(self, model: str, tags: tuple[str, ...]) -> ModelWindow:
        """The smallest window of the deployments that a call is for."""
        return self._prices_of(model).window(model, tags)

    def upper_bound(self, request: ModelRequest, prompt_tokens: int | None = None) -> Price | None:
        """The highest price of all that could answer a request."""
        return self._prices_of(request.model).upper_bound(request, prompt_tokens)

    def of_reply(self, reply: ModelReply, request: ModelRequest) -> Decimal | None:
        """What a reply cost."""
        return self._prices_of(request.model).of_reply(reply, request)


class Configured:
    """A model for the mesh's callers: where one has a configuration, that decides its call."""

    def __init__(self, model: Model, configs: _Configs, models: ConfiguredModels) -> None:
        self.name = model.name
        self.model = model
        self._configs = configs
        self._models = models

    def complete(
        self, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> Coroutine[Any, Any, ModelReply]:
        """Make the call. Raises ModelError."""
        if self._configs.is_fresh and self._configs.model_for(request) is None:
            return self._as_named(request, on_delta)  # no frame of ours lies between most calls and the wire
        return self._configured(request, on_delta)

    def _as_named(self, request: ModelRequest, on_delta: OnDelta | None) -> Coroutine[Any, Any, ModelReply]:
        if request.model.startswith(PREFIX):
            raise ModelRefused(f"There is no model {request.model!r}", field="model")
        return self.model.complete(request, on_delta)

    async def _configured(self, request: ModelRequest, on_delta: OnDelta | None) -> ModelReply:
        await self._configs.refresh()
        agent = self._configs.model_for(request)
        if agent is None:
            return await self._as_named(request, on_delta)
        async with self._models.using(agent):
            return await self.model.complete(_as_configured(request, agent), on_delta)

    async def close(self) -> None:
        """Close the model."""
        await self.model.close()


def _as_configured(request: ModelRequest, agent: AgentModel) -> ModelRequest:
    changes: dict[str, Any] = {"model": agent.name}
    if request.context.purpose is None:  # compressing a context has numbers of its own
        changes["temperature"] = agent.temperature
        if agent.max_tokens is not None:
            changes["max_tokens"] = agent.max_tokens
    return request.model_copy(update=changes)
