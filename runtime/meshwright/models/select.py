"""The models of a mesh: the one that its settings choose, and beside it those of agents and of tenants.

    model = with_named_models(choose_model(settings, path), agents, path)
    models = ConfiguredModels(model, prices, default_price, circuits)   # below cache, ledger and retries
    model = ConfigurableModel(chain_over(models), configs, models)      # above them

`ConfigurableModel` takes the configuration of an agent and puts its name into the request; `ConfiguredModels`
calls the model of that name. Between the two a call is retried, cached, paid for and recorded as any other,
and a journal above has the request as the agent made it: a changed configuration is no other step.
"""

from __future__ import annotations

import asyncio
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from msgspec.structs import replace

from meshwright.core.errors import ConfigError
from meshwright.core.money import Price
from meshwright.core.settings import Settings
from meshwright.models.circuits import Circuits
from meshwright.models.config import LiteLLMConfig, names_in, read_config, read_text
from meshwright.models.errors import ModelRefused, Unauthorized
from meshwright.models.named_models import Chain, ModelSettings, ModelSpec, named_models, with_fallbacks
from meshwright.models.offline_model import OfflineModel, estimate_tokens
from meshwright.models.picker import Picker
from meshwright.models.port import Adapter, Model, ModelReply, ModelRequest, OnDelta, PriceList, Wrapper
from meshwright.models.prices import NamedPrices, Prices, price_list
from meshwright.models.providers import OFFLINE, provider_params
from meshwright.models.routing import missing_variables
from meshwright.models.server import AgentKeys, HttpModel
from meshwright.models.settings import ModelsSettings

_WITH_KEYS = ("ANTHROPIC", "OPENAI", "GEMINI", "MISTRAL", "GROQ", "DEEPSEEK", "OPENROUTER", "AZURE")
_OWN_VALUE = re.compile(
    r"""^[^#\n]*\bapi_(?:key|base)["']?\s*:\s*["']?(?!os\.environ/)[^\s"'#]""", re.MULTILINE
)
"""A key or an address in a file, which needs no variable then."""
_NO_KEY = "neither LITELLM_BASE_URL nor a provider's key is set"
_EVERY = "*"  # the group of a model that answers every call
_KINDS = ("auto", "offline", "http", "router")

# The model of the settings


def choose_model(
    settings: Settings,
    config_path: Path,
    *,
    environment: Mapping[str, str] | None = None,
    count_tokens: Callable[[str], int] = estimate_tokens,
    circuits: Circuits | None = None,
    owns_file: bool = True,
) -> Adapter:
    """Make the model that the settings name, or that the environment offers (`adapter = "auto"`).

    `config_path` is the litellm_config.yaml of `router`; it need not exist for the other kinds. `owns_file`:
    it is the project's, so that a server may share it.

    `auto`: `http` where LITELLM_BASE_URL is set, `router` where the configuration has a deployment that can
    be called, else `offline`. Any other adapter is the name of one model, which answers every call; where
    LITELLM_BASE_URL is set and it names no provider, one of that server. The `name` of what is made says
    which, and why; never a key. `count_tokens` counts the usage of the offline model. Raises ConfigError.
    """
    environment = os.environ if environment is None else environment
    options = settings[ModelsSettings]
    kind, why, name = options.adapter, "", options.name
    if kind not in _KINDS:
        if not options.base_url or "/" in kind:
            return _one_model(kind, environment, circuits)
        kind, name = "http", kind
    if kind == "auto":
        kind, why = _offered(options.base_url, config_path, environment)
    if kind == "offline":
        return OfflineModel(count_tokens=count_tokens, why=why)
    if kind == "router":
        return Picker(config_path, environment=environment, circuits=circuits, why=why)
    if not options.base_url:
        problem = 'model = "http" needs the address of a server'
        remedy = "Set LITELLM_BASE_URL, like http://127.0.0.1:4000"
        raise ConfigError(problem, remedy=remedy, field="litellm_base_url")
    return HttpModel(
        options.base_url,
        options.api_key.get_secret_value() if options.api_key else None,
        model_name=name,
        why=f"every call is of {name}" if name else "",
        prices_file=config_path,
        owns_file=owns_file,
        agent_keys=None if name else AgentKeys(settings.data_dir),
        headers={name: value.get_secret_value() for name, value in options.headers.items()},
    )


