"""Models that are named outright, like `anthropic/claude-sonnet-4-6`: no file of deployments needed.

    model = open_model(with_fallbacks("openai/gpt-5.4", ["anthropic/claude-sonnet-4-6"]))

The environment has the credentials. For each name a deployment is made, and a Picker calls them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meshwright.clock import Clock, SystemClock
from meshwright.errors import ConfigError
from meshwright.models.config import FALLBACKS, LiteLLMConfig, read_config, with_ids
from meshwright.models.offline import USUAL_GROUPS, OfflineModel
from meshwright.models.picker import Cooldowns, Picker
from meshwright.models.port import Adapter, Model, ModelReply, ModelRequest, OnDelta, PriceList
from meshwright.models.prices import Prices
from meshwright.models.providers import OFFLINE, missing, provider_of
from meshwright.models.retry import Retrying
from meshwright.money import Price

_WHERE = Path("models by name")
"""What stands for the file in errors: there is none."""
_NUMBERS = ("temperature", "max_tokens", "timeout_seconds", "max_retries")
_DEFAULT_GROUP = "default"


class ModelSettings(BaseModel):
    """What it takes to call a model, found by its name alone.

    `name` is as it was asked for, `model` LiteLLM's whole name. `params` say which variables hold
    credentials and address (`os.environ/NAME`), so that no key is here. `timeout_seconds` bounds one
    attempt; `max_retries` are those after the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model: str
    provider: str
    params: dict[str, str]
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=1024, ge=1)
    timeout_seconds: float = Field(default=30.0, gt=0)
    max_retries: int = Field(default=3, ge=0, le=10)

    @classmethod
    def from_env(cls, model: str, environment: Mapping[str, str] | None = None) -> Self:
        """Find provider, credentials, address and numbers (`OPENAI_TIMEOUT_SECONDS=60`) in the environment.

        Raises ConfigError for a provider that is unknown, a credential that is missing, or a number that
        is none.
        """
        known = os.environ if environment is None else environment
        provider, whole = provider_of(model)
        if problem := missing(provider, model, known):
            raise problem
        params = {param.name: value for param in provider.params if (value := param.value(known))}
        variables = {name: provider.variable(name.upper()) for name in _NUMBERS}
        numbers: dict[str, Any] = {
            name: text for name, variable in variables.items() if (text := known.get(variable))
        }
        try:
            return cls(name=model, model=whole, provider=provider.name, params=params, **numbers)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ConfigError(f"{variables[str(first['loc'][0])]}: {first['msg']}", field="model") from None

    def deployment(self, group: str) -> dict[str, Any]:
        """Its deployment in a group, as litellm_config.yaml would have it."""
        params = {"model": self.model, **self.params, "timeout": self.timeout_seconds}
        return {"model_name": group, "litellm_params": params}


class Chain(NamedTuple):
    """A model, and those that answer in its place where it cannot, in this order."""

    primary: ModelSettings
    fallbacks: tuple[ModelSettings, ...] = ()

    @property
    def groups(self) -> dict[str, ModelSettings]:
        """The members by the group that each is called as: the primary's own name, then `primary > other`."""
        name = self.primary.name
        return {name: self.primary, **{f"{name} > {other.name}": other for other in self.fallbacks}}


def with_fallbacks(
    primary: str, others: Sequence[str] = (), *, environment: Mapping[str, str] | None = None
) -> Chain:
    """A model with fallbacks, each found in the environment. Raises ConfigError as `from_env` does."""
    twice = next((name for n, name in enumerate(others) if name in (primary, *others[:n])), None)
    if twice is not None:
        raise ConfigError(
            f"model {twice!r} stands twice among those of {primary!r}",
            remedy="name each once: a model that failed is not asked again by a fallback",
            field="fallbacks",
        )
    settings = [ModelSettings.from_env(name, environment) for name in (primary, *others)]
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
    cooldowns: Cooldowns | None = None,
) -> Picker:
    """Calls models by their own names, each for at most its `timeout_seconds`. Raises ConfigError.

    A chain's fallbacks are part of an attempt, and of that chain alone.
    """
    chains = list(chains)
    names = ", ".join(chain.primary.name for chain in chains)
    config = litellm_config(chains)
    return Picker(config, environment=environment, cooldowns=cooldowns, name=f"direct {names}")


def open_model(*chains: Chain | ModelSettings, clock: Clock | None = None) -> Model:
    """A model to be called without a mesh: by the names given, with retries. Raises ConfigError.

    Where the chains say different numbers of retries the greatest counts.
    """
    whole = [chain if isinstance(chain, Chain) else Chain(chain) for chain in chains]
    tries = 1 + max((chain.primary.max_retries for chain in whole), default=0)
    return Retrying(named_models(whole), clock or SystemClock(), max_tries=tries)


