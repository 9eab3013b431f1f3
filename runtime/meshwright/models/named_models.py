"""From a name to a model: name, deployment, Picker; and agents made of a name alone.

A name stands alone, with LiteLLM's own parameters beside it, or with fallbacks.

    model = open_model(with_fallbacks("openai/gpt-5.4", ["anthropic/claude-sonnet-4-6"]))

needs no file of deployments: the environment has the credentials. Each name becomes a deployment of a group
of its own, and a Picker calls it.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, NamedTuple, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from meshwright.core.capability import Capability
from meshwright.core.clock import Clock, SystemClock
from meshwright.core.errors import ConfigError, nearest, sentence
from meshwright.core.ids import RUN_VARIABLES
from meshwright.core.limits import reserved_param
from meshwright.core.money import Budget, is_amount
from meshwright.models.circuits import Circuits, Retrying
from meshwright.models.config import FALLBACKS, LiteLLMConfig, known_names
from meshwright.models.picker import Picker
from meshwright.models.port import Model
from meshwright.models.providers import PROVIDERS, current, find_provider, missing

CONNECTION = frozenset(
    {"api_key", "api_base", "api_version", "organization"}
    | {param.name for provider in PROVIDERS for param in provider.params}
)
"""LiteLLM's parameters of a model's connection: its address and credentials."""
_OptionsT = TypeVar("_OptionsT", bound=BaseModel)
_EXAMPLE = '"openai/gpt-5.4", or {"model": "openai/gpt-5.4", "api_key": ...}'
_NUMBERS = ("temperature", "max_tokens", "timeout_seconds", "max_retries")  # such as OPENAI_MAX_TOKENS


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
    def parse(cls, model: object, **shared: Any) -> Self:
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
            find_provider(name)
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
    provider, _ = find_provider(name)
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
    """A model that can be called, found by its name alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The name that code gave."""
    model: str
    """LiteLLM's whole name: `provider/model`."""
    provider: str
    """The provider, as LiteLLM names it."""
    params: dict[str, str | SecretStr]
    """Credentials and address: the variables that hold them (`os.environ/NAME`), or values from code, which
    no representation shows."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """The temperature, 0 to 2."""
    max_tokens: int = Field(default=1024, ge=1)
    """The tokens that a reply may have."""
    timeout_seconds: float = Field(default=30.0, gt=0)
    """Seconds that one attempt may take."""
    max_retries: int = Field(default=3, ge=0, le=10)
    """Attempts after the first."""

    @classmethod
    def from_env(cls, model: str | ModelSpec, environment: Mapping[str, str] | None = None) -> Self:
        """Find provider, credentials, address and numbers (`OPENAI_TIMEOUT_SECONDS=60`) in the environment.

        A spec's own parameters come first. Raises ConfigError for a provider that is unknown, a credential
        that is missing, or a number that is none.
        """
        variables = os.environ if environment is None else environment
        spec = ModelSpec.parse(model)
        provider, whole = find_provider(spec.name)
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
    specs = [ModelSpec.parse(primary), *map(ModelSpec.parse, others)]
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
    return LiteLLMConfig.from_deployments(deployments, **dict.fromkeys(FALLBACKS, rules))


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
        return Chain(ModelSettings.from_env(ModelSpec.parse(model, **options)))
    if options:
        problem = f"open_model: {next(iter(options))} goes with the name of a model"
        remedy = 'Write it where the model is named: with_fallbacks({"model": ..., "timeout": 30})'
        raise ConfigError(problem, remedy=remedy, field=next(iter(options)))
    return model if isinstance(model, Chain) else Chain(model)


# Agents made of a name: `create_agent`

_AgentT = TypeVar("_AgentT")
_DEFAULT_INSTRUCTIONS = """\
You are {{agent_name}}, an agent that does tasks for people and for other agents. Do what the request asks,
with the tools you have where they help. Say what you do not know. Answer in plain text, the result first.
"""
_VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_MARK = "__meshwright_tool__"
"""The attribute that `@tool` sets on a function; models do not import `tools`, which has it."""
_OPENING = re.compile(r"\{[{%#]")


class CacheOptions(BaseModel):
    """How LiteLLM's programs configure a cache: whether this agent uses one, and which they expect."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool = False
    type: str | None = None
    ttl: float | None = None
    host: str | None = None
    port: int | None = None
    directory: str | None = None


