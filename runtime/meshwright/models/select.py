"""Which model answers: what the settings say or the environment offers, and models that are named outright.

    model = open_model(with_fallbacks("openai/gpt-5.4", ["anthropic/claude-sonnet-4-6"]))

needs no file of deployments: the environment has the credentials. For each name a deployment is made, and a
Picker calls them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from meshwright.core.clock import Clock, SystemClock
from meshwright.core.errors import ConfigError
from meshwright.core.money import Price
from meshwright.models.circuits import Circuits
from meshwright.models.config import FALLBACKS, LiteLLMConfig, names_in, read_config, read_text, with_ids
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
)
from meshwright.models.prices import prices_of
from meshwright.models.providers import OFFLINE, missing, provider_of
from meshwright.models.retry import Retrying
from meshwright.models.routing import missing_of
from meshwright.models.server import AgentKeys, HttpModel
from meshwright.models.spec import ModelChoice, ModelSpec, beside_server, require_plain, specs_of
from meshwright.settings import Settings

_WELL_KNOWN_KEYS = tuple(
    f"{provider}_API_KEY"
    for provider in ("ANTHROPIC", "OPENAI", "GEMINI", "MISTRAL", "GROQ", "DEEPSEEK", "OPENROUTER", "AZURE")
)
_OWN_VALUE = re.compile(
    r"""^[^#\n]*\bapi_(?:key|base)["']?\s*:\s*["']?(?!os\.environ/)[^\s"'#]""", re.MULTILINE
)
"""What makes a file usable without any variable: a key or an address in itself."""
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
    kind, why, name = settings.models.adapter, "", settings.models.name
    if kind not in _KINDS:
        if not settings.models.base_url or "/" in kind:
            return _one_model(kind, known, circuits)
        kind, name = "http", kind
    if kind == "auto":
        kind, why = _offered(settings, config_path, known)
    if kind == "offline":
        return OfflineModel(count_tokens=count_tokens, why=why)
    if kind == "router":
        return Picker(config_path, environment=known, circuits=circuits, why=why)
    if not settings.models.base_url:
        raise ConfigError(
            'model = "http" needs the address of a server',
            remedy="Set LITELLM_BASE_URL, like http://127.0.0.1:4000",
            field="litellm_base_url",
        )
    key = settings.models.api_key
    return HttpModel(
        settings.models.base_url,
        key.get_secret_value() if key else None,
        model_name=name,
        why=f"every call is of {name}" if name else "",
        prices_file=config_path,
        agent_keys=None if name else AgentKeys(settings.data_dir),
    )


def _offered(settings: Settings, config_path: Path, environment: Mapping[str, str]) -> tuple[str, str]:
    """The kind that the environment offers, and why. Raises ConfigError for a broken file."""
    if settings.models.base_url:
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
    missing = [missing_of(each, environment) for each in read_config(config_path).deployments]
    if not all(missing):
        return "router", f"{keys[0]} is set" if keys else f"{config_path.name} has what it needs"
    if keys:
        names = ", ".join(sorted({name for names in missing for name in names}))
        return "offline", f"{keys[0]} is set, but nothing can be called without one of {names}"
    if unused:
        return "offline", f"{unused[0]} is set, but no model of {config_path.name} uses it"
    return "offline", _NO_KEY


def _one_model(name: str, environment: Mapping[str, str], circuits: Circuits | None) -> Picker:
    """Answers every call, whatever its group and tags, by one model. Raises ConfigError."""
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
    config = LiteLLMConfig(
        path=_WHERE,
        deployments=with_ids([deployment]),
        router_settings={"model_group_alias": dict.fromkeys(("default", "quality", "fast", name), _EVERY)},
        litellm_settings={"drop_params": True},
        lines={},
    )
    return Picker(config, environment=environment, circuits=circuits, name=f"model {name}")


# By name

_WHERE = Path("models by name")
"""What stands for the file in errors: there is none."""
_NUMBERS = ("temperature", "max_tokens", "timeout_seconds", "max_retries")
_DEFAULT_GROUP = "default"


