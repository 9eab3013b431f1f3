"""Meshwright: an event-driven mesh of LLM agents in one process, kept in one SQLite file.

The public names. Each is imported when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshwright.actor import Actor, Turn, turn
    from meshwright.agent import Agent
    from meshwright.assembly import build_mesh
    from meshwright.capability import Capability
    from meshwright.envelope import ActorRef
    from meshwright.errors import MeshError, ToolFailed
    from meshwright.mesh import Mesh
    from meshwright.messages import Event, Outcome, Receipt, Task, TaskRequest
    from meshwright.run import Run
    from meshwright.settings import Settings, load_settings
    from meshwright.tools.tool import ToolContext, tool
    from meshwright.tools.toolset import Toolset

__version__ = "0.1.0"

HOMES = {
    "Actor": "actor",
    "ActorRef": "envelope",
    "Agent": "agent",
    "Capability": "capability",
    "Event": "messages",
    "Mesh": "mesh",
    "MeshError": "errors",
    "Outcome": "messages",
    "Receipt": "messages",
    "Run": "run",
    "Settings": "settings",
    "Task": "messages",
    "TaskRequest": "messages",
    "ToolContext": "tools.tool",
    "ToolFailed": "errors",
    "Toolset": "tools.toolset",
    "Turn": "actor",
    "build_mesh": "assembly",
    "load_settings": "settings",
    "tool": "tools.tool",
    "turn": "actor",
}
"""Where each public name lives."""

__all__ = [
    "Actor",
    "ActorRef",
    "Agent",
    "Capability",
    "Event",
    "Mesh",
    "MeshError",
    "Outcome",
    "Receipt",
    "Run",
    "Settings",
    "Task",
    "TaskRequest",
    "ToolContext",
    "ToolFailed",
    "Toolset",
    "Turn",
    "__version__",
    "build_mesh",
    "load_settings",
    "tool",
    "turn",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'meshwright' has no attribute {name!r}")
    return getattr(import_module(f"meshwright.{HOMES[name]}"), name)
