"""Meshwright: an event-driven mesh of LLM agents in one process, kept in one SQLite file.

The public names. Each is imported when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshwright.core import __version__

if TYPE_CHECKING:
    from meshwright.agent import Agent
    from meshwright.app import build_mesh
    from meshwright.cli import run_mesh
    from meshwright.client import BlockingClient, Client
    from meshwright.component import Actors, Check, Component, Pages
    from meshwright.core.capability import Capability
    from meshwright.core.display import Column, EventWords, Resource, Verb
    from meshwright.core.errors import LimitReached, MeshError, ModelError, ToolFailed, WaitExpired
    from meshwright.core.files import File
    from meshwright.core.limits import Limits
    from meshwright.core.messages import Event, Outcome, Receipt, Task, TaskRequest
    from meshwright.kernel.actor import Actor, Turn, turn
    from meshwright.kernel.envelope import ActorRef
    from meshwright.mesh import Mesh
    from meshwright.models.named import ModelSettings, open_model, with_fallbacks
    from meshwright.orchestration.tasks import Tasks
    from meshwright.run import Run
    from meshwright.run.context import Delegation
    from meshwright.settings import Settings, load_settings
    from meshwright.tools.tool import ToolContext, tool
    from meshwright.tools.toolset import Toolset
    from meshwright.work.people import Approval

HOMES = {
    "Actor": "kernel.actor",
    "ActorRef": "kernel.envelope",
    "Actors": "component",
    "Agent": "agent",
    "Approval": "work.people",
    "BlockingClient": "client",
    "Capability": "core.capability",
    "Check": "component",
    "Client": "client",
    "Column": "core.display",
    "Component": "component",
    "Delegation": "run.context",
    "Event": "core.messages",
    "EventWords": "core.display",
    "File": "core.files",
    "LimitReached": "core.errors",
    "Limits": "core.limits",
    "Mesh": "mesh",
    "MeshError": "core.errors",
    "ModelError": "core.errors",
    "ModelSettings": "models.named",
    "Outcome": "core.messages",
    "Pages": "component",
    "Receipt": "core.messages",
    "Resource": "core.display",
    "Run": "run",
    "Settings": "settings",
    "Task": "core.messages",
    "Tasks": "orchestration.tasks",
    "TaskRequest": "core.messages",
    "ToolContext": "tools.tool",
    "ToolFailed": "core.errors",
    "Toolset": "tools.toolset",
    "Turn": "kernel.actor",
    "Verb": "core.display",
    "WaitExpired": "core.errors",
    "build_mesh": "app",
    "load_settings": "settings",
    "open_model": "models.named",
    "run_mesh": "cli",
    "tool": "tools.tool",
    "turn": "kernel.actor",
    "with_fallbacks": "models.named",
}
"""The module of each public name."""

__all__ = [
    "Actor",
    "ActorRef",
    "Actors",
    "Agent",
    "Approval",
    "BlockingClient",
    "Capability",
    "Check",
    "Client",
    "Column",
    "Component",
    "Delegation",
    "Event",
    "EventWords",
    "File",
    "LimitReached",
    "Limits",
    "Mesh",
    "MeshError",
    "ModelError",
    "ModelSettings",
    "Outcome",
    "Pages",
    "Receipt",
    "Resource",
    "Run",
    "Settings",
    "Task",
    "TaskRequest",
    "Tasks",
    "ToolContext",
    "ToolFailed",
    "Toolset",
    "Turn",
    "Verb",
    "WaitExpired",
    "__version__",
    "build_mesh",
    "create_agent",
    "create_router_agent",
    "load_settings",
    "open_model",
    "run_mesh",
    "tool",
    "turn",
    "with_fallbacks",
]


def create_agent(model: str | Mapping[str, Any], **options: Any) -> type[Agent]:
    """Make an agent class of a model's name: `create_agent("gpt-5.4", timeout=30, num_retries=3)`.

    Any name of LiteLLM's will do, a group, and `offline`. `options` are those of
    `models.factory.AgentOptions`, LiteLLM's parameters of connections (`api_key`, `api_base`, ...), and those
    of requests (`top_p`, `seed`, ...). Raises ConfigError for an option or a provider that is unknown.
    """
    return import_module("meshwright.models.factory").agent_class(__getattr__("Agent"), model, **options)


def create_router_agent(models: Sequence[str | Mapping[str, Any]], **options: Any) -> type[Agent]:
    """Make an agent class of several models: the first answers, and where it cannot the next.

    Each is a name, or `{"model": ..., "api_key": ...}` with other parameters of its connection.
    """
    return import_module("meshwright.models.factory").router_class(__getattr__("Agent"), models, **options)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'meshwright' has no attribute {name!r}")
    return getattr(import_module(f"meshwright.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
