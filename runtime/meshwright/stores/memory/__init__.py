"""A store in memory, for tests, and the faults that it brings about on request."""

from meshwright.stores.memory.faults import DisturbedMail, Faults
from meshwright.stores.memory.store import MemoryData, MemoryStore

__all__ = ["DisturbedMail", "Faults", "MemoryData", "MemoryStore"]