class ModelSettings(BaseModel):
    """What it takes to call a model, found by its name alone.

    `name` is as it was asked for, `model` LiteLLM's whole name. `params` are credentials and address: the
    variables that hold them (`os.environ/NAME`), or what code gave, which no representation shows.
    `timeout_seconds` bounds one attempt; `max_retries` are those after the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model: str
    provider: str
    params: dict[str, str | SecretStr]
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=1024, ge=1)
    timeout_seconds: float = Field(default=30.0, gt=0)
    max_retries: int = Field(default=3, ge=0, le=10)

    @classmethod
    def from_env(cls, model: str | ModelSpec, environment: Mapping[str, str] | None = None) -> Self:
        """Find provider, credentials, address and numbers (`OPENAI_TIMEOUT_SECONDS=60`) in the environment.

        A spec's own parameters come first. Raises ConfigError for a provider that is unknown, a credential
        that is missing, or a number that is none.
        """
        known = os.environ if environment is None else environment
        spec = ModelSpec.of(model)
        model = spec.name
        provider, whole = provider_of(model)
        if problem := missing(provider, model, known, spec.params):
            raise problem
        found = {param.name: value for param in provider.params if (value := param.value(known))}
        params = {**found, **spec.params}
        variables = {name: provider.variable(name.upper()) for name in _NUMBERS}
        numbers: dict[str, Any] = {
            name: text for name, variable in variables.items() if (text := known.get(variable))
        }
        said = {"timeout_seconds": spec.timeout, "max_retries": spec.num_retries}
        numbers |= {name: number for name, number in said.items() if number is not None}
        try:
            return cls(name=model, model=whole, provider=provider.name, params=params, **numbers)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ConfigError(f"{variables[str(first['loc'][0])]}: {first['msg']}", field="model") from None

    def deployment(self, group: str) -> dict[str, Any]:
        """Its deployment in a group, as litellm_config.yaml would have it."""
        plain = {name: _plain(value) for name, value in self.params.items()}
        params = {"model": self.model, **plain, "timeout": self.timeout_seconds}
        return {"model_name": group, "litellm_params": params}


def _plain(value: str | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


class Chain(NamedTuple):
    """A model, and those that answer in its place where it cannot, in this order."""

    primary: ModelSettings
    fallbacks: tuple[ModelSettings, ...] = ()

    @property
    def groups(self) -> dict[str, ModelSettings]:
        """The members by the group that each is called as: the primary's own name, then `primary > other`."""
        groups = {self.primary.name: self.primary}
        for number, other in enumerate(self.fallbacks, 2):
            group = f"{self.primary.name} > {other.name}"
            groups[f"{group} ({number})" if group in groups else group] = other
        return groups


def with_fallbacks(
    primary: str | Mapping[str, Any] | ModelSpec,
    others: Sequence[str | Mapping[str, Any] | ModelSpec] = (),
    *,
    environment: Mapping[str, str] | None = None,
) -> Chain:
    """A model with fallbacks, each by its name or as `{"model": ..., "api_key": ...}`.

    The environment has all else. Raises ConfigError as `from_env` does, and for a model that stands twice
    with the same connection.
    """
    if isinstance(others, str) or not isinstance(others, Sequence):
        raise ConfigError("fallbacks must be a list", remedy='Write ["gpt-5.4"]', field="fallbacks")
    specs = [ModelSpec.of(primary), *map(ModelSpec.of, others)]
    twice = next((spec.name for n, spec in enumerate(specs) if spec in specs[:n]), None)
    if twice is not None:
        raise ConfigError(
            f"model {twice!r} stands twice among those of {specs[0].name!r}",
            remedy="name each once: a model that failed is not asked again by a fallback",
            field="fallbacks",
        )
    settings = [ModelSettings.from_env(spec, environment) for spec in specs]
    return Chain(settings[0], tuple(settings[1:]))


def litellm_config(chains: Iterable[Chain]) -> LiteLLMConfig:
    """The chains as if a litellm_config.yaml said so: a group for each member. Holds no key."""
    members = [chain.groups for chain in chains]
    deployments = [each.deployment(group) for groups in members for group, each in groups.items()]
    rules = [{first: others} for first, *others in members if others]
    return LiteLLMConfig(
        path=_WHERE,
        deployments=with_ids(deployments),
        router_settings=dict.fromkeys(FALLBACKS, rules),  # after whatever another model can mend
        litellm_settings={"drop_params": True},  # what a provider does not know is left out
        lines={},
    )


def named_models(
    chains: Iterable[Chain],
    *,
    environment: Mapping[str, str] | None = None,
    circuits: Circuits | None = None,
) -> Picker:
    """Calls models by their own names, each for at most its `timeout_seconds`. Raises ConfigError.

    A chain's fallbacks are part of an attempt, and of that chain alone.
    """
    chains = list(chains)
    names = ", ".join(chain.primary.name for chain in chains)
    config = litellm_config(chains)
    return Picker(config, environment=environment, circuits=circuits, name=f"direct {names}")


