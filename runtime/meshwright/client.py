"""One client for a mesh: over HTTP, or on a mesh in this process; async, or blocking."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshwright.edges.client.blocking import BlockingClient
from meshwright.edges.client.calls import TaskCalls, TaskFields
from meshwright.edges.client.client import ENDINGS, Client, Completion, EventFields
from meshwright.edges.client.transports import ClientClosed, MeshUnreachable

if TYPE_CHECKING:
    from meshwright.parts.agent_config.client import AgentConfigClient

__all__ = [
    "ENDINGS",
    "AgentConfigClient",
    "BlockingClient",
    "Client",
    "ClientClosed",
    "Completion",
    "EventFields",
    "MeshUnreachable",
    "TaskCalls",
    "TaskFields",
]


def __getattr__(name: str) -> Any:
    if name != "AgentConfigClient":  # it needs a part that most callers do not
        raise AttributeError(f"module 'meshwright.client' has no attribute {name!r}")
    return import_module("meshwright.parts.agent_config.client").AgentConfigClient
