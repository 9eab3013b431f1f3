"""A model as code names it: by name alone, or with LiteLLM's own parameters beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from meshwright.core.errors import ConfigError, nearest, sentence
from meshwright.models.providers import PROVIDERS, current, provider_of

CONNECTION = frozenset(
    {"api_key", "api_base", "api_version", "organization"}
    | {param.name for provider in PROVIDERS for param in provider.params}
)
"""LiteLLM's parameters that say where a model is called, and with which credentials."""
_OptionsT = TypeVar("_OptionsT", bound=BaseModel)
_EXAMPLE = '"openai/gpt-5.4", or {"model": "openai/gpt-5.4", "api_key": ...}'


class CallOptions(BaseModel):
    """What may be said of a model's calls besides its connection."""

    model_config = ConfigDict(extra="forbid", strict=True)

    timeout: Annotated[float, Field(gt=0, le=86_400)] | None = None
    num_retries: Annotated[int, Field(ge=0, le=10)] | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model's name and what was said of its calls; all else is found in the environment.

    `timeout` bounds one attempt, in seconds; `num_retries` are those after the first; `params` are of
    `CONNECTION`, and hold a key as a SecretStr.
    """

    name: str
    timeout: float | None = None
    num_retries: int | None = None
    params: Mapping[str, str | SecretStr] = field(default_factory=dict)

    @classmethod
    def of(cls, given: object, **shared: Any) -> Self:
        """Read a name, or a dictionary with `model`; `shared` holds where that says nothing.

        Raises ConfigError, with the field: also for a connection of a model whose provider is unknown.
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, str):
            given = {"model": given}
        if not isinstance(given, Mapping) or not isinstance(given.get("model"), str):
            kind = "a dictionary without a model" if isinstance(given, Mapping) else f"{type(given).__name__}"
            raise ConfigError(f"a model is named by {kind}", remedy=f"Write {_EXAMPLE}", field="model")
        said = {**shared, **given}
        name = said.pop("model")
        if not name or "/" in current(name):  # a bare name may be a group, which a mesh alone can know
            provider_of(name)
        if "base_url" in said:
            said["api_base"] = said.pop("base_url")
        params = {key: said.pop(key) for key in [*said] if key in CONNECTION}
        options = checked(CallOptions, said, f"model {name!r}", CONNECTION)
        if params:
            provider, _ = provider_of(name)
            known = {param.name for param in provider.params} | {"api_key", "api_base"}
            known |= {"organization"} if provider.name == "openai" else set()
            for key, value in params.items():
                if key not in known:
                    raise _unknown(key, f"{provider.title}'s model {name!r}", known)
                if not isinstance(value, str) or not value:
                    raise ConfigError(
                        f"model {name!r}: {key} must be text that is not empty",
                        remedy="Leave it out to have it read from the environment",
                        field=key,
                    )
        return cls(name, options.timeout, options.num_retries, {k: _hidden(v) for k, v in params.items()})

    @property
    def is_plain(self) -> bool:
        """Whether a name is all that was said of it."""
        return not self.params and self.timeout is None


def checked(
    kind: type[_OptionsT], options: Mapping[str, Any], whose: str, others: Collection[str] = ()
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
            raise _unknown(name, whose, {*kind.model_fields, *others}) from None
        remedy = f"Correct {name}, or leave it out"
        raise ConfigError(f"{whose}: {name} {sentence(problem)}", remedy=remedy, field=name) from None


def _unknown(name: str, whose: str, known: Collection[str]) -> ConfigError:
    near = nearest(name, known)
    remedy = f"Did you mean {near!r}?" if near else f"Known are {', '.join(sorted(known))}"
    return ConfigError(f"{whose} has no option {name!r}", remedy=remedy, field=name)


def _hidden(value: str) -> str | SecretStr:
    """A value that no representation shows, unless it is a reference to the environment."""
    return value if value.startswith("os.environ/") else SecretStr(value)


class ModelChoice(Protocol):
    """What says which model it wants: an agent class. No `model` leaves it to the prompt."""

    agent_id: str
    model: str
    fallbacks: Sequence[str]
    model_specs: Sequence[ModelSpec]


def specs_of(agent: ModelChoice) -> list[ModelSpec]:
    """Returns an agent's model and its fallbacks."""
    specs = [ModelSpec.of(spec) for spec in agent.model_specs]
    return specs or [ModelSpec(name) for name in (agent.model, *agent.fallbacks)]


def require_plain(agent: ModelChoice) -> None:
    """Raise ConfigError for an agent that says of a group what its file says."""
    said, place = "", ""
    if agent.fallbacks:
        said, place = "fallbacks", "router_settings.fallbacks"
    elif not specs_of(agent)[0].is_plain:
        said, place = "a key, an address or a timeout", "the litellm_params of its deployments"
    if said:
        raise ConfigError(
            f"agent {agent.agent_id} gives {said} to {agent.model!r}, which is a group",
            remedy=f"Write that under {place} in litellm_config.yaml",
            field="fallbacks" if agent.fallbacks else "model",
        )


def beside_server(agents: Sequence[ModelChoice]) -> list[ModelChoice]:
    """The agents whose models a server does not answer, since they bring a connection of their own."""
    own = {agent.model for agent in agents if any(spec.params for spec in specs_of(agent))}
    timed = (agent for agent in agents if agent.model not in own and not specs_of(agent)[0].is_plain)
    if (agent := next(timed, None)) is not None:
        raise ConfigError(
            f"agent {agent.agent_id} gives a timeout to {agent.model!r}, which LITELLM_BASE_URL answers",
            remedy="Set the timeout at that server, and leave it out here",
            field="timeout",
        )
    return [agent for agent in agents if agent.model in own]
