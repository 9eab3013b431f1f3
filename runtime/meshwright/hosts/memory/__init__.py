"""Actors in memory: the port's executable definition, and the host of tests."""

from meshwright.hosts.memory.faults import Faults
from meshwright.hosts.memory.host import MemoryHost
from meshwright.hosts.memory.store import Store

__all__ = ["Faults", "MemoryHost", "Store"]