def _offered(base_url: str | None, config_path: Path, environment: Mapping[str, str]) -> tuple[str, str]:
    """The kind that the environment offers, and why. Raises ConfigError for a broken file."""
    if base_url:
        return "http", ""
    unused = [name for provider in _WITH_KEYS if environment.get(name := f"{provider}_API_KEY")]
    if not config_path.exists():
        return "offline", f"{unused[0]} is set, but there is no {config_path.name}" if unused else _NO_KEY
    text = read_text(config_path)
    keys = [name for name in names_in(text) if environment.get(name)]
    needs_none = "ollama" in text and "OLLAMA_API_BASE" not in text
    if not (keys or unused or needs_none or _OWN_VALUE.search(text)):
        return "offline", _NO_KEY  # without reading it: a broken file that nobody uses is no error
    missing = [
        missing_variables(deployment, environment) for deployment in read_config(config_path).deployments
    ]
    if not all(missing):
        return "router", f"{keys[0]} is set" if keys else f"{config_path.name} has what it needs"
    if keys:
        names = ", ".join(sorted({name for names in missing for name in names}))
        return "offline", f"{keys[0]} is set, but nothing can be called without one of {names}"
    return "offline", f"{unused[0]} is set, but no model of {config_path.name} uses it" if unused else _NO_KEY


def _one_model(name: str, environment: Mapping[str, str], circuits: Circuits | None) -> Picker:
    try:
        model = ModelSettings.from_env(name, environment)
    except ConfigError as error:
        remedy = f"{error.remedy}; or write one of {', '.join(_KINDS)}"
        raise ConfigError(error.message, remedy=remedy, field="adapter") from None
    deployment = {**model.deployment(_EVERY), "model_info": {"id": name}}
    if "timeout_seconds" not in model.model_fields_set:
        del deployment["litellm_params"]["timeout"]  # a call's own holds: a local model may be slow
    aliases = dict.fromkeys(("default", "quality", "fast", name), _EVERY)
    config = LiteLLMConfig.from_deployments([deployment], model_group_alias=aliases)
    return Picker(config, environment=environment, circuits=circuits, name=f"model {name}")


# Models of agents


