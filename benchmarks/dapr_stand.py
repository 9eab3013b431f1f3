"""The mesh on Dapr that is measured: the one of `stand.py`, beside a sidecar that runs."""

from __future__ import annotations

from typing import Any

from benchmarks.stand import Stand, build_stand
from meshwright.core import topics
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.stores.dapr import DaprStore, Options
from meshwright.mesh.app import StoreDeps


def options_of(place: dict[str, Any]) -> Options:
    """A worker's place, as the host wants it."""
    app = place["app"]
    return Options(
        app_id=app["app_id"],
        replica=app["pod"],
        namespace=app["namespace"],
        grpc_port=app["grpc_port"],
        app_port=app["port"],
        channel=app["protocol"],
        api_token=app["api_token"],
        app_token=app["app_token"],
        broker_url=place["broker_url"],
    )


def build_dapr_stand(folder: str, place: dict[str, Any], *, front: bool = True, **known: Any) -> Stand:
    """Make the mesh of a worker; the `front` keeps the event log."""

    def runtime(deps: StoreDeps) -> Runtime:
        store = DaprStore(
            options_of(place),
            clock=deps.clock,
            log=deps.log,
            database=deps.database,
            keeps_log=front,
            taken_elsewhere=(topics.tasks("#"), topics.TASK_RESULTS),
        )
        return Runtime(store, clock=deps.clock, tracing=deps.tracing)

    return build_stand(folder, runtime=runtime, **known)
