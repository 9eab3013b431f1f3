"""Actors on Dapr: a sidecar, a state store, a message broker, placement and scheduler. See docs/dapr.md."""

import os

# gRPC reads it when it is imported. Its handlers of forks crash some of the programs that uvloop starts, such
# as git, before they begin.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from meshwright.engine.stores.dapr.sidecar import Options
from meshwright.engine.stores.dapr.store import DaprStore

__all__ = ["DaprStore", "Options"]
