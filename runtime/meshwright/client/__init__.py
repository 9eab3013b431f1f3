"""One client for a mesh: over HTTP, or on a mesh in this process; async, or blocking."""

from meshwright.client.blocking import BlockingClient
from meshwright.client.calls import TaskCalls, TaskFields
from meshwright.client.client import ENDINGS, Client, Completion, EventFields
from meshwright.client.transports import MeshUnreachable

__all__ = [
    "ENDINGS",
    "BlockingClient",
    "Client",
    "Completion",
    "EventFields",
    "MeshUnreachable",
    "TaskCalls",
    "TaskFields",
]
