"""From a name to a model: name, deployment, Picker.

A name stands alone, with LiteLLM's own parameters beside it, or with fallbacks.

    model = open_model(with_fallbacks("openai/gpt-5.4", ["anthropic/claude-sonnet-4-6"]))

needs no file of deployments: the environment has the credentials. Each name becomes a deployment of a group
of its own, and a Picker calls it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from meshwright.core.clock import Clock, SystemClock
from meshwright.core.errors import ConfigError, nearest, sentence
from meshwright.core.money import Price
from meshwright.models.circuits import Circuits, Retrying
from meshwright.models.config import FALLBACKS, LiteLLMConfig, read_config
from meshwright.models.offline import OfflineModel
from meshwright.models.picker import Picker
from meshwright.models.port import Adapter, Model, ModelReply, ModelRequest, ModelWindow, OnDelta, PriceList
from meshwright.models.prices import prices_of
from meshwright.models.providers import OFFLINE, PROVIDERS, current, missing, provider_of

CONNECTION = frozenset(
    {"api_key", "api_base", "api_version", "organization"}
    | {param.name for provider in PROVIDERS for param in provider.params}
)
"""LiteLLM's parameters of a model's connection: its address and credentials."""
_OptionsT = TypeVar("_OptionsT", bound=BaseModel)
_EXAMPLE = '"openai/gpt-5.4", or {"model": "openai/gpt-5.4", "api_key": ...}'
_NUMBERS = ("temperature", "max_tokens", "timeout_seconds", "max_retries")


class _CallOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    timeout: Annotated[float, Field(gt=0, le=86_400)] | None = None
    num_retries: Annotated[int, Field(ge=0, le=10)] | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as code names it; the environment has all else.

    `timeout` bounds one attempt, in seconds; `num_retries` are those after the first; `params` are of
    `CONNECTION`, and hold a key as a SecretStr.
    """

    name: str
    timeout: float | None = None
    num_retries: int | None = None
    params: Mapping[str, str | SecretStr] = field(default_factory=dict)

    @classmethod
    def of(cls, model: object, **shared: Any) -> Self:
        """Read a name, a dictionary with `model`, or an entry of LiteLLM's `model_list`.

        `shared` are defaults for its options. Options that are None are as if left out.

        Raises ConfigError, with the field: also for a connection of a model whose provider is unknown.
        """
        if isinstance(model, cls):
            return model
        if isinstance(model, str):
            model = {"model": model}
        if isinstance(model, Mapping) and isinstance(model.get("litellm_params"), Mapping):
            _check_entry(model)
            model = model["litellm_params"]
        if not isinstance(model, Mapping) or not isinstance(model.get("model"), str):
            kind = "a dictionary without a model" if isinstance(model, Mapping) else type(model).__name__
            raise ConfigError(f"a model is named by {kind}", remedy=f"Write {_EXAMPLE}", field="model")
        options = {**shared, **{key: value for key, value in model.items() if value is not None}}
        name = options.pop("model")
        if not name or "/" in current(name):  # a bare name may be a group, which a mesh alone can know
            provider_of(name)
        if "base_url" in options:
            options["api_base"] = options.pop("base_url")
        params = {key: options.pop(key) for key in [*options] if key in CONNECTION}
        call = checked(_CallOptions, options, f"model {name!r}", CONNECTION)
        if params:
            _check_connection(name, params)
        return cls(name, call.timeout, call.num_retries, {key: _hidden(v) for key, v in params.items()})


def _check_entry(entry: Mapping[str, Any]) -> None:
    """Raises ConfigError for a field beside `litellm_params` that would have no effect."""
    others = [str(name) for name in entry if name not in ("model_name", "litellm_params", "model_info")]
    if others:
        raise _unknown(others[0], "an entry of a model_list", ("model_name", "litellm_params"))


def _check_connection(name: str, params: Mapping[str, Any]) -> None:
    provider, _ = provider_of(name)
    names = {param.name for param in provider.params} | {"api_key", "api_base"}
    names |= {"organization"} if provider.name == "openai" else set()
    for key, value in params.items():
        if key not in names:
            raise _unknown(key, f"{provider.title}'s model {name!r}", names)
        if not isinstance(value, str) or not value:
            problem = f"model {name!r}: {key} must be text that is not empty"
            raise ConfigError(problem, remedy="Leave it out to have it read from the environment", field=key)