class NamedModels:
    """Gives each request to the adapter of its name, and every other name to `others`."""

    def __init__(self, named: Mapping[str, Adapter], others: Adapter) -> None:
        self._named = dict(named)
        self._others = others
        self.name = f"{others.name}; by name {', '.join(named)}"
        self.kind = others.kind
        self.config = others.config

    def complete(
        self, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> Coroutine[Any, Any, ModelReply]:
        """Make one attempt. Raises ModelError."""
        return self._named.get(request.model, self._others).complete(request, on_delta)

    async def close(self) -> None:
        """Close each adapter once."""
        for model in {id(each): each for each in (*self._named.values(), self._others)}.values():
            await model.close()

    def groups(self) -> frozenset[str] | None:
        """The groups of the others: an agent's model is its own."""
        return self._others.groups()

    def prices(self, default: Price | None) -> PriceList:
        """Each adapter's own."""
        named = {name: model.prices(default) for name, model in self._named.items()}
        return _NamedPrices(named, self._others.prices(default))

    async def listed(self) -> list[dict[str, Any]] | None:
        """What the server of the others has."""
        return await self._others.listed()

    def alone(self, group: str | None, names: Collection[str]) -> tuple[Model, list[str]]:
        """Those of the others."""
        return self._others.alone(group, names)


class _PlainModel:
    """A model that says nothing of itself, as an adapter: it answers any name."""

    kind = "model"
    config: LiteLLMConfig | None = None

    def __init__(self, model: Model) -> None:
        self.name = model.name
        self._model = model

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make one attempt. Raises ModelError."""
        return await self._model.complete(request, on_delta)

    async def close(self) -> None:
        """Close the model."""
        await self._model.close()

    def groups(self) -> frozenset[str]:
        """The usual ones."""
        return USUAL_GROUPS

    def prices(self, default: Price | None) -> Prices:
        """By the names of models."""
        return Prices.of(None, default)

    async def listed(self) -> None:
        """It has no server."""

    def alone(self, group: str | None, names: Collection[str]) -> tuple[Model, list[str]]:
        """The model itself."""
        return self, [group or _DEFAULT_GROUP]


def adapter_for(model: Model) -> Adapter:
    """A model as an adapter: itself where it is one."""
    return model if isinstance(model, Adapter) else _PlainModel(model)


class _NamedPrices:
    def __init__(self, named: Mapping[str, PriceList], others: PriceList) -> None:
        self._named = named
        self._others = others

    def upper_bound(self, request: ModelRequest, prompt_tokens: int | None = None) -> Price | None:
        return self._named.get(request.model, self._others).upper_bound(request, prompt_tokens)

    def of_reply(self, reply: ModelReply, request: ModelRequest) -> Decimal | None:
        return self._named.get(request.model, self._others).of_reply(reply, request)


class ModelChoice(Protocol):
    """What says which model it wants: an agent class. No `model` leaves it to the prompt."""

    agent_id: str
    model: str
    fallbacks: Sequence[str]


def with_named_models(
    others: Adapter,
    agents: Iterable[ModelChoice],
    config_path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    cooldowns: Cooldowns | None = None,
) -> Adapter:
    """The mesh's adapter, and beside it the models that agents name and that are no groups of its file.

    A server gets every name as it stands: which there are is its own business. The file need not exist.
    Raises ConfigError, naming the agent, where a model cannot be called.
    """
    own = others.groups()
    if own is None:
        return others
    if others.config is None:  # the built-in model answers for the groups of a file whose keys are not set
        read = config_path is not None and config_path.is_file()
        own = read_config(config_path).groups if read and config_path else frozenset({_DEFAULT_GROUP})
    wanted = _by_model(agent for agent in agents if agent.model)
    named: dict[str, Adapter] = {}
    if OFFLINE in wanted and OFFLINE not in own:
        named[OFFLINE] = OfflineModel()
    chains = [
        _chain_of(agent, environment) for agent in wanted.values() if not _is_answered(agent, {*own, *named})
    ]
    if chains:
        picker = named_models(chains, environment=environment, cooldowns=cooldowns)
        for chain in chains:
            named[chain.primary.name] = picker
    return NamedModels(named, others) if named else others


def _by_model(agents: Iterable[ModelChoice]) -> dict[str, ModelChoice]:
    """The agents by the model they name. Raises ConfigError where two give one model different fallbacks."""
    found: dict[str, ModelChoice] = {}
    for agent in agents:
        other = found.setdefault(agent.model, agent)
        if tuple(other.fallbacks) != tuple(agent.fallbacks):
            raise ConfigError(
                f"agents {other.agent_id} and {agent.agent_id} give model {agent.model!r} "
                "different fallbacks",
                remedy="give both the same, or make a group of each in litellm_config.yaml",
                field="fallbacks",
            )
    return found


def _is_answered(agent: ModelChoice, names: Collection[str]) -> bool:
    """Whether a name is a group. Raises ConfigError where the agent wants fallbacks nevertheless."""
    if agent.model in names and agent.fallbacks:
        raise ConfigError(
            f"agent {agent.agent_id} gives fallbacks to {agent.model!r}, which is a group",
            remedy="write them under router_settings.fallbacks in litellm_config.yaml",
            field="fallbacks",
        )
    return agent.model in names


def _chain_of(agent: ModelChoice, environment: Mapping[str, str] | None) -> Chain:
    try:
        return with_fallbacks(agent.model, tuple(agent.fallbacks), environment=environment)
    except ConfigError as error:
        raise ConfigError(
            f"agent {agent.agent_id}: {error.message}", remedy=error.remedy, field=error.field
        ) from None
