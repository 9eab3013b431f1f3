"""What a mesh on Dapr rests on, for one side: Redis, Mosquitto, placement, scheduler, and a daprd a worker.

All of it is started anew for each side, as `mesh up --host dapr` would start it, and is empty: every write is
on disk before it is acknowledged (`appendfsync always`). One run of a program is kept by nobody, so that a
benchmark can kill it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.sides import ROOT
from meshwright.core.errors import ServiceFailed
from meshwright.parts.stack.machine import Ports, find_program
from meshwright.parts.stack.services import (
    App,
    Backends,
    Service,
    daprd,
    mosquitto,
    new_secret,
    placement,
    redis,
    scheduler,
)
from meshwright.parts.stack.supervisor import Child, Log

COMPONENTS = ROOT / "components"
NAMESPACE = "bench"
APP_ID = "mesh"


def find(name: str) -> Path:
    """The path of a program; MESH_DAPR_BIN names the folder of Dapr's own. Raises ServiceFailed."""
    folder = os.environ.get("MESH_DAPR_BIN")
    return find_program(name, Path(folder) if folder else None)


def missing() -> str:
    """Why a benchmark on Dapr cannot run on this machine; empty where it can."""
    try:
        for name in ("redis-server", "mosquitto", "placement", "scheduler", "daprd"):
            find(name)
    except ServiceFailed as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Replica:
    """A worker's place: its sidecar, and what both are told."""

    app: App
    sidecar: Child


@dataclass(frozen=True)
class Ground:
    """What runs. `pids` are processes by the name of what they cost a task."""

    backends: Backends
    replicas: Sequence[Replica]
    pids: dict[str, list[int]]

    def place(self, number: int = 0) -> dict[str, Any]:
        """What the worker of that number has to know, as a side's argument."""
        app = asdict(self.replicas[number].app)
        return {"app": app, "broker_url": self.backends.broker_url, "pids": self.pids}


@asynccontextmanager
async def ground(
    folder: Path,
    *,
    workers: int = 1,
    protocol: str = "grpc",
    app_id: str = APP_ID,
    components: Path = COMPONENTS,
) -> AsyncIterator[Ground]:
    """Start everything in a folder, with a sidecar for each worker; all of it is gone at the end."""
    ports = Ports()
    async with AsyncExitStack() as stack:
        stack.callback(ports.close)

        async def start(service: Service) -> Child:
            log = Log(folder / "logs" / f"{service.name}.log")
            stack.callback(log.close)
            child = await Child.start(service, log)
            stack.push_async_callback(end, child)
            if not await child.works():
                raise ServiceFailed(f"{service.name} {child.ended}: {' '.join(list(log.tail)[-3:])}")
            return child

        password = new_secret()
        stores = {
            "redis": redis(find("redis-server"), ports, components, folder / "redis", password),
            "mosquitto": mosquitto(find("mosquitto"), ports, components, folder / "mosquitto", new_secret()),
            "placement": placement(find("placement"), ports),
            "scheduler": scheduler(find("scheduler"), ports, folder / "scheduler"),
        }
        children = await asyncio.gather(*map(start, stores.values()))
        backends = Backends(
            broker_url=stores["mosquitto"].address,
            redis_host=stores["redis"].address,
            redis_password=password,
            placement=stores["placement"].address,
            scheduler=stores["scheduler"].address,
        )
        apps = [_app(app_id, number, protocol, ports) for number in range(workers)]
        sidecars = await asyncio.gather(
            *(start(daprd(find("daprd"), ports, components, "mqtt", app, backends)) for app in apps)
        )
        pids = {name: [child.pid] for name, child in zip(stores, children, strict=True)}
        yield Ground(
            backends,
            [Replica(app, sidecar) for app, sidecar in zip(apps, sidecars, strict=True)],
            {"daprd": [sidecar.pid for sidecar in sidecars], **pids},
        )


def kill(pid: int) -> None:
    """Kill -9; nothing where it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def end(child: Child) -> None:
    """Kill -9, and wait: nothing that it holds is needed any more."""
    kill(child.pid)
    await child.wait()


def _app(app_id: str, number: int, protocol: str, ports: Ports) -> App:
    port, grpc_port, http_port = ports.take(3)
    return App(
        app_id=app_id,
        pod=f"{app_id}-{number}.{NAMESPACE}",
        namespace=NAMESPACE,
        protocol=protocol,
        port=port,
        grpc_port=grpc_port,
        http_port=http_port,
        api_token=new_secret(),
        app_token=new_secret(),
    )
