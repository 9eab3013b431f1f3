"""Test tools for authors of agents: a mesh in memory, a scripted model, and a clock to move by hand.

Each name is imported when it is first used, so that pytest starts no slower for them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshwright.engine.stores.memory import Faults
    from meshwright.testing.mesh import (
        Events,
        ManualClock,
        MeshUnderTest,
        ScriptedModel,
        ScriptEnded,
        memory_runtime,
        mesh_for,
        tool_call,
    )

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
    if name not in __all__:
        raise AttributeError(f"module 'meshwright.testing' has no attribute {name!r}")
    return getattr(import_module("meshwright.testing.mesh"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