def checked(
    kind: type[_OptionsT], options: Mapping[str, Any], owner: str, others: Collection[str] = ()
) -> _OptionsT:
    """Returns options as their model. Raises ConfigError that names the field, and a near one's name.

    `others` are names that are known too.
    """
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            raise _unknown(name, owner, {*kind.model_fields, *others}) from None
        remedy = f"Correct {name}, or leave it out"
        raise ConfigError(f"{owner}: {name} {sentence(problem)}", remedy=remedy, field=name) from None


def _unknown(name: str, owner: str, names: Collection[str]) -> ConfigError:
    near = nearest(name, names)
    remedy = f"Did you mean {near!r}?" if near else f"Known are {', '.join(sorted(names))}"
    return ConfigError(f"{owner} has no option {name!r}", remedy=remedy, field=name)


def _hidden(value: str) -> str | SecretStr:
    """A value that no representation shows, unless it is a reference to the environment."""
    return value if value.startswith("os.environ/") else SecretStr(value)


class ModelSettings(BaseModel):
    """A model that can be called, found by its name alone.

    `name` is as code gave it, `model` LiteLLM's whole name. `params` are credentials and address: the
    variables that hold them (`os.environ/NAME`), or values from code, which no representation shows.
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
        variables = os.environ if environment is None else environment
        spec = ModelSpec.of(model)
        provider, whole = provider_of(spec.name)
        if problem := missing(provider, spec.name, variables, spec.params):
            raise problem
        usual = {param.name: value for param in provider.params if (value := param.value(variables))}
        places = {name: provider.variable(name.upper()) for name in _NUMBERS}
        numbers: dict[str, Any] = {
            name: variables[place] for name, place in places.items() if variables.get(place)
        }
        numbers |= {} if spec.timeout is None else {"timeout_seconds": spec.timeout}
        numbers |= {} if spec.num_retries is None else {"max_retries": spec.num_retries}
        params = {**usual, **spec.params}
        try:
            return cls(name=spec.name, model=whole, provider=provider.name, params=params, **numbers)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ConfigError(f"{places[str(first['loc'][0])]}: {first['msg']}", field="model") from None

    def deployment(self, group: str) -> dict[str, Any]:
        """Its deployment in a group, as litellm_config.yaml would have it."""
        plain = {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in self.params.items()
        }
        params = {"model": self.model, **plain, "timeout": self.timeout_seconds}
        return {"model_name": group, "litellm_params": params}


class Chain(NamedTuple):
    """A model and its fallbacks, in the order in which they answer."""

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
        problem = f"model {twice!r} stands twice among those of {specs[0].name!r}"
        remedy = "name each once: a model that failed is not asked again by a fallback"
        raise ConfigError(problem, remedy=remedy, field="fallbacks")
    settings = [ModelSettings.from_env(spec, environment) for spec in specs]
    return Chain(settings[0], tuple(settings[1:]))


def litellm_config(chains: Iterable[Chain]) -> LiteLLMConfig:
    """The chains as if a litellm_config.yaml had them: a group for each member. Holds no key."""
    members = [chain.groups for chain in chains]
    deployments = [settings.deployment(group) for groups in members for group, settings in groups.items()]
    rules = [{first: others} for first, *others in members if others]
    return LiteLLMConfig.of(deployments, **dict.fromkeys(FALLBACKS, rules))


def named_models(
    chains: Iterable[Chain], *, environment: Mapping[str, str] | None = None, circuits: Circuits | None = None
) -> Picker:
    """Calls models by their own names, each for at most its `timeout_seconds`. Raises ConfigError.

    A chain's fallbacks are part of an attempt, and of that chain alone.
    """
    chains = list(chains)
    name = f"direct {', '.join(chain.primary.name for chain in chains)}"
    return Picker(litellm_config(chains), environment=environment, circuits=circuits, name=name)


def open_model(
    *models: str | Mapping[str, Any] | Chain | ModelSettings, clock: Clock | None = None, **options: Any
) -> Model:
    """A model to be called without a mesh: `open_model("gpt-5.4", timeout=30)`, with retries.

    Each is a name, a dictionary as `with_fallbacks` takes it, or a chain; several are called by their names.
    `options` are of all names: LiteLLM's `timeout`, `num_retries`, `api_key`, `api_base`, ... Of different
    numbers of retries the greatest counts. Raises ConfigError.
    """
    if not models:
        raise ConfigError("open_model names no model", remedy='Write open_model("gpt-5.4")', field="models")
    chains = [_chain(model, options) for model in models]
    tries = 1 + max(chain.primary.max_retries for chain in chains)
    return Retrying(named_models(chains), clock or SystemClock(), max_tries=tries)


def _chain(model: object, options: Mapping[str, Any]) -> Chain:
    if not isinstance(model, (Chain, ModelSettings)):
        return Chain(ModelSettings.from_env(ModelSpec.of(model, **options)))
    if options:
        problem = f"open_model: {next(iter(options))} goes with the name of a model"
        remedy = 'Write it where the model is named: with_fallbacks({"model": ..., "timeout": 30})'
        raise ConfigError(problem, remedy=remedy, field=next(iter(options)))
    return model if isinstance(model, Chain) else Chain(model)


class ModelChoice(Protocol):
    """An agent class, which may name its model. No `model` leaves it to the prompt."""

    agent_id: str
    model: str
    fallbacks: Sequence[str]
    model_specs: Sequence[ModelSpec]


def specs_of(agent: ModelChoice) -> list[ModelSpec]:
    """Returns an agent's model and its fallbacks."""
    specs = [ModelSpec.of(spec) for spec in agent.model_specs]
    return specs or [ModelSpec(name) for name in (agent.model, *agent.fallbacks)]


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
        """Close each adapter once."""
        for adapter in dict.fromkeys((*self._adapters.values(), self._others)):
            await adapter.close()

    def prices(self, default: Price | None) -> PriceList:
        """Each adapter's own."""
        by_name = {name: prices_of(adapter, default) for name, adapter in self._adapters.items()}
        return NamedPrices(by_name, prices_of(self._others, default))


