"""The model of a mesh that its settings choose, and those that tenants configure while it runs.

    models = ConfiguredModels(others, prices, default_price, circuits)   # below cache, ledger and retries
    model = ConfigurableModel(chain_over(models), configs, models)       # above them

`ConfigurableModel` takes the configuration of an agent and puts its name into the request; `ConfiguredModels`
calls the model of that name. Between the two a call is retried, cached, paid for and recorded as any other,
and a journal above has the request as the agent made it: a configuration that changes meanwhile is no other
step.
"""

from __future__ import annotations

import asyncio
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from meshwright.core.errors import ConfigError
from meshwright.core.money import Price
from meshwright.models.circuits import Circuits
from meshwright.models.config import LiteLLMConfig, names_in, read_config, read_text
from meshwright.models.errors import ModelRefused, Unauthorized
from meshwright.models.named import ModelSettings, NamedModels, NamedPrices, adapter_for
from meshwright.models.offline import OfflineModel, estimate_tokens
from meshwright.models.picker import Picker
from meshwright.models.port import Adapter, Model, ModelReply, ModelRequest, OnDelta, PriceList, Wrapper
from meshwright.models.prices import Prices
from meshwright.models.providers import provider_params
from meshwright.models.routing import missing_of
from meshwright.models.server import AgentKeys, HttpModel
from meshwright.models.settings import ModelsSettings
from meshwright.settings import Settings

_WELL_KNOWN_KEYS = tuple(
    f"{provider}_API_KEY"
    for provider in ("ANTHROPIC", "OPENAI", "GEMINI", "MISTRAL", "GROQ", "DEEPSEEK", "OPENROUTER", "AZURE")
)
_OWN_VALUE = re.compile(
    r"""^[^#\n]*\bapi_(?:key|base)["']?\s*:\s*["']?(?!os\.environ/)[^\s"'#]""", re.MULTILINE
)
"""A key or an address in a file, which needs no variable then."""
_NO_KEY = "neither LITELLM_BASE_URL nor a provider's key is set"
_EVERY = "*"
_KINDS = ("auto", "offline", "http", "router")


def choose_model(
    settings: Settings,
    config_path: Path,
    *,
    environment: Mapping[str, str] | None = None,
    count_tokens: Callable[[str], int] = estimate_tokens,
    circuits: Circuits | None = None,
) -> Adapter:
    """Make the model that the settings name, or that the environment offers (`adapter = "auto"`).

    `config_path` is the litellm_config.yaml of `router`; it need not exist for the other kinds.

    `auto`: `http` where LITELLM_BASE_URL is set, `router` where the configuration has a deployment that can
    be called, else `offline`. Any other adapter is the name of one model, which answers every call; where
    LITELLM_BASE_URL is set and it names no provider, one of that server. The `name` of what is made says
    which, and why; never a key. `count_tokens` is what the offline model reports as usage. Raises
    ConfigError.
    """
    environment = os.environ if environment is None else environment
    kind, why, name = settings[ModelsSettings].adapter, "", settings[ModelsSettings].name
    if kind not in _KINDS:
        if not settings[ModelsSettings].base_url or "/" in kind:
            return _one_model(kind, environment, circuits)
        kind, name = "http", kind
    if kind == "auto":
        kind, why = _offered(settings, config_path, environment)
    if kind == "offline":
        return OfflineModel(count_tokens=count_tokens, why=why)
    if kind == "router":
        return Picker(config_path, environment=environment, circuits=circuits, why=why)
    base_url = settings[ModelsSettings].base_url
    if not base_url:
        problem = 'model = "http" needs the address of a server'
        remedy = "Set LITELLM_BASE_URL, like http://127.0.0.1:4000"
        raise ConfigError(problem, remedy=remedy, field="litellm_base_url")
    key = settings[ModelsSettings].api_key
    return HttpModel(
        base_url,
        key.get_secret_value() if key else None,
        model_name=name,
        why=f"every call is of {name}" if name else "",
        prices_file=config_path,
        agent_keys=None if name else AgentKeys(settings.data_dir),
    )


def _offered(settings: Settings, config_path: Path, environment: Mapping[str, str]) -> tuple[str, str]:
    """The kind that the environment offers, and why. Raises ConfigError for a broken file."""
    if settings[ModelsSettings].base_url:
        return "http", ""
    unused = [name for name in _WELL_KNOWN_KEYS if environment.get(name)]
    if not config_path.exists():
        if unused:
            return "offline", f"{unused[0]} is set, but there is no {config_path.name}"
        return "offline", _NO_KEY
    text = read_text(config_path)
    keys = [name for name in names_in(text) if environment.get(name)]
    needs_none = "ollama" in text and "OLLAMA_API_BASE" not in text
    if not (keys or unused or needs_none or _OWN_VALUE.search(text)):
        return "offline", _NO_KEY
    missing = [missing_of(deployment, environment) for deployment in read_config(config_path).deployments]
    if not all(missing):
        return "router", f"{keys[0]} is set" if keys else f"{config_path.name} has what it needs"
    if keys:
        names = ", ".join(sorted({name for names in missing for name in names}))
        return "offline", f"{keys[0]} is set, but nothing can be called without one of {names}"
    if unused:
        return "offline", f"{unused[0]} is set, but no model of {config_path.name} uses it"
    return "offline", _NO_KEY


def _one_model(name: str, environment: Mapping[str, str], circuits: Circuits | None) -> Picker:
    try:
        model = ModelSettings.from_env(name, environment)
    except ConfigError as error:
        kinds = ", ".join(_KINDS)
        raise ConfigError(
            error.message, remedy=f"{error.remedy}; or write one of {kinds}", field="adapter"
        ) from None
    deployment = {**model.deployment(_EVERY), "model_info": {"id": name}}
    if "timeout_seconds" not in model.model_fields_set:
        del deployment["litellm_params"]["timeout"]  # a call's own holds: a local model may be slow
    aliases = dict.fromkeys(("default", "quality", "fast", name), _EVERY)
    config = LiteLLMConfig.of([deployment], model_group_alias=aliases)
    return Picker(config, environment=environment, circuits=circuits, name=f"model {name}")


