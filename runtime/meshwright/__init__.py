"""Meshwright: an event-driven mesh of LLM agents in one process, kept in one SQLite file.

These are the names for agents and their callers; `meshwright.component` has those for parts of a mesh. Each
is imported when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshwright.core import __version__

if TYPE_CHECKING:
    from meshwright.agents.agent import Agent
    from meshwright.agents.run.delegation import Delegation
    from meshwright.agents.run.run import Run
    from meshwright.agents.tools.tool import ToolContext, tool
    from meshwright.agents.tools.toolset import Toolset
    from meshwright.cli import run_mesh
    from meshwright.client import BlockingClient, Client
    from meshwright.core.capability import Capability
    from meshwright.core.checks import CheckResult
    from meshwright.core.errors import (
        LimitReached,
        MeshError,
        ModelError,
        TaskFailed,
        ToolFailed,
        WaitExpired,
    )
    from meshwright.core.events import Event
    from meshwright.core.files import File
    from meshwright.core.limits import Limits
    from meshwright.core.messages import Outcome, Receipt, Task, TaskRequest
    from meshwright.core.part import Part
    from meshwright.engine.work.people import Approval
    from meshwright.models.port import ChatMessage, ModelReply, ToolCall, ToolSpec
    from meshwright.parts.coding.agent import CodingAgent

HOMES = {
    "Agent": "agents.agent",
    "Approval": "engine.work.people",
    "BlockingClient": "client",
    "Capability": "core.capability",
    "CheckResult": "core.checks",
    "ChatMessage": "models.port",
    "Client": "client",
    "CodingAgent": "parts.coding.agent",
    "Delegation": "agents.run.delegation",
    "Event": "core.events",
    "File": "core.files",
    "LimitReached": "core.errors",
    "Limits": "core.limits",
    "MeshError": "core.errors",
    "ModelError": "core.errors",
    "ModelReply": "models.port",
    "Outcome": "core.messages",
    "Part": "core.part",
    "Receipt": "core.messages",
    "Run": "agents.run.run",
    "Task": "core.messages",
    "TaskFailed": "core.errors",
    "TaskRequest": "core.messages",
    "ToolCall": "models.port",
    "ToolContext": "agents.tools.tool",
    "ToolFailed": "core.errors",
    "ToolSpec": "models.port",
    "Toolset": "agents.tools.toolset",
    "WaitExpired": "core.errors",
    "run_mesh": "cli",
    "tool": "agents.tools.tool",
}
"""The module of each public name."""

__all__ = [
    "Agent",
    "Approval",
    "BlockingClient",
    "Capability",
    "ChatMessage",
    "CheckResult",
    "Client",
    "CodingAgent",
    "Delegation",
    "Event",
    "File",
    "LimitReached",
    "Limits",
    "MeshError",
    "ModelError",
    "ModelReply",
    "Outcome",
    "Part",
    "Receipt",
    "Run",
    "Task",
    "TaskFailed",
    "TaskRequest",
    "ToolCall",
    "ToolContext",
    "ToolFailed",
    "ToolSpec",
    "Toolset",
    "WaitExpired",
    "__version__",
    "create_agent",
    "create_router_agent",
    "run_mesh",
    "tool",
]


def create_agent(model: str | Mapping[str, Any], **options: Any) -> type[Agent]:
    """Make an agent class of a model's name: `create_agent("gpt-5.4", timeout=30, num_retries=3)`.

    Any name of LiteLLM's will do, a group, and `offline`. `options` are those of
    `models.named_models.AgentOptions`, LiteLLM's parameters of connections (`api_key`, `api_base`, ...), and
    those of requests (`top_p`, `seed`, ...). Raises ConfigError for an option or a provider that is unknown.
    """
    return import_module("meshwright.models.named_models").agent_class(__getattr__("Agent"), model, **options)


def create_router_agent(models: Sequence[str | Mapping[str, Any]], **options: Any) -> type[Agent]:
    """Make an agent class of several models: the first answers, and where it cannot the next.

    Each is a name, or `{"model": ..., "api_key": ...}` with other parameters of its connection.
    """
    return import_module("meshwright.models.named_models").router_class(
        __getattr__("Agent"), models, **options
    )


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'meshwright' has no attribute {name!r}")
    return getattr(import_module(f"meshwright.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