class AgentOptions(BaseModel):
    """The options of an agent besides its model.

    `tools` are functions marked by `@tool` and toolsets; `max_budget` is what it may spend in all, in
    dollars; `cache=False` lets no cache answer it, and a dictionary is LiteLLM's: `enabled`, and `type` and
    `ttl` of the mesh's cache; `success_callback` are LiteLLM's functions, called after each call of a model
    with its cost; `params` go to its provider as they are. `instructions`
    may use {{agent_name}} and {{task}}; a prompt file of the agent's id is stronger. `timeout`
    bounds one attempt of a call, in seconds; `num_retries` are those after the first.
    """

    model_config = ConfigDict(extra="forbid")

    agent_id: str = ""
    instructions: str = _DEFAULT_INSTRUCTIONS
    tools: tuple[Any, ...] = ()
    capabilities: tuple[Any, ...] = ("general-query",)
    fallbacks: tuple[Any, ...] = ()
    max_budget: Any = None
    cache: Annotated[
        CacheOptions, BeforeValidator(lambda value: {"enabled": value} if isinstance(value, bool) else value)
    ] = CacheOptions(enabled=True)
    success_callback: tuple[Callable[..., None], ...] = ()
    tags: tuple[str, ...] = ("default",)
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=1024, ge=1)
    timeout: float | None = None
    num_retries: int | None = Field(default=None, ge=0, le=10)
    params: dict[str, Any] = {}


def router_class(base: type[_AgentT], models: object, **options: Any) -> type[_AgentT]:
    """Derive an agent from `base` that several models answer, the first that can. Raises ConfigError."""
    if isinstance(models, str) or not isinstance(models, Sequence):
        raise ConfigError(
            "create_router_agent takes a list of models", remedy='Write ["gpt-5.4", ...]', field="models"
        )
    if rules := options.get("fallbacks"):
        models, options["fallbacks"] = _in_order(models, rules)
    shared = next((name for name in options if name in CONNECTION), None)
    if shared is not None:
        remedy = f'Write it beside its model: {{"model": ..., "{shared}": ...}}'
        raise ConfigError(f"{shared} does not say which of the models it is for", remedy=remedy, field=shared)
    return agent_class(base, models[0] if models else "", **{"fallbacks": models[1:], **options})


def _in_order(models: Sequence[Any], rules: Any) -> tuple[Sequence[Any], Any]:
    """The models and fallbacks of a router, where `rules` are LiteLLM's: `[{"primary": ["fallback"]}]`.

    Raises ConfigError for a name that its `model_list` does not have.
    """
    is_list = all(isinstance(entry, Mapping) and "model_name" in entry for entry in models)
    if not models or not is_list or isinstance(rules, str) or not isinstance(rules, Sequence):
        return models, rules
    by_name = {entry["model_name"]: entry for entry in models}
    first = models[0]["model_name"]
    names = [name for rule in rules if isinstance(rule, Mapping) for name in rule.get(first, ())]
    if unknown := [name for name in names if name not in by_name]:
        problem = f"fallbacks: the model_list has no model_name {unknown[0]!r}"
        raise ConfigError(problem, remedy=f"There are {', '.join(by_name)}", field="fallbacks")
    return models[:1], [by_name[name] for name in names]


