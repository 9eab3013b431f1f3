"""The stack of a mesh on Dapr: what it rests on, then for each worker a sidecar and itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from meshwright.settings import Settings
from meshwright.stack.backends import given_backends, missing_backends
from meshwright.stack.checks import channel_of, check_backends, check_sidecar
from meshwright.stack.checks.files import check_files
from meshwright.stack.invocation import LLM_SERVICE, reaching_models
from meshwright.stack.ports import LOOPBACK, Ports, url_of
from meshwright.stack.programs import Programs, version_of
from meshwright.stack.recipes import EDGE_USER, daprd, worker
from meshwright.stack.services import App, Service, new_secret
from meshwright.stack.supervisor import Supervisor

MESH = "mesh"
"""The app that holds everything, where agents are not apart."""
KeyT = TypeVar("KeyT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Crew:
    """An app, and how many workers it has. The first of a `front` holds event log, API and MQTT edge."""

    app_id: str
    workers: int = 1
    front: bool = False


def one_app(workers: int) -> list[Crew]:
    """All agents in each worker of one app."""
    return [Crew(MESH, workers, front=True)]


def app_per_agent(agents: Sequence[str], workers: int) -> list[Crew]:
    """Each agent in an app of its own, and so the parts of the mesh."""
    apart = [Crew(name, workers) for name in ("orchestrator", "context-service", *agents)]
    return [*apart, Crew("event-logger", front=True)]


class Row(NamedTuple):
    """What runs where. `process` is empty for a service that was given by its address."""

    name: str
    address: str
    process: str


class Stack:
    """The services of one mesh. `tell` gets a line for each promise that is off.

    Raises ServiceFailed where a program is missing, ConfigError where a component file is wrong, both before
    anything is started; what its methods have started
    is the supervisor's to stop.
    """

    def __init__(
        self,
        settings: Settings,
        crews: Sequence[Crew],
        *,
        components: Path,
        ports: Ports,
        supervisor: Supervisor,
        tell: Callable[[str], None],
    ) -> None:
        check_files(components, settings.bus)
        programs = Programs(settings.dapr_bin)
        self._settings = settings
        self._crews = crews
        self._components = components
        self._ports = ports
        self._supervisor = supervisor
        self._tell = tell
        self._redis_password, self._edge_password = new_secret(), new_secret()
        self._daprd = programs.find("daprd")
        self._missing = missing_backends(
            settings,
            programs,
            ports,
            components,
            redis_password=self._redis_password,
            edge_password=self._edge_password,
        )
        self._channel, findings = channel_of(settings, version_of(self._daprd))
        self.backends = given_backends(settings)
        self._models = next((each for each in crews if each.app_id == LLM_SERVICE), front_of(crews))
        self._models_port = ports.take(1)[0]
        self.url = ""
        self._tell_all(findings)
        if self.backends.broker_url and not (settings.mqtt_url or settings.mqtt_username):
            tell("the MQTT edge logs in with the bus's user: set mqtt_username to one that cannot reach bus/")

    async def start_backends(self) -> None:
        """Start those of broker, store, placement and scheduler that are not given, and look at all of them.

        Raises ServiceFailed where one cannot be used.
        """

        async def start(field: str) -> str:
            [service] = await self._supervisor.start(lambda: [self._missing[field]()])
            return service.address

        addresses = await together({field: start(field) for field in self._missing})
        if "redis_host" in addresses:
            addresses["redis_password"] = self._redis_password
        self.backends = replace(self.backends, **addresses)
        self._tell_all(await check_backends(self._settings, self._components, self.backends))

    async def start_workers(self) -> None:
        """Start every worker with its sidecar; `url` is the API's then. Raises ServiceFailed."""
        workers = [(crew, number) for crew in self._crews for number in range(crew.workers)]
        await together({each: self._start_worker(*each) for each in workers})

    def rows(self) -> list[Row]:
        """What runs where, each after what it rests on."""
        known = given_backends(self._settings)
        addresses = (known.broker_url, known.redis_host, known.placement, known.scheduler)
        names = ("broker", "redis", "placement", "scheduler")
        given = [Row(name, shown(each), "") for name, each in zip(names, addresses, strict=True) if each]
        running = sorted(self._supervisor.running, key=lambda each: each[0].layer)
        return given + [Row(each.name, shown(each.address), str(pid)) for each, pid in running]

    def _tell_all(self, findings: Sequence[str]) -> None:
        for line in findings:
            self._tell(line)

    async def _start_worker(self, crew: Crew, number: int) -> None:
        sidecar, started = await self._supervisor.start(lambda: self._pair(crew, number))
        if crew.front and number == 0:
            self._tell_all(await check_sidecar(sidecar))
            self.url = started.address

    def _pair(self, crew: Crew, number: int) -> tuple[Service, Service]:
        """A sidecar and its worker, on ports of their own."""
        settings, name = self._settings, f"{crew.app_id}-{number}"
        port, grpc_port, http_port = self._ports.take(3)
        front = crew.front and number == 0
        app = App(
            app_id=crew.app_id,
            pod=f"{name}.{settings.namespace}",
            namespace=settings.namespace,
            protocol=self._channel,
            port=port,
            grpc_port=grpc_port,
            http_port=http_port,
            api_token=new_secret(),
            app_token=new_secret(),
        )
        edge = self._edge_options() if front else {}
        options = {
            **edge,
            "MESH_HOST": "dapr",
            "MESH_DATA_DIR": str(settings.data_dir.absolute() / name),
            "MESH_NAMESPACE": settings.namespace,
            "MESH_BUS": settings.bus,
            "MESH_DAPR_CHANNEL": self._channel,
            "MESH_ACCEPT_LOSS": str(settings.accept_loss),
        }
        if front or (crew is self._models and number == 0):
            options |= serving_options(settings)
        sidecar = daprd(self._daprd, self._ports, self._components, settings.bus, app, self.backends)
        listen = self._listen(crew, number)
        return (
            reaching_models(sidecar, settings.data_dir.absolute(), url_of(self._listen(self._models, 0))),
            worker(
                name,
                app,
                self.backends,
                options,
                listen,
                replica=crew.front and not front,
                silent_seconds=settings.loop_restart_seconds,
            ),
        )

    def _edge_options(self) -> dict[str, str]:
        """Where the MQTT edge finds its clients: at the broker of the bus, unless the settings name another.

        At a broker that was started here it has a user of its own, which the bus is closed to.
        """
        settings, broker_url = self._settings, self.backends.broker_url
        if settings.mqtt_url or not broker_url:
            return {"MESH_MQTT_URL": settings.mqtt_url} if settings.mqtt_url else {}
        where = urlsplit(broker_url)
        user, password = unquote(where.username or ""), unquote(where.password or "")
        if "broker_url" in self._missing:
            user, password = EDGE_USER, self._edge_password
        elif settings.mqtt_username:
            user = settings.mqtt_username
            password = settings.mqtt_password.get_secret_value() if settings.mqtt_password else ""
        return {
            "MESH_MQTT_URL": shown(broker_url),
            "MESH_MQTT_USERNAME": user,
            "MESH_MQTT_PASSWORD": password,
        }

    def _listen(self, crew: Crew, number: int) -> tuple[str, int]:
        """Where a worker serves HTTP. Where models are offered is known before any worker starts."""
        offers_models = crew is self._models and number == 0
        port = self._models_port if offers_models else self._ports.take(1)[0]
        if crew.front and number == 0:
            return self._settings.listen_host, self._settings.listen_port or port
        return LOOPBACK, port


def serving_options(settings: Settings) -> dict[str, str]:
    """What a worker that serves HTTP has to know of the settings of `mesh up`."""
    token = settings.admin_token
    return {
        "MESH_INSECURE": str(settings.insecure).lower(),
        **({} if token is None else {"MESH_ADMIN_TOKEN": token.get_secret_value()}),
    }


def front_of(crews: Sequence[Crew]) -> Crew:
    """The crew whose first worker serves the API."""
    return next(each for each in crews if each.front)


async def together(starts: Mapping[KeyT, Coroutine[None, None, ResultT]]) -> dict[KeyT, ResultT]:
    """Do several things at once. The first error ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(start) for name, start in starts.items()}
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return {name: task.result() for name, task in tasks.items()}


def shown(address: str) -> str:
    """An address without its password."""
    where = urlsplit(address)
    return f"{where.scheme}://{where.netloc.rpartition('@')[2]}" if "@" in where.netloc else address
