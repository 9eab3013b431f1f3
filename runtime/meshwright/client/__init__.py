"""One client for a mesh: over HTTP, or on a mesh in this process; async, or blocking."""

from meshwright.client.blocking import BlockingClient
from meshwright.client.client import ENDINGS, Client, Completion, EventFields, TaskFields
from meshwright.client.transports import MeshUnreachable

__all__ = [
    "ENDINGS",
    "BlockingClient",
    "Client",
    "Completion",
    "EventFields",
    "MeshUnreachable",
    "TaskFields",
]
