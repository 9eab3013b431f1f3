"""The model behind each call: chosen by the settings, named by an agent, or configured while the mesh runs.

    models = ConfiguredModels(others, prices, default_price, circuits)   # below cache, ledger and retries
    model = Configured(chain_over(models), configs, models)              # above them

`Configured` finds the configuration of an agent and puts its name into the request; `ConfiguredModels` calls
the model of that name. Between the two a call is retried, cached, paid for and recorded as any other, and a
journal above knows the request as the agent made it: a configuration that changes meanwhile is no other step.
"""

from __future__ import annotations

import asyncio
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from meshwright.core.errors import ConfigError
from meshwright.core.money import Price
from meshwright.models.circuits import Circuits
from meshwright.models.config import LiteLLMConfig, names_in, read_config, read_text
from meshwright.models.errors import ModelRefused, Unauthorized
from meshwright.models.named import (
    AgentModel,
    Chain,
    ModelChoice,
    ModelSettings,
    named_models,
    specs_of,
    with_fallbacks,
)
from meshwright.models.offline import OfflineModel, estimate_tokens
from meshwright.models.picker import Picker
from meshwright.models.port import (
    Adapter,
    Model,
    ModelReply,
    ModelRequest,
    ModelWindow,
    OnDelta,
    PriceList,
    Wrapper,
)
from meshwright.models.prices import prices_of
from meshwright.models.providers import OFFLINE
from meshwright.models.routing import missing_of
from meshwright.models.server import AgentKeys, HttpModel
from meshwright.models.settings import ModelsSettings
from meshwright.settings import Settings

PREFIX = "agents/"
"""The prefix of the names of configured models; no caller may ask for one."""
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
    known = os.environ if environment is None else environment
    kind, why, name = settings[ModelsSettings].adapter, "", settings[ModelsSettings].name
    if kind not in _KINDS:
        if not settings[ModelsSettings].base_url or "/" in kind:
            return _one_model(kind, known, circuits)
        kind, name = "http", kind
    if kind == "auto":
        kind, why = _offered(settings, config_path, known)
    if kind == "offline":
        return OfflineModel(count_tokens=count_tokens, why=why)
    if kind == "router":
        return Picker(config_path, environment=known, circuits=circuits, why=why)
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


# By name