class NamedPrices(NamedTuple):
    """The price list of each name, and the one of all others."""

    by_name: dict[str, PriceList]
    others: PriceList

    def window(self, model: str, tags: tuple[str, ...]) -> ModelWindow:
        """The window by the list of the model."""
        return self.by_name.get(model, self.others).window(model, tags)

    def upper_bound(self, request: ModelRequest, prompt_tokens: int | None = None) -> Price | None:
        """The highest price by the list of the model."""
        return self.by_name.get(request.model, self.others).upper_bound(request, prompt_tokens)

    def of_reply(self, reply: ModelReply, request: ModelRequest) -> Decimal | None:
        """The cost by the list of the model that was called."""
        return self.by_name.get(request.model, self.others).of_reply(reply, request)


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
    choices = _by_model(agents)
    if own is None:
        choices, own = (
            {name: agent for name, agent in choices.items() if _is_beside_server(agent)},
            frozenset(),
        )
    elif others.config is None:  # the built-in model answers for the groups of a file whose keys are not set
        has_file = config_path is not None and config_path.is_file()
        own = read_config(config_path).groups if has_file and config_path else frozenset({"default"})
    adapters: dict[str, Adapter] = {}
    chains: list[Chain] = []
    for name, agent in choices.items():
        if name not in own and name != OFFLINE:
            chains.append(_chain_of(agent, environment))
            continue
        if name not in own:
            adapters[OFFLINE] = OfflineModel()
        _require_plain(agent)
    if chains:
        picker = named_models(chains, environment=environment, circuits=circuits)
        adapters |= {chain.primary.name: picker for chain in chains}
    return NamedModels(adapters, others) if adapters else others


def _by_model(agents: Iterable[ModelChoice]) -> dict[str, ModelChoice]:
    """The first agent of each model; all others must give it the same connection and fallbacks."""
    choices: dict[str, ModelChoice] = {}
    for agent in (agent for agent in agents if agent.model):
        other = choices.setdefault(agent.model, agent)
        if specs_of(other) != specs_of(agent):
            raise ConfigError(
                f"agents {other.agent_id} and {agent.agent_id} give model {agent.model!r} "
                "different fallbacks, keys or timeouts",
                remedy="Give both the same, or make a group of each in litellm_config.yaml",
                field="fallbacks",
            )
    return choices


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
        field, addition, place = "fallbacks", "fallbacks", "router_settings.fallbacks"
    elif spec.params or spec.timeout is not None:
        field, addition = "model", "a key, an address or a timeout"
        place = "the litellm_params of its deployments"
    else:
        return
    problem = f"agent {agent.agent_id} gives {addition} to {agent.model!r}, which is a group"
    raise ConfigError(problem, remedy=f"Write that under {place} in litellm_config.yaml", field=field)


def _chain_of(agent: ModelChoice, environment: Mapping[str, str] | None) -> Chain:
    try:
        primary, *others = specs_of(agent)
        return with_fallbacks(primary, others, environment=environment)
    except ConfigError as error:
        raise ConfigError(
            f"agent {agent.agent_id}: {error.message}", remedy=error.remedy, field=error.field
        ) from None
