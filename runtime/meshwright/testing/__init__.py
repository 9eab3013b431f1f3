"""What an agent's author tests with: a mesh in memory, a scripted model, and a clock to move by hand.

Each name is imported when it is first used, so that pytest starts no slower for them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshwright.stores.memory import Faults
    from meshwright.testing.clock import ManualClock
    from meshwright.testing.mesh import Events, MeshUnderTest, mesh_for
    from meshwright.testing.model import ScriptedModel, ScriptEnded, tool_call
    from meshwright.testing.runtime import memory_runtime

HOMES = {
    "Events": "testing.mesh",
    "Faults": "stores.memory",
    "ManualClock": "testing.clock",
    "MeshUnderTest": "testing.mesh",
    "ScriptEnded": "testing.model",
    "ScriptedModel": "testing.model",
    "memory_runtime": "testing.runtime",
    "mesh_for": "testing.mesh",
    "tool_call": "testing.model",
}
"""Where each name lives."""

__all__ = [
    "Events",
    "Faults",
    "ManualClock",
    "MeshUnderTest",
    "ScriptEnded",
    "ScriptedModel",
    "memory_runtime",
    "mesh_for",
    "tool_call",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'meshwright.testing' has no attribute {name!r}")
    return getattr(import_module(f"meshwright.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