# Models of tenants

PREFIX = "agents/"
"""The prefix of the names of configured models; no caller may ask for one."""
_NOT_SECRET = ("api_version",)
"""The parameters of providers that go to any address."""


@dataclass(frozen=True, slots=True)
class AgentModel:
    """The model that a configuration gives an agent's calls.

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
        """Make its picker. Raises ConfigError where a key, an address or a package is missing."""
        config, environment = self._config(), self._environment()
        if names := missing_of(config.deployments[0], environment):
            what = f"Model {self.model!r} needs {', '.join(names)}"
            if "LiteLLM" in what:
                raise ConfigError(what, field="llm_provider")
            elsewhere = "" if self.endpoint else ", or set it in the environment"
            raise ConfigError(what, remedy=f"Give the configuration a key{elsewhere}", field="llm_api_key")
        return Picker(config, environment=environment, circuits=circuits, name=self.name)

    def prices(self, default: Price | None) -> Prices:
        """The prices of its calls, and its window; `default` if unknown."""
        return Prices(self._config(), default, self._environment())

    def _config(self) -> LiteLLMConfig:
        connection = {"api_base": self.endpoint, "api_key": self.api_key}
        params = {name: value for name, value in connection.items() if value is not None}
        deployment = {
            "model_name": self.name,
            "litellm_params": {"model": self.model, "timeout": self.timeout_seconds, **params},
            "model_info": {"id": self.name},
        }
        return LiteLLMConfig.of([deployment])

    def _environment(self) -> Mapping[str, str]:
        """The environment; for an address of its own without secrets."""
        if self.endpoint is None:
            return os.environ
        params = [param for param in provider_params(self.model) if param.name in _NOT_SECRET]
        names = {name for param in params for name in param.variables}
        return {name: os.environ[name] for name in names if name in os.environ}


class AgentModels(ABC):
    """The component that says which models agents are configured to call.

    `on_read` is called after each read with the names of all configured models.
    """

    on_read: Callable[[Collection[str]], None]

    @property
    @abstractmethod
    def is_fresh(self) -> bool:
        """Whether the last read is still valid."""

    @abstractmethod
    async def refresh(self) -> None:
        """Read them again if they may have changed. Raises ModelUnavailable."""

    @abstractmethod
    def model_for(self, request: ModelRequest) -> AgentModel | None:
        """The model of a call, by the last read. Raises Unauthorized for a key that cannot be read."""

    @abstractmethod
    def last_read(self, tenant_id: str, agent_id: str) -> AgentModel | None:
        """The model of an agent, by the last read. Raises Unauthorized."""


class ConfiguredModels(NamedModels):
    """Calls configured models by their names while there are such, and gives all other calls to `others`.

    `price_list` serves both.
    """

    def __init__(
        self, others: Model, prices: PriceList, default_price: Price | None, circuits: Circuits
    ) -> None:
        super().__init__({}, adapter_for(others))
        self.name = others.name
        self.price_list = NamedPrices({}, prices)
        self._default_price = default_price
        self._circuits = circuits
        self._current: set[str] = set()
        self._calls: Counter[str] = Counter()
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def using(self, agent: AgentModel) -> AsyncIterator[None]:
        """Have a configured model for a call. Raises Unauthorized where it cannot be called at all."""
        name = agent.name
        if name not in self._adapters:
            try:
                picker = agent.picker(self._circuits)
            except ConfigError as error:
                raise Unauthorized(error.message, remedy=error.remedy) from None
            self._adapters[name] = picker
            self._current.add(name)
            self.prices_for(agent)
        self._calls[name] += 1
        try:
            yield
        finally:
            self._calls[name] -= 1
            self._tidy()

    def prices_for(self, agent: AgentModel) -> PriceList:
        """The price list of a configured model, made once: each call asks for it."""
        if agent.name not in self.price_list.by_name:
            self.price_list.by_name[agent.name] = agent.prices(self._default_price)
        return self.price_list.by_name[agent.name]

    def retain(self, names: Collection[str]) -> None:
        """Close all others once their calls have ended: they have changed, or are deleted."""
        self._current = {name for name in self._adapters if name in names}
        for name in self.price_list.by_name.keys() - self._adapters.keys() - {*names}:
            del self.price_list.by_name[name]
        self._tidy()

    async def close(self) -> None:
        """Give back connections."""
        self.retain(())
        await asyncio.gather(*self._closing)
        await super().close()

    def _tidy(self) -> None:
        for name in [name for name in self._adapters if not (self._calls[name] or name in self._current)]:
            del self.price_list.by_name[name], self._calls[name]
            task = asyncio.get_running_loop().create_task(self._adapters.pop(name).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


class ConfigurableModel(Wrapper):
    """A model for the mesh's callers: a configuration decides the calls of its agent."""

    def __init__(self, model: Model, configs: AgentModels, models: ConfiguredModels) -> None:
        super().__init__(model)
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


def _as_configured(request: ModelRequest, agent: AgentModel) -> ModelRequest:
    changes: dict[str, Any] = {"model": agent.name}
    if agent.endpoint is not None:
        changes["context"] = replace(request.context, is_own_endpoint=True)
    if request.context.purpose is None:  # compressing a context has numbers of its own
        changes["temperature"] = agent.temperature
        if agent.max_tokens is not None:
            changes["max_tokens"] = agent.max_tokens
    return request.model_copy(update=changes)
