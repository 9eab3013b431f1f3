"""Warns about keys with which the code of agents may call providers past the mesh."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from types import ModuleType
from typing import Any

from meshwright.agents.agent import Agent

_KEYS = (
    *("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "AZURE_OPENAI_API_KEY"),
    *("MISTRAL_API_KEY", "GROQ_API_KEY", "DEEPSEEK_API_KEY", "OPENROUTER_API_KEY"),
)
"""Variables in which the SDKs of providers look for a key by themselves."""
_LIBRARIES = (
    *("openai", "anthropic", "pydantic_ai", "langchain_openai", "langchain_anthropic", "langgraph"),
    *("agent_framework", "google.adk", "crewai", "smolagents", "litellm"),
)
"""Packages that call a provider with a key of their own where their user gives them no client."""


def key_warnings(
    agents: Iterable[type[Agent]], environment: Mapping[str, str], keys_of_mesh: Collection[str]
) -> list[str]:
    """A warning where agents use a framework, and find a provider's key that the mesh itself does not use.

    Agents without a `run` of their own call no framework. The imports of an agent's module are what is
    known of it: a framework that it imports later is not seen.
    """
    keys = [name for name in _KEYS if environment.get(name) and name not in keys_of_mesh]
    if not keys:
        return []
    users = [(agent.agent_id, library) for agent in agents if (library := _imported_library(agent))]
    if not users:
        return []
    names = ", ".join(f"{agent_id} ({library})" for agent_id, library in users)
    return [
        f"{' and '.join(keys)} in the environment may let {names} call a provider past the mesh: such a call "
        "is in no ledger, budget or journal. Start the mesh without it"
    ]


def _imported_library(agent: type[Agent]) -> str:
    """The first of the libraries that the module of an agent with a `run` of its own has imported."""
    module = sys.modules.get(agent.__module__)
    if agent.run is Agent.run or module is None:
        return ""
    names = [_origin_module(value) for value in vars(module).values()]
    return next((library for library in _LIBRARIES if any(_is_in(name, library) for name in names)), "")


def _origin_module(value: Any) -> str:
    return value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", ""))


def _is_in(name: str, library: str) -> bool:
    return name == library or name.startswith(f"{library}.")