def open_model(
    *models: str | Mapping[str, Any] | Chain | ModelSettings, clock: Clock | None = None, **options: Any
) -> Model:
    """A model to be called without a mesh: `open_model("gpt-5.4", timeout=30)`, with retries.

    Each is a name, a dictionary as `with_fallbacks` takes it, or a chain; several are called by their names.
    `options` are of all names: LiteLLM's `timeout`, `num_retries`, `api_key`, `api_base`, ... Where models
    say different numbers of retries the greatest counts. Raises ConfigError.
    """
    if not models:
        raise ConfigError("open_model names no model", remedy='Write open_model("gpt-5.4")', field="models")
    whole = [_whole_chain(model, options) for model in models]
    tries = 1 + max((chain.primary.max_retries for chain in whole), default=0)
    return Retrying(named_models(whole), clock or SystemClock(), max_tries=tries)


def _whole_chain(model: object, options: Mapping[str, Any]) -> Chain:
    if not isinstance(model, (Chain, ModelSettings)):
        return Chain(ModelSettings.from_env(ModelSpec.of(model, **options)))
    if options:
        raise ConfigError(
            f"open_model: {next(iter(options))} goes with the name of a model",
            remedy='Write it where the model is named: with_fallbacks({"model": ..., "timeout": 30})',
            field=next(iter(options)),
        )
    return model if isinstance(model, Chain) else Chain(model)


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

    def alone(self, group: str | None, names: Collection[str]) -> tuple[Model, list[str]]:
        """Those of all adapters, and of the one that has the group."""
        if group is not None:
            return self._named.get(group, self._others).alone(group, names)
        others, found = self._others.alone(None, names)
        named: dict[str, Adapter] = {}
        for adapter in {id(adapter): adapter for adapter in self._named.values()}.values():
            model, own = adapter.alone(None, ())
            named |= dict.fromkeys(own, adapter_for(model))
        return NamedModels(named, adapter_for(others)), [*found, *named]

    async def close(self) -> None:
        """Close each adapter once."""
        for model in {id(each): each for each in (*self._named.values(), self._others)}.values():
            await model.close()

    def prices(self, default: Price | None) -> PriceList:
        """Each adapter's own."""
        named = {name: prices_of(model, default) for name, model in self._named.items()}
        return _NamedPrices(named, prices_of(self._others, default))


class _NamedPrices(NamedTuple):
    named: Mapping[str, PriceList]
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

    A server gets every name as it stands: which there are is its own business. The file need not exist.
    Raises ConfigError, naming the agent, where a model cannot be called.
    """
    own = others.groups()
    agents = [agent for agent in agents if agent.model]
    if own is None:
        agents, own = beside_server(agents), frozenset()
    elif others.config is None:  # the built-in model answers for the groups of a file whose keys are not set
        read = config_path is not None and config_path.is_file()
        own = read_config(config_path).groups if read and config_path else frozenset({_DEFAULT_GROUP})
    wanted: dict[str, ModelChoice] = {}
    named: dict[str, Adapter] = {}
    chains: list[Chain] = []
    for agent in agents:
        other = wanted.setdefault(agent.model, agent)
        if specs_of(other) != specs_of(agent):
            raise ConfigError(
                f"agents {other.agent_id} and {agent.agent_id} give model {agent.model!r} "
                "different fallbacks, keys or timeouts",
                remedy="Give both the same, or make a group of each in litellm_config.yaml",
                field="fallbacks",
            )
    for agent in wanted.values():
        if agent.model == OFFLINE and OFFLINE not in own:
            named[OFFLINE] = OfflineModel()
        elif agent.model not in own:
            chains.append(_chain_of(agent, environment))
            continue
        require_plain(agent)
    if chains:
        picker = named_models(chains, environment=environment, circuits=circuits)
        named |= {chain.primary.name: picker for chain in chains}
    return NamedModels(named, others) if named else others


def _chain_of(agent: ModelChoice, environment: Mapping[str, str] | None) -> Chain:
    try:
        primary, *others = specs_of(agent)
        return with_fallbacks(primary, others, environment=environment)
    except ConfigError as error:
        raise ConfigError(
            f"agent {agent.agent_id}: {error.message}", remedy=error.remedy, field=error.field
        ) from None
