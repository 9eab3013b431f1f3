"""Agents made of a model's name and a few wishes, with no file: what `create_agent` does."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from meshwright.core.capability import Capability
from meshwright.core.errors import ConfigError
from meshwright.core.money import Budget, is_amount
from meshwright.models.providers import current, provider_of

_AgentT = TypeVar("_AgentT")
_DEFAULT_INSTRUCTIONS = """\
You are {{agent_name}}, an agent that does tasks for people and for other agents. Do what the request asks,
with the tools you have where they help. Say what you do not know. Answer in plain text, the result first.
"""
_CONTEXT = "{{context}}"
VARIABLES = ("agent_name", "task", "context")
_VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_MARK = "__meshwright_tool__"
"""What `@tool` leaves on a function; `tools` has it, which models know nothing of."""
_OPENING = re.compile(r"\{[{%#]")


def agent_class(
    base: type[_AgentT],
    model: str,
    *,
    agent_id: str = "",
    instructions: str = _DEFAULT_INSTRUCTIONS,
    tools: Sequence[Callable[..., Any] | type] = (),
    capabilities: Sequence[Capability | str] = ("general-query",),
    fallbacks: Sequence[str] = (),
    max_budget: Decimal | str | int | None = None,
    cache: bool = True,
    tags: Sequence[str] = ("default",),
    temperature: float = 0.0,
    max_tokens: int = 1024,
    params: Mapping[str, Any] | None = None,
) -> type[_AgentT]:
    """Derive an agent from `base` that is answered by a model named outright.

    `tools` are functions marked by `@tool` and toolsets; `max_budget` is what it may spend in all, in
    dollars; `cache=False` lets no cache answer it; `params` go to its provider as they are. `instructions`
    may use {{agent_name}}, {{task}} and {{context}}; a prompt file of the agent's id is stronger. `model` may
    also be a group. Raises ConfigError for a provider that is unknown; bare names and credentials are looked
    for when a mesh is built.
    """
    for name in (model, *fallbacks):
        if not name or "/" in current(name):  # a bare name may be a group, which a mesh alone can know
            provider_of(name)
    agent_id = agent_id or re.sub(r"[^A-Za-z0-9_-]+", "-", f"{model.rpartition('/')[2]}-agent")[-64:]
    settings = {"model": model, "temperature": temperature, "max_tokens": max_tokens, "tags": list(tags)}
    named = (each if isinstance(each, Capability) else Capability(each) for each in capabilities)
    body = {
        "__doc__": f"Made of model {model}.",
        "agent_id": agent_id,
        "capabilities": tuple(named),
        "model": model,
        "fallbacks": tuple(fallbacks),
        "params": dict(params or {}),
        "toolsets": tuple(each for each in tools if inspect.isclass(each)),
        "budgets": _budgets_of(agent_id, max_budget),
        "prompt_text": prompt_text(instructions, settings if cache else {**settings, "cache": False}),
        **{each.__name__: _method_of(each) for each in tools if not inspect.isclass(each)},
    }
    words = re.split(r"[-_]", agent_id)  # `release-agent` is ReleaseAgent
    return type("".join(word.title() for word in words) or "Agent", (base,), body)


def _method_of(function: Callable[..., Any]) -> staticmethod[..., Any]:
    """A tool that is a function, as an agent's method. Raises ConfigError for one that is no tool."""
    if not hasattr(function, _MARK):
        raise ConfigError(
            f"{function.__name__} is no tool", remedy="put @tool above its definition", field="tools"
        )
    method = staticmethod(function)
    setattr(method, _MARK, getattr(function, _MARK))
    return method


def _budgets_of(agent_id: str, max_budget: Decimal | str | int | None) -> tuple[Budget, ...]:
    """The hard budget of one agent, over all time. Raises ConfigError for what is no exact amount."""
    if max_budget is None:
        return ()
    try:
        limit = None if isinstance(max_budget, float) else Decimal(max_budget)
    except InvalidOperation:
        limit = None
    if limit is None or not is_amount(limit):
        raise ConfigError(
            f"max_budget: {max_budget!r} is no exact amount of dollars",
            remedy='write it as text: max_budget="2.50"',
            field="max_budget",
        )
    name = re.sub(r"[^a-z0-9]+", "-", f"agent-{agent_id.lower()}")[:63].rstrip("-")
    return (Budget(name=name, scope="agent", of=agent_id, limit_usd=limit, window="total"),)


def prompt_text(instructions: str, settings: dict[str, Any]) -> str:
    """Instructions as the text of a prompt file; the context goes below them where they do not place it.

    Raises ConfigError where they hold what a prompt cannot.
    """
    found = _OPENING.search(_VARIABLE.sub(lambda mark: "" if mark[1] in VARIABLES else mark[0], instructions))
    if found:
        raise ConfigError(
            f"the instructions hold {found[0]!r}, which begins a variable or a block",
            remedy=f"use only {', '.join('{{' + name + '}}' for name in VARIABLES)}",
            field="instructions",
        )
    used = set(_VARIABLE.findall(instructions))
    text = instructions if "context" in used else f"{instructions.rstrip()}\n\n{_CONTEXT}"
    variables = [name for name in VARIABLES if name in used | {"context"}]
    lines = [f"{name}: {json.dumps(value)}" for name, value in {**settings, "variables": variables}.items()]
    return "\n".join(["---", *lines, "---", text, ""])