class NamedModels(Adapter):
    """Gives each request to the adapter of its name, and every other name to `others`."""

    def __init__(self, named: Mapping[str, Adapter], others: Adapter) -> None:
        self._named = dict(named)
        self._others = others
        self.name = f"{others.name}; by name {', '.join(named)}"
        self.kind = others.kind
        self.config = others.config
        self.groups = others.groups  # an agent's model is its own
        self.listed = others.listed

    def complete(
        self, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> Coroutine[Any, Any, ModelReply]:
        """Make one attempt. Raises ModelError."""
        return self._named.get(request.model, self._others).complete(request, on_delta)

    def alone(self, group: str | None, names: Collection[str]) -> dict[str, Model]:
        """Those of all adapters, and of the one that has the group."""
        if group is not None:
            return self._named.get(group, self._others).alone(group, names)
        models = dict(self._others.alone(None, names))
        for adapter in dict.fromkeys(self._named.values()):
            models |= adapter.alone(None, ())
        return models

    async def close(self) -> None:
        """Close each adapter once."""
        for adapter in dict.fromkeys((*self._named.values(), self._others)):
            await adapter.close()

    def prices(self, default: Price | None) -> PriceList:
        """Each adapter's own."""
        named = {name: prices_of(adapter, default) for name, adapter in self._named.items()}
        return _NamedPrices(named, prices_of(self._others, default))


class _NamedPrices(NamedTuple):
    """The price list of each name, and that of all others."""

    named: dict[str, PriceList]
    others: PriceList

    def window(self, model: str, tags: tuple[str, ...]) -> ModelWindow:
        return self.named.get(model, self.others).window(model, tags)

    def upper_bound(self, request: ModelRequest, prompt_tokens: int | None = None) -> Price | None:
        return self.named.get(request.model, self.others).upper_bound(request, prompt_tokens)

    def of_reply(self, reply: ModelReply, request: ModelRequest) -> Decimal | None:
        return self.named.get(request.model, self.others).of_reply(reply, request)


def adapter_for(model: Model) -> Adapter:
    """A model as an adapter: itself where it is one."""
    return model if isinstance(model, Adapter) else Adapter(model)


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
    wanted = _wanted(agents)
    if own is None:
        wanted, own = {name: agent for name, agent in wanted.items() if _is_beside_server(agent)}, frozenset()
    elif others.config is None:  # the built-in model answers for the groups of a file whose keys are not set
        read = config_path is not None and config_path.is_file()
        own = read_config(config_path).groups if read and config_path else frozenset({"default"})
    named: dict[str, Adapter] = {}
    chains: list[Chain] = []
    for name, agent in wanted.items():
        if name not in own and name != OFFLINE:
            chains.append(_chain_of(agent, environment))
            continue
        if name not in own:
            named[OFFLINE] = OfflineModel()
        _require_plain(agent)
    if chains:
        picker = named_models(chains, environment=environment, circuits=circuits)
        named |= {chain.primary.name: picker for chain in chains}
    return NamedModels(named, others) if named else others


def _wanted(agents: Iterable[ModelChoice]) -> dict[str, ModelChoice]:
    """The first agent of each model; all others must give it the same connection and fallbacks."""
    wanted: dict[str, ModelChoice] = {}
    for agent in (agent for agent in agents if agent.model):
        other = wanted.setdefault(agent.model, agent)
        if specs_of(other) != specs_of(agent):
            raise ConfigError(
                f"agents {other.agent_id} and {agent.agent_id} give model {agent.model!r} "
                "different fallbacks, keys or timeouts",
                remedy="Give both the same, or make a group of each in litellm_config.yaml",
                field="fallbacks",
            )
    return wanted


def _is_beside_server(agent: ModelChoice) -> bool:
    """Whether an agent brings a connection of its own for a model."""
    specs = specs_of(agent)
    if any(spec.params for spec in specs):
        return True
    if specs[0].timeout is not None:
        problem = f"agent {agent.agent_id} gives a timeout to {agent.model!r}, which LITELLM_BASE_URL answers"
        remedy = "Set the timeout at that server, and leave it out here"
        raise ConfigError(problem, remedy=remedy, field="timeout")
    return False


def _require_plain(agent: ModelChoice) -> None:
    spec = specs_of(agent)[0]
    if agent.fallbacks:
        field, given, place = "fallbacks", "fallbacks", "router_settings.fallbacks"
    elif spec.params or spec.timeout is not None:
        field, given = "model", "a key, an address or a timeout"
        place = "the litellm_params of its deployments"
    else:
        return
    problem = f"agent {agent.agent_id} gives {given} to {agent.model!r}, which is a group"
    raise ConfigError(problem, remedy=f"Write that under {place} in litellm_config.yaml", field=field)


def _chain_of(agent: ModelChoice, environment: Mapping[str, str] | None) -> Chain:
    try:
        primary, *others = specs_of(agent)
        return with_fallbacks(primary, others, environment=environment)
    except ConfigError as error:
        raise ConfigError(
            f"agent {agent.agent_id}: {error.message}", remedy=error.remedy, field=error.field
        ) from None


# By configuration


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

    `price_list` is that of both.
    """

    def __init__(
        self, others: Model, prices: PriceList, default_price: Price | None, circuits: Circuits
    ) -> None:
        super().__init__({}, adapter_for(others))
        self.name = others.name
        self.price_list = _NamedPrices({}, prices)
        self._default_price = default_price
        self._circuits = circuits
        self._current: set[str] = set()
        self._calls: Counter[str] = Counter()
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def using(self, agent: AgentModel) -> AsyncIterator[None]:
        """Have a configured model for a call. Raises Unauthorized where it cannot be called at all."""
        name = agent.name
        if name not in self._named:
            try:
                picker = agent.picker(self._circuits)
            except ConfigError as error:
                raise Unauthorized(error.message, remedy=error.remedy) from None
            self._named[name] = picker
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
        if agent.name not in self.price_list.named:
            self.price_list.named[agent.name] = agent.prices(self._default_price)
        return self.price_list.named[agent.name]

    def retain(self, names: Collection[str]) -> None:
        """Close all others once their calls have ended: they have changed, or are deleted."""
        self._current = {name for name in self._named if name in names}
        for name in self.price_list.named.keys() - self._named.keys() - {*names}:
            del self.price_list.named[name]
        self._tidy()

    async def close(self) -> None:
        """Give back connections."""
        self.retain(())
        await asyncio.gather(*self._closing)
        await super().close()

    def _tidy(self) -> None:
        for name in [name for name in self._named if not (self._calls[name] or name in self._current)]:
            del self.price_list.named[name], self._calls[name]
            task = asyncio.get_running_loop().create_task(self._named.pop(name).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


class Configured(Wrapper):
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
