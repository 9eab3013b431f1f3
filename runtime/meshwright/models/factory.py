"""Agents made of a model's name and a few wishes, with no file: what `create_agent` does."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from meshwright.core.capability import Capability
from meshwright.core.errors import ConfigError
from meshwright.core.ids import RUN_VARIABLES
from meshwright.core.limits import reserved_param
from meshwright.core.money import Budget, is_amount
from meshwright.models.config import known_names
from meshwright.models.named import CONNECTION, ModelSpec, checked

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


def _cache(value: Any) -> Any:
    return {"enabled": value} if isinstance(value, bool) else value


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
    cache: Annotated[CacheOptions, BeforeValidator(_cache)] = CacheOptions(enabled=True)
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
    requested = {name: options.pop(name) for name in [*options] if _is_of_requests(name)}
    wished = checked(AgentOptions, options, "create_agent", CONNECTION)
    primary = ModelSpec.of(model, timeout=wished.timeout, **connection)
    others = [ModelSpec.of(other, timeout=wished.timeout) for other in wished.fallbacks]
    name = primary.name
    agent_id = wished.agent_id or re.sub(r"[^A-Za-z0-9_-]+", "-", f"{name.rpartition('/')[2]}-agent")[-64:]
    settings: dict[str, Any] = {
        "model": name,
        "temperature": wished.temperature,
        "max_tokens": wished.max_tokens,
        "tags": [*wished.tags],
    }
    if not wished.cache.enabled:
        settings["cache"] = False
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
        "budgets": _budgets_of(agent_id, wished.max_budget),
        "cache_options": wished.cache.model_dump(exclude_none=True),
        "success_callbacks": wished.success_callback,
        "prompt_text": prompt_text(wished.instructions, settings),
        **dict(_method_of(tool) for tool in wished.tools if not inspect.isclass(tool)),
    }
    words = re.split(r"[-_]", agent_id)  # `release-agent` is ReleaseAgent
    return type("".join(word.title() for word in words) or "Agent", (base,), body)


def _is_of_requests(name: str) -> bool:
    """Whether LiteLLM has a parameter of requests of that name which authors may set."""
    is_litellms = name not in AgentOptions.model_fields and name in known_names()["litellm_params"]
    return is_litellms and reserved_param([name]) is None


def _method_of(function: Any) -> tuple[str, staticmethod[..., Any]]:
    """A tool that is a function, as an agent's method. Raises ConfigError where it is no tool."""
    if not hasattr(function, _MARK):
        problem = f"{getattr(function, '__name__', repr(function))} is no tool"
        raise ConfigError(problem, remedy="put @tool above its definition", field="tools")
    method = staticmethod(function)
    setattr(method, _MARK, getattr(function, _MARK))
    return function.__name__, method


def _budgets_of(agent_id: str, max_budget: Any) -> tuple[Budget, ...]:
    if max_budget is None:
        return ()
    try:
        limit = Decimal(repr(max_budget) if isinstance(max_budget, bool | float) else max_budget)
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