def agent_class(base: type[_AgentT], model: object, **options: Any) -> type[_AgentT]:
    """Derive an agent from `base` that is answered by a model named outright, or by a group.

    `options` are `AgentOptions` and LiteLLM's parameters of the model's connection and of its requests.
    Raises ConfigError for an option or a provider that is unknown; bare names and credentials are looked for
    when a mesh is built.
    """
    connection = {name: options.pop(name) for name in [*options] if name in CONNECTION | {"base_url"}}
    litellms = known_names()["litellm_params"] - AgentOptions.model_fields.keys()
    of_requests = [name for name in options if name in litellms and reserved_param([name]) is None]
    requested = {name: options.pop(name) for name in of_requests}
    wished = checked(AgentOptions, options, "create_agent", CONNECTION)
    primary = ModelSpec.parse(model, timeout=wished.timeout, **connection)
    others = [ModelSpec.parse(other, timeout=wished.timeout) for other in wished.fallbacks]
    name = primary.name
    agent_id = wished.agent_id or re.sub(r"[^A-Za-z0-9_-]+", "-", f"{name.rpartition('/')[2]}-agent")[-64:]
    settings: dict[str, Any] = {"model": name, "temperature": wished.temperature}
    settings |= {"max_tokens": wished.max_tokens, "tags": [*wished.tags]}
    settings |= {} if wished.cache.enabled else {"cache": False}
    capabilities = (Capability(one) if isinstance(one, str) else one for one in wished.capabilities)
    body = {
        "__doc__": f"Made of model {name}.",
        "agent_id": agent_id,
        "capabilities": tuple(capabilities),
        "model": name,
        "fallbacks": tuple(other.name for other in others),
        "model_specs": (primary, *others),
        "num_retries": wished.num_retries if primary.num_retries is None else primary.num_retries,
        "params": {**wished.params, **requested},
        "toolsets": tuple(tool for tool in wished.tools if inspect.isclass(tool)),
        "budgets": _parse_budgets(agent_id, wished.max_budget),
        "cache_options": wished.cache.model_dump(exclude_none=True),
        "success_callbacks": wished.success_callback,
        "prompt_text": prompt_text(wished.instructions, settings),
        **dict(_tool_method(tool) for tool in wished.tools if not inspect.isclass(tool)),
    }
    words = re.split(r"[-_]", agent_id)  # `release-agent` is ReleaseAgent
    return type("".join(word.title() for word in words) or "Agent", (base,), body)


def _tool_method(function: Any) -> tuple[str, staticmethod[..., Any]]:
    """A tool that is a function, as an agent's method. Raises ConfigError where it is no tool."""
    if not hasattr(function, _MARK):
        problem = f"{getattr(function, '__name__', repr(function))} is no tool"
        raise ConfigError(problem, remedy="put @tool above its definition", field="tools")
    method = staticmethod(function)
    setattr(method, _MARK, getattr(function, _MARK))
    return function.__name__, method


def _parse_budgets(agent_id: str, max_budget: Any) -> tuple[Budget, ...]:
    if max_budget is None:
        return ()
    try:
        limit = Decimal(repr(max_budget) if isinstance(max_budget, bool | float) else max_budget)  # as is
    except (InvalidOperation, TypeError, ValueError):
        limit = None
    if limit is None or not is_amount(limit):
        problem = f"max_budget: {max_budget!r} is no exact amount of dollars"
        raise ConfigError(problem, remedy='write it as text: max_budget="2.50"', field="max_budget")
    name = re.sub(r"[^a-z0-9]+", "-", f"agent-{agent_id.lower()}")[:63].rstrip("-")
    return (Budget(name=name, scope="agent", of=agent_id, limit_usd=limit, window="total"),)


def prompt_text(instructions: str, settings: dict[str, Any]) -> str:
    """Instructions as the text of a prompt file. Raises ConfigError where they hold what a prompt cannot."""
    opening = _OPENING.search(
        _VARIABLE.sub(lambda mark: "" if mark[1] in RUN_VARIABLES else mark[0], instructions)
    )
    if opening:
        problem = f"the instructions hold {opening[0]!r}, which begins a variable or a block"
        remedy = f"use only {', '.join('{{' + name + '}}' for name in RUN_VARIABLES)}"
        raise ConfigError(problem, remedy=remedy, field="instructions")
    used = set(_VARIABLE.findall(instructions))
    variables = [name for name in RUN_VARIABLES if name in used]
    lines = [f"{name}: {json.dumps(value)}" for name, value in {**settings, "variables": variables}.items()]
    return "\n".join(["---", *lines, "---", instructions.rstrip(), ""])