class NamedModels(Adapter):
    """Gives each request to the adapter of its name, and every other name to `others`."""

    def __init__(self, adapters: Mapping[str, Adapter], others: Adapter) -> None:
        self._adapters = dict(adapters)
        self._others = others
        self.name = f"{others.name}; by name {', '.join(adapters)}"
        self.kind = others.kind
        self.config = others.config
        self.groups = others.groups  # an agent's model is its own
        self.listed = others.listed

    def complete(
        self, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> Coroutine[Any, Any, ModelReply]:
        """Make one attempt. Raises ModelError."""
        return self._adapters.get(request.model, self._others).complete(request, on_delta)

    def alone(self, group: str | None, names: Collection[str]) -> dict[str, Model]:
        """The deployments of the adapter that has the group, or of all adapters."""
        if group is not None:
            return self._adapters.get(group, self._others).alone(group, names)
        models = dict(self._others.alone(None, names))
        for adapter in dict.fromkeys(self._adapters.values()):
            models |= adapter.alone(None, ())
        return models

    async def close(self) -> None:
        """Close each adapter once: several names may have one."""
        for adapter in dict.fromkeys((*self._adapters.values(), self._others)):
            await adapter.close()

    def prices(self, default: Price | None) -> PriceList:
        """Each adapter's own."""
        by_name = {name: price_list(adapter, default) for name, adapter in self._adapters.items()}
        return NamedPrices(by_name, price_list(self._others, default))


def adapter_for(model: Model) -> Adapter:
    """A model as an adapter: itself where it is one."""
    return model if isinstance(model, Adapter) else Adapter(model)


class ModelChoice(Protocol):
    """An agent class, which may name its model. No `model` leaves it to the prompt."""

    agent_id: str
    model: str
    fallbacks: Sequence[str]
    model_specs: Sequence[ModelSpec]


def with_named_models(
    others: Adapter,
    agents: Iterable[ModelChoice],
    config_path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    circuits: Circuits | None = None,
) -> Adapter:
    """The mesh's adapter, and beside it the models that agents name and that are no groups of its file.

    A server gets every name as it stands, but for models that agents bring a connection for. The file need
    not exist. Raises ConfigError, naming the agent, where a model cannot be called.
    """
    own = others.groups()
    choices = _by_model(agents)
    if own is None:
        choices = {name: agent for name, agent in choices.items() if _is_beside_server(agent)}
        own = frozenset()
    elif others.config is None:  # the built-in model answers for the groups of a file whose keys are not set
        own = frozenset({"default"})
        if config_path and config_path.is_file():
            own = read_config(config_path).groups
    adapters: dict[str, Adapter] = {}
    chains: list[Chain] = []
    for name, agent in choices.items():
        if name in own or name == OFFLINE:
            _require_plain(agent)
            adapters |= {} if name in own else {OFFLINE: OfflineModel()}
            continue
        try:
            primary, *fallbacks = _model_specs(agent)
            chains.append(with_fallbacks(primary, fallbacks, environment=environment))
        except ConfigError as error:
            problem = f"agent {agent.agent_id}: {error.message}"
            raise ConfigError(problem, remedy=error.remedy, field=error.field) from None
    if chains:
        picker = named_models(chains, environment=environment, circuits=circuits)
        adapters |= {chain.primary.name: picker for chain in chains}
    return NamedModels(adapters, others) if adapters else others


def _model_specs(agent: ModelChoice) -> list[ModelSpec]:
    specs = [ModelSpec.parse(spec) for spec in agent.model_specs]
    return specs or [ModelSpec(name) for name in (agent.model, *agent.fallbacks)]


def _by_model(agents: Iterable[ModelChoice]) -> dict[str, ModelChoice]:
    """The first agent of each model; all others must give it the same connection and fallbacks."""
    choices: dict[str, ModelChoice] = {}
    for agent in (agent for agent in agents if agent.model):
        other = choices.setdefault(agent.model, agent)
        if _model_specs(other) != _model_specs(agent):
            agents_and_model = f"agents {other.agent_id} and {agent.agent_id} give model {agent.model!r}"
            remedy = "Give both the same, or make a group of each in litellm_config.yaml"
            problem = f"{agents_and_model} different fallbacks, keys or timeouts"
            raise ConfigError(problem, remedy=remedy, field="fallbacks")
    return choices


def _is_beside_server(agent: ModelChoice) -> bool:
    """Whether an agent brings a connection of its own for a model."""
    specs = _model_specs(agent)
    if any(spec.params for spec in specs):
        return True
    if specs[0].timeout is not None:
        problem = f"agent {agent.agent_id} gives a timeout to {agent.model!r}, which LITELLM_BASE_URL answers"
        remedy = "Set the timeout at that server, and leave it out here"
        raise ConfigError(problem, remedy=remedy, field="timeout")
    return False


def _require_plain(agent: ModelChoice) -> None:
    spec = _model_specs(agent)[0]
    if not agent.fallbacks and not spec.params and spec.timeout is None:
        return
    field, addition, place = "fallbacks", "fallbacks", "router_settings.fallbacks"
    if not agent.fallbacks:
        field, addition = "model", "a key, an address or a timeout"
        place = "the litellm_params of its deployments"
    problem = f"agent {agent.agent_id} gives {addition} to {agent.model!r}, which is a group"
    raise ConfigError(problem, remedy=f"Write that under {place} in litellm_config.yaml", field=field)


# Models of tenants

PREFIX = "agents/"
"""The prefix of the names of configured models; no caller may ask for one."""


@dataclass(frozen=True, slots=True)
class AgentModel:
    """The model that a configuration gives an agent's calls.

    `name` is its own and changes with it: a cache has no answer of an earlier one. `model` is LiteLLM's whole
    name. Without an `endpoint` the provider's usual address counts; with one, no secret of the environment
    does: no key of the mesh goes to an address that a tenant chose. `timeout_seconds` bounds one attempt.
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
        if names := missing_variables(config.deployments[0], environment):
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
        params |= {"model": self.model, "timeout": self.timeout_seconds}
        deployment = {"model_name": self.name, "litellm_params": params, "model_info": {"id": self.name}}
        return LiteLLMConfig.from_deployments([deployment])

    def _environment(self) -> Mapping[str, str]:
        """The environment; for an address of its own without secrets."""
        if self.endpoint is None:
            return os.environ
        version = [param for param in provider_params(self.model) if param.name == "api_version"]  # no secret
        names = {name for param in version for name in param.variables}
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
    """Calls configured models by their names, and gives all others to `others`; `price_list` serves both."""

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
        # A price list without an adapter was asked for without a call, such as for a window.
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
        changes: dict[str, Any] = {"model": agent.name}
        if agent.endpoint is not None:
            changes["context"] = replace(request.context, is_own_endpoint=True)
        if request.context.purpose is None:  # compressing a context has numbers of its own
            changes["temperature"] = agent.temperature
            if agent.max_tokens is not None:
                changes["max_tokens"] = agent.max_tokens
        async with self._models.using(agent):
            return await self.model.complete(request.model_copy(update=changes), on_delta)
