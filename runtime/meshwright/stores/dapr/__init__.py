"""Actors on Dapr: a sidecar, a state store, a message broker, placement and scheduler. See docs/dapr.md."""

from meshwright.stores.dapr.sidecar import Options
from meshwright.stores.dapr.store import DaprStore

__all__ = ["DaprStore", "Options"]
