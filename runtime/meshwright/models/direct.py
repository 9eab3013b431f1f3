"""Models that are named outright, like `anthropic/claude-sonnet-4-6`: no file of deployments needed.

    model = open_model(with_fallbacks("openai/gpt-5.4", ["anthropic/claude-sonnet-4-6"]))

The environment has the credentials. For each name a deployment is made, and LiteLLM's Router calls them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meshwright.clock import Clock, SystemClock
from meshwright.errors import ConfigError
from meshwright.models.checks import FALLBACKS
from meshwright.models.config import LiteLLMConfig, with_ids
from meshwright.models.port import Model, ModelRefused, ModelReply, ModelRequest, OnDelta
from meshwright.models.providers import missing, provider_of
from meshwright.models.retry import Retrying
from meshwright.models.router import RouterModel

WHERE = "models by name"
"""What stands for the file in errors: there is none."""
NUMBERS = ("temperature", "max_tokens", "timeout_seconds", "max_retries")


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
        variables = {name: provider.variable(name.upper()) for name in NUMBERS}
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
        return {name: self.primary, **{f"{name} > {each.name}": each for each in self.fallbacks}}

    @property
    def timeout_seconds(self) -> float:
        """How long all of them together may take."""
        return sum(each.timeout_seconds for each in self.groups.values())


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
        path=Path(WHERE),
        deployments=with_ids(deployments),
        router_settings=dict.fromkeys(FALLBACKS, rules),  # after whatever another model can mend
        litellm_settings={"drop_params": True},  # what a provider does not know is left out
        lines={},
    )


class DirectModel:
    """Calls models by their own names, each for at most its `timeout_seconds`. Makes one attempt a call.

    A chain's fallbacks are part of that attempt, and of that chain alone.
    """

    def __init__(self, chains: Iterable[Chain], *, environment: Mapping[str, str] | None = None) -> None:
        """Make the deployments. Raises ConfigError, also without LiteLLM."""
        chains = list(chains)
        self.chains = {chain.primary.name: chain for chain in chains}
        self.name = f"direct {', '.join(self.chains)}"
        self.router = RouterModel(litellm_config(chains), environment=environment)

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make one attempt, fallbacks included. Raises ModelError."""
        chain = self.chains.get(request.model)
        if chain is None:
            raise ModelRefused(
                f"There is no model {request.model!r} here", remedy=f"There are {', '.join(self.chains)}"
            )
        limit = min(request.timeout_seconds, chain.timeout_seconds)
        within = request.model_copy(update={"timeout_seconds": limit})
        return await self.router.complete(within, on_delta)

    async def close(self) -> None:
        """Give back connections."""
        await self.router.close()


def open_model(*chains: Chain | ModelSettings, clock: Clock | None = None) -> Model:
    """A model to be called without a mesh: by the names given, with retries. Raises ConfigError.

    Where the chains say different numbers of retries the greatest counts.
    """
    whole = [chain if isinstance(chain, Chain) else Chain(chain) for chain in chains]
    tries = 1 + max((chain.primary.max_retries for chain in whole), default=0)
    return Retrying(DirectModel(whole), clock or SystemClock(), max_tries=tries)
